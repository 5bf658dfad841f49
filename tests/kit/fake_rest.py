# SPDX-License-Identifier: Apache-2.0
"""One change on a Gerrit that exists only as an httpx transport: REST without a socket."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from ci.gerrit.rest import GerritRest
from ci.layout import Connection, SecretRef

REVISIONS = ("0" * 39 + "1", "0" * 39 + "2", "0" * 39 + "3")
CI = "hypervouch-ci"
DATE = "Sun, 22 Nov 2026 15:28:08 GMT"


def settings(url: str = "https://review.example.org") -> Connection:
    """A connection to nowhere."""
    return Connection(
        name="review",
        server="review.example.org",
        user=CI,
        key_file=Path("key"),
        known_hosts=Path("known_hosts"),
        url=url,
        password=SecretRef(from_env="NOWHERE"),
    )


def reply(value: object, status: int = 200) -> httpx.Response:
    """An answer as Gerrit writes it."""
    return httpx.Response(status, text=")]}'\n" + json.dumps(value), headers={"date": DATE})


def client(handler: Callable[[httpx.Request], httpx.Response]) -> GerritRest:
    """A client whose requests go to a function."""
    return GerritRest(settings(), "secret", transport=httpx.MockTransport(handler))


@dataclass(kw_only=True)
class FakeChange:
    """Change 7 of project `hv/demo`, answering detail and review.

    Attributes:
        status: As Gerrit calls it.
        current: Number of its newest patch set, 1 to 3.
        permitted: What the CI may vote per label; a label that is missing does not exist.
        restricted: Labels that the CI may not vote on: 403, as Gerrit does.
        votes: The CI's votes.
        messages: As detail shows them.
        posted: Bodies of the reviews that were taken.
        fail: Status per request in turn, None for an ordinary answer; then all are ordinary.
        lose_answers: So many reviews are taken and then answered by a broken line.
        deleted: It is gone.
        readable: The project can be seen.
    """

    status: str = "NEW"
    current: int = 2
    permitted: dict[str, tuple[int, int]] = field(default_factory=lambda: {"Verified": (-1, 1)})
    restricted: set[str] = field(default_factory=set)
    votes: dict[str, int] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    posted: list[dict[str, Any]] = field(default_factory=list)
    fail: list[int | None] = field(default_factory=list)
    lose_answers: int = 0
    deleted: bool = False
    readable: bool = True

    def rest(self) -> GerritRest:
        """A client that talks to it."""
        return client(self.answer)

    def answer(self, request: httpx.Request) -> httpx.Response:
        """Handle one request."""
        status = self.fail.pop(0) if self.fail else None
        if status is not None:
            return httpx.Response(status, text="no")
        path = request.url.raw_path.decode().partition("?")[0]
        if path == "/a/projects/hv%2Fdemo" and self.readable:
            return reply({"id": "hv%2Fdemo"})
        if path == "/a/changes/hv%2Fdemo~7/detail" and not self.deleted:
            return reply(self._detail())
        for number, revision in enumerate(REVISIONS[: self.current], 1):
            if path == f"/a/changes/hv%2Fdemo~7/revisions/{revision}/review":
                return self._review(number, json.loads(request.content))
        return httpx.Response(404, text=f"Not found: {path}")

    def _detail(self) -> dict[str, Any]:
        names = {*self.permitted, *self.restricted}
        return {
            "status": self.status,
            "current_revision": REVISIONS[self.current - 1],
            "revisions": {REVISIONS[self.current - 1]: {"_number": self.current}},
            "messages": self.messages,
            "labels": {
                name: {"all": [{"username": CI, "value": self.votes.get(name, 0)}]}
                for name in names
            },
            "permitted_labels": {
                name: [f"{value:+d}" for value in range(low, high + 1)]
                for name, (low, high) in self.permitted.items()
            },
        }

    def _review(self, number: int, body: dict[str, Any]) -> httpx.Response:
        if self.refuses(body):
            return httpx.Response(403, text='Applying label "Verified": 1 is restricted')
        taken = self.take(number, body)
        if self.lose_answers:
            self.lose_answers -= 1
            raise httpx.ReadError("the line broke")
        return reply({"labels": taken} if taken else {})

    def refuses(self, body: dict[str, Any]) -> bool:
        """Whether a review votes where the CI has no right to."""
        return any(name in self.restricted for name in body["labels"])

    def take(self, number: int, body: dict[str, Any]) -> dict[str, int]:
        """Keep a review of a patch set; returns the labels that were taken."""
        taken = {
            name: value
            for name, value in body["labels"].items()
            if name in self.permitted
            and self.permitted[name][0] <= value <= self.permitted[name][1]
        }
        if number == self.current:
            self.votes.update(taken)
        self.posted.append(body)
        head = "".join(f" {name}{value:+d}" for name, value in taken.items())
        self.messages.append(
            {
                "id": str(len(self.messages)),
                "tag": body["tag"],
                "author": {"username": CI},
                "date": "2026-11-22 15:28:04.000000000",
                "message": f"Patch Set {number}:{head}\n\n{body['message']}",
                "_revision_number": number,
            }
        )
        return taken
