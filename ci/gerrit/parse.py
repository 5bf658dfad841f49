# SPDX-License-Identifier: Apache-2.0
"""A line of `stream-events` as an Event; pure.

Raises `MalformedEvent` for what is not what it should be. A line of a type that nobody acts
on is no error: it comes back as `Ignored`.

Source: https://gerrit-review.googlesource.com/Documentation/cmd-stream-events.html and
tests/data/gerrit/, recorded from real servers.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ci.gerrit import fields
from ci.gerrit.fields import Json, MalformedEvent
from ci.model.change import Change, Patchset
from ci.model.event import Account, Event, EventKind
from ci.model.event_key import comment_key, patchset_key, state_key
from ci.recheck import comment_texts

__all__ = ["MAX_LINE_BYTES", "Ignored", "MalformedEvent", "comment_event", "parse_line"]

MAX_LINE_BYTES = 10_000_000
"""A longer line is not read: a real one with the largest comment has some 40 kB."""
MAX_PATCHSET_COMMENTS = 100
PATCHSET_LEVEL = "/PATCHSET_LEVEL"
AUTHORS = {
    EventKind.PATCHSET_CREATED: "uploader",
    EventKind.COMMENT_ADDED: "author",
    EventKind.CHANGE_ABANDONED: "abandoner",
    EventKind.CHANGE_RESTORED: "restorer",
    EventKind.CHANGE_MERGED: "submitter",
}


@dataclass(frozen=True, kw_only=True)
class Ignored:
    """A line that was read and that nobody acts on.

    Attributes:
        type: The event's own type, cleaned.
        reason: Why it is ignored, for the log.
    """

    type: str
    reason: str


def parse_line(line: bytes, connection: str) -> Event | Ignored:
    """Read one line of the stream.

    Args:
        line: As it came, with or without its line end.
        connection: Name of the connection it came through.

    Raises:
        MalformedEvent: It is too long, not UTF-8, not a JSON object, or a member that later
            steps rely on is missing, of the wrong type or unsafe.
    """
    source = _decoded(line)
    kind = fields.text(source, "type")
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
        )
    if kind is EventKind.PATCHSET_CREATED:
        if patchset is None:
            raise MalformedEvent("patchSet is missing in patchset-created")
        key = patchset_key(change.number, patchset.number)
    else:
        key = state_key(kind, change.number, at)
    return Event(
        key=key,
        connection=connection,
        kind=kind,
        change=change,
        patchset=patchset,
        author=author,
        occurred_at=at,
    )


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
    )
