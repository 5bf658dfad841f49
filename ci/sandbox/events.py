# SPDX-License-Identifier: Apache-2.0
"""The event stream: who follows it, and the events that are sent."""

import json
import queue
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

from ci.sandbox.records import ChangeRecord, PatchSetRecord
from ci.sandbox.shapes import Json, Shapes


class Follower:
    """One open `stream-events`; lines wait here until its connection takes them."""

    def __init__(self, types: Collection[str], username: str = "") -> None:
        self._types = frozenset(types)
        self.username = username
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def offer(self, kind: str, line: bytes) -> None:
        """Queue a line if this follower asked for its type."""
        if not self._types or kind in self._types:
            self._lines.put(line)

    def take(self, timeout_s: float) -> bytes:
        """The next line; empty when none came in time."""
        try:
            return self._lines.get(timeout=timeout_s)
        except queue.Empty:
            return b""


class Stream:
    """Hands each event to every follower, in the order of publishing. Thread-safe.

    Args:
        keep: Also gets each line that everybody may see, with its time in epoch seconds.
    """

    def __init__(self, keep: Callable[[int, str], None] | None = None) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._followers: list[Follower] = []

    def follow(self, types: Collection[str], username: str = "") -> Follower:
        """Start to receive events of these types, or of all when none are named."""
        follower = Follower(types, username)
        with self._lock:
            self._followers.append(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        """Stop to receive."""
        with self._lock:
            self._followers.remove(follower)

    def publish(self, event: dict[str, Any], about: ChangeRecord | None = None) -> None:
        """Send one event; one about a change goes to those only who may see that change."""
        text = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
        line = text.encode() + b"\n"
        with self._lock:
            if self._keep is not None and not (about and about.private):
                self._keep(int(event["eventCreatedOn"]), text)
            for follower in self._followers:
                if about is None or about.visible_to(follower.username):
                    follower.offer(str(event["type"]), line)


class Announcer:
    """Publishes what happened to changes and refs, in Gerrit's words."""

    def __init__(self, stream: Stream, shapes: Shapes) -> None:
        self._stream = stream
        self._shapes = shapes

    def _of_change(
        self,
        kind: str,
        change: ChangeRecord,
        patchset: PatchSetRecord,
        *,
        at: float,
        first: Json,
    ) -> None:
        self._stream.publish(
            first
            | {
                "patchSet": self._shapes.patchset(change, patchset),
                "change": self._shapes.change(change),
                "project": change.project,
                "refName": f"refs/heads/{change.branch}",
                "changeKey": {"id": change.change_id},
                "type": kind,
                "eventCreatedOn": int(at),
            },
            change,
        )

    def _without_patchset(self, kind: str, change: ChangeRecord, *, at: float, first: Json) -> None:
        self._stream.publish(
            first
            | {
                "change": self._shapes.change(change),
                "project": change.project,
                "refName": f"refs/heads/{change.branch}",
                "changeKey": {"id": change.change_id},
                "type": kind,
                "eventCreatedOn": int(at),
            },
            change,
        )

    def ref_updated(
        self,
        project: str,
        ref: str,
        *,
        old: str,
        new: str,
        username: str,
        at: float,
        change: ChangeRecord | None = None,
    ) -> None:
        """A ref was made, moved or removed (ids of zeros stand for absence).

        `change` is the one that the ref belongs to, if any.
        """
        self._stream.publish(
            {
                "submitter": self._shapes.account(username),
                "refUpdate": {"oldRev": old, "newRev": new, "refName": ref, "project": project},
                "type": "ref-updated",
                "eventCreatedOn": int(at),
            },
            change,
        )

    def patchset_created(self, change: ChangeRecord, at: float) -> None:
        """A change came in, or its next patch set."""
        uploader = self._shapes.account(change.current.uploader)
        self._of_change(
            "patchset-created", change, change.current, at=at, first={"uploader": uploader}
        )

    def topic_changed(self, change: ChangeRecord, username: str, at: float, *, old: str) -> None:
        """The topic was set, to another one or to the same."""
        first = {"changer": self._shapes.account(username), "oldTopic": old}
        self._without_patchset("topic-changed", change, at=at, first=first)

    def hashtags_changed(
        self,
        change: ChangeRecord,
        username: str,
        at: float,
        *,
        added: Sequence[str],
        removed: Sequence[str],
    ) -> None:
        """Hashtags came or went."""
        first = {
            "editor": self._shapes.account(username),
            **({"added": list(added)} if added else {}),
            **({"removed": list(removed)} if removed else {}),
            "hashtags": list(change.hashtags),
        }
        self._without_patchset("hashtags-changed", change, at=at, first=first)

    def deleted(self, change: ChangeRecord, username: str, at: float) -> None:
        """A change is gone for good."""
        first = {"deleter": self._shapes.account(username)}
        self._without_patchset("change-deleted", change, at=at, first=first)

    def state_changed(self, kind: str, change: ChangeRecord, username: str, at: float) -> None:
        """`wip-state-changed` or `private-state-changed`; the change shows the new state."""
        first = {"changer": self._shapes.account(username)}
        self._of_change(kind, change, change.current, at=at, first=first)

    def reviewer_added(self, change: ChangeRecord, *, username: str, by: str, at: float) -> None:
        """Somebody was asked to review."""
        first = {"reviewer": self._shapes.account(username), "adder": self._shapes.account(by)}
        self._of_change("reviewer-added", change, change.current, at=at, first=first)

    def spelled_out(self, text: str) -> str:
        """A message as events have it: with names instead of account numbers."""
        return self._shapes.spelled_out(text)

    def vote_deleted(
        self,
        change: ChangeRecord,
        *,
        username: str,
        by: str,
        label: str,
        old: int,
        text: str,
        at: float,
    ) -> None:
        """Somebody's vote was taken away by somebody, themselves perhaps."""
        row = {"type": label, "description": label, "value": "0", "oldValue": str(old)}
        first = {
            "reviewer": self._shapes.account(username),
            "remover": self._shapes.account(by),
            "approvals": [row],
            "comment": text,
        }
        self._of_change("vote-deleted", change, change.current, at=at, first=first)

    def comment_added(
        self,
        change: ChangeRecord,
        patchset: PatchSetRecord,
        *,
        username: str,
        text: str,
        old: dict[str, int],
        at: float,
    ) -> None:
        """Somebody commented or voted; `old` holds the votes that changed, as they were."""
        first = {
            "author": self._shapes.account(username),
            "approvals": self._shapes.approvals(change, username, patchset.number, old),
            "comment": text,
        }
        self._of_change("comment-added", change, patchset, at=at, first=first)

    def abandoned(self, change: ChangeRecord, username: str, reason: str, at: float) -> None:
        """A change was given up."""
        first = {"abandoner": self._shapes.account(username), "reason": reason}
        self._of_change("change-abandoned", change, change.current, at=at, first=first)

    def restored(self, change: ChangeRecord, username: str, reason: str, at: float) -> None:
        """An abandoned change was taken up again."""
        first = {"restorer": self._shapes.account(username), "reason": reason}
        self._of_change("change-restored", change, change.current, at=at, first=first)

    def merged(self, change: ChangeRecord, username: str, revision: str, at: float) -> None:
        """A change reached its branch."""
        first = {"submitter": self._shapes.account(username), "newRev": revision}
        self._of_change("change-merged", change, change.current, at=at, first=first)

    def project_created(self, project: str, at: float) -> None:
        """A project was made."""
        self._stream.publish(
            {
                "projectName": project,
                "headName": "refs/heads/master",
                "type": "project-created",
                "eventCreatedOn": int(at),
            }
        )
