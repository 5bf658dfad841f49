# SPDX-License-Identifier: Apache-2.0
"""The event stream: who follows it, and the events that are sent."""

import json
import queue
import threading
from collections.abc import Collection
from typing import Any

from ci.sandbox.records import ChangeRecord, PatchSetRecord
from ci.sandbox.shapes import Json, Shapes


class Follower:
    """One open `stream-events`; lines wait here until its connection takes them."""

    def __init__(self, types: Collection[str]) -> None:
        self._types = frozenset(types)
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
    """Hands each event to every follower, in the order of publishing. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._followers: list[Follower] = []

    def follow(self, types: Collection[str]) -> Follower:
        """Start to receive events of these types, or of all when none are named."""
        follower = Follower(types)
        with self._lock:
            self._followers.append(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        """Stop to receive."""
        with self._lock:
            self._followers.remove(follower)

    def publish(self, event: dict[str, Any]) -> None:
        """Send one event."""
        line = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        with self._lock:
            for follower in self._followers:
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
            }
        )

    def ref_updated(
        self, project: str, ref: str, *, old: str, new: str, username: str, at: float
    ) -> None:
        """A ref was made, moved or removed (ids of zeros stand for absence)."""
        self._stream.publish(
            {
                "submitter": self._shapes.account(username),
                "refUpdate": {"oldRev": old, "newRev": new, "refName": ref, "project": project},
                "type": "ref-updated",
                "eventCreatedOn": int(at),
            }
        )

    def patchset_created(self, change: ChangeRecord, at: float) -> None:
        """A change came in, or its next patch set."""
        uploader = self._shapes.account(change.current.uploader)
        self._of_change(
            "patchset-created", change, change.current, at=at, first={"uploader": uploader}
        )

    def topic_changed(self, change: ChangeRecord, username: str, at: float) -> None:
        """A push named a topic; Gerrit puts the new one in `oldTopic` too then."""
        self._stream.publish(
            {
                "changer": self._shapes.account(username),
                "oldTopic": change.topic,
                "change": self._shapes.change(change),
                "project": change.project,
                "refName": f"refs/heads/{change.branch}",
                "changeKey": {"id": change.change_id},
                "type": "topic-changed",
                "eventCreatedOn": int(at),
            }
        )

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
