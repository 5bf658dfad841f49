# SPDX-License-Identifier: Apache-2.0
"""A line of `stream-events` as an Event; pure.

Raises `MalformedEvent` for what is not what it should be. A line of a type that nobody acts
on is no error: it comes back as `Ignored`.

Source: https://gerrit-review.googlesource.com/Documentation/cmd-stream-events.html and
tests/data/gerrit/, recorded from real servers.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ci.gerrit import fields
from ci.gerrit.fields import Json, MalformedEvent
from ci.model.change import REVISION, Change, Patchset
from ci.model.event import Account, Approval, BranchMoved, Event, EventKind
from ci.model.event_key import (
    comment_key,
    deleted_key,
    patchset_key,
    state_key,
    vote_deleted_key,
)
from ci.recheck import comment_texts

__all__ = [
    "MAX_LINE_BYTES",
    "REF_UPDATED",
    "REVIEWER_DELETED",
    "Ignored",
    "MalformedEvent",
    "comment_event",
    "parse_line",
    "state_now",
]

MAX_LINE_BYTES = 10_000_000
"""A longer line is not read: a real one with the largest comment has some 40 kB."""
MAX_PATCHSET_COMMENTS = 100
PATCHSET_LEVEL = "/PATCHSET_LEVEL"
REF_UPDATED = "ref-updated"
REVIEWER_DELETED = "reviewer-deleted"
"""Takes the reviewer's votes away, without a vote-deleted of its own."""
AUTHORS = {
    EventKind.PATCHSET_CREATED: "uploader",
    EventKind.COMMENT_ADDED: "author",
    EventKind.CHANGE_ABANDONED: "abandoner",
    EventKind.CHANGE_RESTORED: "restorer",
    EventKind.CHANGE_MERGED: "submitter",
    EventKind.CHANGE_DELETED: "deleter",
    EventKind.WIP_STATE_CHANGED: "changer",
    EventKind.PRIVATE_STATE_CHANGED: "changer",
    EventKind.TOPIC_CHANGED: "changer",
    EventKind.HASHTAGS_CHANGED: "editor",
    EventKind.VOTE_DELETED: "remover",
}
NO_COMMIT = re.compile(r"0{40}(?:0{24})?")
# The end of a line and its own quotes cannot be forged from inside of a string, where quotes
# are escaped: half of a busy stream is told apart without reading it.
_REF_LINE = re.compile(rb'"type":"ref-updated","eventCreatedOn":[0-9]{1,12}\}\r?\Z')
_REF_TAIL_BYTES = 80
_CHANGE_REF = b'"refName":"refs/changes/'


@dataclass(frozen=True, kw_only=True)
class Ignored:
    """A line that was read and that nobody acts on.

    Attributes:
        type: The event's own type, cleaned.
        reason: Why it is ignored, for the log.
        expected: A type we know and leave out; others are counted.
    """

    type: str
    reason: str
    expected: bool = False


_OTHER_REF = Ignored(type=REF_UPDATED, reason="not a branch", expected=True)
_NO_VOTES = Ignored(type=REVIEWER_DELETED, reason="no vote went with it", expected=True)


def parse_line(line: bytes, connection: str) -> Event | BranchMoved | Ignored:
    """Read one line of the stream.

    Args:
        line: As it came, with or without its line end.
        connection: Name of the connection it came through.

    Raises:
        MalformedEvent: It is too long, not UTF-8, not a JSON object, or a member that later
            steps rely on is missing, of the wrong type or unsafe.
    """
    if _CHANGE_REF in line and _REF_LINE.search(line[-_REF_TAIL_BYTES:]):
        return _OTHER_REF
    source = _decoded(line)
    kind = fields.text(source, "type")
    if kind == REF_UPDATED:
        return _branch_moved(source, connection)
    if kind == REVIEWER_DELETED:
        event = _event(source, EventKind.VOTE_DELETED, connection)
        return event if event.approvals else _NO_VOTES
    try:
        wanted = EventKind(kind)
    except ValueError:
        return Ignored(type=fields.clean_line(kind, 80), reason="nobody acts on this type")
    return _event(source, wanted, connection)


def _decoded(line: bytes) -> Json:
    if len(line) > MAX_LINE_BYTES:
        raise MalformedEvent(f"an event of more than {MAX_LINE_BYTES} bytes was dropped unread")
    try:
        value: Any = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MalformedEvent(f"an event is not UTF-8: byte {error.start}") from error
    except (ValueError, RecursionError) as error:
        start = fields.clean_line(line[:80].decode("utf-8", "replace"))
        raise MalformedEvent(f"an event is not JSON, it begins {start!r}: {error}") from error
    if not isinstance(value, dict):
        raise MalformedEvent("an event is JSON but not an object")
    return value


def _branch_moved(source: Json, connection: str) -> BranchMoved | Ignored:
    update = fields.obj(source, "refUpdate")
    name = fields.text(update, "refName")
    # Some servers name a branch without its prefix here; other refs always have theirs.
    if name.startswith("refs/") and not name.startswith(fields.HEADS):
        return _OTHER_REF
    return BranchMoved(
        connection=connection,
        project=fields.project(update),
        branch=fields.branch(name),
        old=_tip(update, "oldRev"),
        new=_tip(update, "newRev"),
        occurred_at=fields.epoch(source, "eventCreatedOn"),
    )


def _tip(update: Json, name: str) -> str:
    commit = fields.text(update, name)
    if not REVISION.fullmatch(commit):
        raise MalformedEvent(f"{name} is not a commit id: {commit[:80]!r}")
    return "" if NO_COMMIT.fullmatch(commit) else commit


def _event(source: Json, kind: EventKind, connection: str) -> Event:
    at = fields.epoch(source, "eventCreatedOn")
    change = fields.change(fields.obj(source, "change"), number_name="number", id_name="id")
    patchset = _patchset(source, change.number)
    author = fields.account(source, AUTHORS[kind])
    if kind is EventKind.COMMENT_ADDED:
        return comment_event(
            connection=connection,
            change=change,
            patchset=patchset,
            author=author,
            at=at,
            comment=fields.clean_text(fields.text(source, "comment", default="")),
            patchset_level=_patchset_level(source),
            approvals=fields.approvals(source, author, at),
        )
    approvals: tuple[Approval, ...] = ()
    if kind is EventKind.VOTE_DELETED:
        voter = fields.account(source, "reviewer")
        approvals = tuple(one for one in fields.approvals(source, voter, at) if one.changed)
        key = vote_deleted_key(change.number, voter, at, [one.label for one in approvals])
    else:
        key = _KEYS[kind](kind, change, patchset, at)
    return Event(
        key=key,
        connection=connection,
        kind=kind,
        change=change,
        patchset=patchset,
        author=author,
        occurred_at=at,
        approvals=approvals,
    )


def _upload_key(_: EventKind, change: Change, patchset: Patchset | None, __: datetime) -> str:
    if patchset is None:
        raise MalformedEvent("patchSet is missing in patchset-created")
    return patchset_key(change.number, patchset.number)


def _end_key(kind: EventKind, change: Change, _: Patchset | None, at: datetime) -> str:
    return state_key(kind, change.number, at)


def _state_key(kind: EventKind, change: Change, _: Patchset | None, at: datetime) -> str:
    return state_key(kind, change.number, at, state_now(kind, change))


_KEYS: dict[EventKind, Callable[[EventKind, Change, Patchset | None, datetime], str]] = {
    EventKind.PATCHSET_CREATED: _upload_key,
    EventKind.CHANGE_ABANDONED: _end_key,
    EventKind.CHANGE_RESTORED: _end_key,
    EventKind.CHANGE_MERGED: _end_key,
    EventKind.CHANGE_DELETED: lambda _, change, *__: deleted_key(change.number),
    EventKind.WIP_STATE_CHANGED: _state_key,
    EventKind.PRIVATE_STATE_CHANGED: _state_key,
    EventKind.TOPIC_CHANGED: _state_key,
    EventKind.HASHTAGS_CHANGED: _state_key,
}


def state_now(kind: EventKind, change: Change) -> tuple[str, ...]:
    """What a change of this kind of state led to, for the event's key; in no order."""
    if kind is EventKind.WIP_STATE_CHANGED:
        return ("wip" if change.wip else "ready",)
    if kind is EventKind.PRIVATE_STATE_CHANGED:
        return ("private" if change.private else "public",)
    if kind is EventKind.TOPIC_CHANGED:
        return (f"topic {change.topic}",)
    return ("hashtags", *change.hashtags)


def _patchset(source: Json, number: int) -> Patchset | None:
    if source.get("patchSet") is None:
        return None
    value = fields.obj(source, "patchSet")
    revision = fields.text(value, "revision")
    return fields.patchset(value, of=number, number_name="number", revision=revision)


def _patchset_level(source: Json) -> tuple[str, ...]:
    """What was said on the patch set as a whole; servers since 3.3 may say it only there."""
    if source.get("patchSetComments") is None:
        return ()
    entries = fields.obj(source, "patchSetComments").get(PATCHSET_LEVEL, [])
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise MalformedEvent(f"patchSetComments[{PATCHSET_LEVEL}] is not a list of comments")
    return tuple(
        fields.clean_text(fields.text(one, "message", default=""))
        for one in entries[:MAX_PATCHSET_COMMENTS]
    )


def comment_event(
    *,
    connection: str,
    change: Change,
    patchset: Patchset | None,
    author: Account,
    at: datetime,
    comment: str,
    patchset_level: Sequence[str],
    approvals: tuple[Approval, ...] = (),
    source: str = "stream",
) -> Event:
    """A comment as an Event, made alike for the stream and for catch-up.

    Where somebody wrote on the patch set as a whole, only that goes into the key: the stream
    of Gerrit 3.10 then leaves out whatever else the comment said, and a query shows both.

    Args:
        connection: Name of the connection.
        change: The change.
        patchset: The patch set it was said on, where that is known.
        author: Who said it.
        at: The source's own date.
        comment: Gerrit's message with its first paragraph, cleaned.
        patchset_level: Texts on the patch set as a whole, cleaned.
        approvals: The author's votes.
        source: `stream` or `catch-up`.
    """
    written = tuple(text for text in patchset_level if text.strip())
    said = comment_texts("", written) if written else comment_texts(comment, ())
    return Event(
        key=comment_key(change.number, author, at, said),
        connection=connection,
        kind=EventKind.COMMENT_ADDED,
        change=change,
        patchset=patchset,
        author=author,
        texts=tuple(comment_texts(comment, written)),
        occurred_at=at,
        source=source,
        approvals=approvals,
    )
