# SPDX-License-Identifier: Apache-2.0
"""What an account does to changes by REST: comment, vote, abandon, mark, merge, and look.

Works against any server that speaks Gerrit's REST, the real one and the sandbox.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ci.sandbox.account import ReviewServer


@dataclass(frozen=True, kw_only=True)
class PushedChange:
    """One patch set as it was pushed."""

    project: str
    branch: str
    number: int
    change_id: str
    patchset: int
    revision: str
    subject: str
    body: str = ""
    footers: tuple[str, ...] = ()

    @property
    def ref(self) -> str:
        """Where the server keeps the patch set."""
        return f"refs/changes/{self.number % 100:02d}/{self.number}/{self.patchset}"

    @property
    def id(self) -> str:
        """The change in a REST path; unlike a bare number it needs no search index."""
        return f"{quote(self.project, safe='')}~{self.number}"


class Reviewer:
    """One account at work. A change's owner and administrators may do more than others.

    Args:
        server: The server, seen by the account.
    """

    def __init__(self, server: ReviewServer) -> None:
        self.server = server

    def review(
        self,
        change: PushedChange,
        message: str,
        *,
        labels: Mapping[str, int] | None = None,
        patchset: int | None = None,
        tag: str | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> Any:
        """Comment and vote by REST as this account; returns the server's reply."""
        body: dict[str, object] = {"message": message, "labels": dict(labels or {})}
        if tag is not None:
            body["tag"] = tag
        revision = change.patchset if patchset is None else patchset
        return self.server.rest(
            "POST",
            f"/changes/{change.id}/revisions/{revision}/review",
            body | dict(extra or {}),
        )

    def vote(
        self, change: PushedChange, label: str, value: int, *, by: ReviewServer | None = None
    ) -> Any:
        """Vote on the change's patch set; as this account, or as another one."""
        voter = Reviewer(by) if by is not None else self
        return voter.review(change, "", labels={label: value})

    def comment(self, change: PushedChange, text: str) -> Any:
        """Say something on the change's patch set, for instance `recheck`."""
        return self.review(change, text)

    def abandon(self, change: PushedChange, reason: str = "") -> Any:
        """Abandon the change."""
        return self._ask("POST", change, "/abandon", {"message": reason})

    def restore(self, change: PushedChange, reason: str = "") -> Any:
        """Take an abandoned change up again."""
        return self._ask("POST", change, "/restore", {"message": reason})

    def delete_vote(self, change: PushedChange, label: str, *, of: str) -> None:
        """Take somebody's vote away."""
        self._ask("DELETE", change, f"/reviewers/{quote(of)}/votes/{quote(label)}")

    def add_reviewer(self, change: PushedChange, username: str) -> Any:
        """Ask somebody to review."""
        return self._ask("POST", change, "/reviewers", {"reviewer": username})

    def wip(self, change: PushedChange, reason: str = "") -> None:
        """Mark the change as work in progress."""
        self._ask("POST", change, "/wip", {"message": reason})

    def ready(self, change: PushedChange, reason: str = "") -> None:
        """Mark the change as ready for review."""
        self._ask("POST", change, "/ready", {"message": reason})

    def private(self, change: PushedChange, *, on: bool = True) -> None:
        """Hide the change from all but its reviewers, or show it again."""
        if on:
            self._ask("POST", change, "/private", {})
        else:
            self._ask("DELETE", change, "/private")

    def topic(self, change: PushedChange, topic: str) -> None:
        """Give the change a topic; an empty one takes it away."""
        self._ask("PUT", change, "/topic", {"topic": topic})

    def hashtags(
        self, change: PushedChange, *, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> list[str]:
        """Add and remove hashtags; returns those that it has then, sorted."""
        body = {"add": list(add), "remove": list(remove)}
        return sorted(self._ask("POST", change, "/hashtags", body))

    def delete(self, change: PushedChange) -> None:
        """Delete the change for good."""
        self._ask("DELETE", change, "")

    def page(self, change: PushedChange) -> str:
        """The change's address, as a `Depends-On:` footer names it."""
        return f"{self.server.url}/c/{change.project}/+/{change.number}"

    def _ask(self, method: str, change: PushedChange, path: str, body: object = None) -> Any:
        return self.server.rest(method, f"/changes/{change.id}{path}", body)

    def submit(self, change: PushedChange) -> Any:
        """Merge the change; an administrator's Code-Review+2 comes with it."""
        self.review(change, "", labels={"Code-Review": 2})
        return self._ask("POST", change, "/submit", {})

    def detail(self, change: PushedChange) -> Any:
        """The change as REST shows it, with labels, messages and current revision."""
        return self._ask("GET", change, "/detail?o=CURRENT_REVISION")

    def votes(self, change: PushedChange, label: str = "Verified") -> dict[str, int]:
        """Who voted what on the current patch set; zeros are left out."""
        given = self.detail(change)["labels"].get(label, {}).get("all", [])
        return {one["username"]: one["value"] for one in given if one.get("value", 0) != 0}

    def messages(
        self, change: PushedChange, *, tag: str | None = None, author: str | None = None
    ) -> list[dict[str, Any]]:
        """The change's messages, oldest first; only those with this tag or by this author."""
        return [
            one
            for one in self.detail(change)["messages"]
            if (tag is None or one.get("tag") == tag)
            and (author is None or one.get("author", {}).get("username") == author)
        ]
