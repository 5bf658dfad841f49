# SPDX-License-Identifier: Apache-2.0
"""The identity of an event: one key per fact, whether the stream or a query told it.

Gerrit gives events no id. A patch set has one by nature, its number. Everything else is
known by who did it, in which second, and what was said or set. The second is the weak part:
the stream dates an event when it is fired, a query when the fact was written, and between the
two lies the time the server took. Both are cut to whole seconds, so on a real server they
differ by one every other time. `same_fact` therefore compares keys with a tolerance; a store
that only compares keys would hold the same comment twice.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from hashlib import sha1

from ci.model.event import Account, EventKind

TOLERANCE_S = 10
"""The stream's date minus the query's, at most. Two equal comments of one author that lie
closer than this and were told by different sources count as one: a recheck written twice
within ten seconds asks for nothing that the first did not."""
SKEW_S = 1
"""The query's date minus the stream's, at most: a fact is never told before it was written,
but for how two clocks round."""

_UNSAFE = re.compile(r"[^A-Za-z0-9@._+-]+")
_DATE_PLACE = {
    EventKind.COMMENT_ADDED.value: 3,
    EventKind.VOTE_DELETED.value: 3,
    EventKind.CHANGE_ABANDONED.value: 2,
    EventKind.CHANGE_RESTORED.value: 2,
    EventKind.CHANGE_MERGED.value: 2,
    EventKind.WIP_STATE_CHANGED.value: 2,
    EventKind.PRIVATE_STATE_CHANGED.value: 2,
    EventKind.TOPIC_CHANGED.value: 2,
    EventKind.HASHTAGS_CHANGED.value: 2,
}


def patchset_key(change: int, patchset: int) -> str:
    """Key of a patch set's upload; the same from every source, without a date."""
    return f"{EventKind.PATCHSET_CREATED.value}:{change}:{patchset}"


def deleted_key(change: int) -> str:
    """Key of a change's deletion, which happens once."""
    return f"{EventKind.CHANGE_DELETED.value}:{change}"


def comment_key(change: int, author: Account, at: datetime, said: Iterable[str]) -> str:
    """Key of a comment: who, when, and a digest of what was said."""
    return f"{EventKind.COMMENT_ADDED.value}:{change}:{_who(author)}:{_epoch(at)}:{_digest(said)}"


def vote_deleted_key(change: int, voter: Account, at: datetime, labels: Iterable[str]) -> str:
    """Key of votes that were taken away: whose, when, and on which labels."""
    which = _digest(sorted(labels))
    return f"{EventKind.VOTE_DELETED.value}:{change}:{_who(voter)}:{_epoch(at)}:{which}"


def state_key(kind: EventKind, change: int, at: datetime, state: Iterable[str] = ()) -> str:
    """Key of a change of state: an abandon, a new topic, work in progress or not.

    Args:
        kind: What happened.
        change: The change's number.
        at: The source's own date.
        state: What it is now, where the kind does not say it: two switches in one second are
            two facts.
    """
    now = tuple(state)
    return f"{kind.value}:{change}:{_epoch(at)}" + (f":{_digest(now)}" if now else "")


def _who(account: Account) -> str:
    return _UNSAFE.sub("_", account.username or account.email or account.name)[:64]


def _epoch(at: datetime) -> int:
    return int(at.timestamp())


def _digest(said: Iterable[str]) -> str:
    # Servers differ in how they join several texts and keep blanks: compare the set of lines.
    lines = {" ".join(line.split()) for text in said for line in text.splitlines()}
    text = "\n".join(sorted(lines - {""}))
    return sha1(text.encode(), usedforsecurity=False).hexdigest()[:12]


def same_fact(streamed: str, queried: str, *, tolerance_s: int = TOLERANCE_S) -> bool:
    """Whether two keys mean one fact: equal, or equal but for how the two sources date it.

    Two keys from the same stream are two facts unless they are equal.

    Args:
        streamed: Key of what the stream told.
        queried: Key of what a query told.
        tolerance_s: How much later the stream's date may be.
    """
    if streamed == queried:
        return True
    one, other = _split(streamed), _split(queried)
    if one is None or other is None:
        return False
    return one[0] == other[0] and -SKEW_S <= one[1] - other[1] <= tolerance_s


def _split(key: str) -> tuple[tuple[str, ...], int] | None:
    """A dated key without its date, and the date in epoch seconds."""
    parts = key.split(":")
    place = _DATE_PLACE.get(parts[0])
    if place is None or len(parts) <= place or not parts[place].isdecimal():
        return None
    return (*parts[:place], *parts[place + 1 :]), int(parts[place])
