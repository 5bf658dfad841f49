# SPDX-License-Identifier: Apache-2.0
"""The identity of an event: one key per fact, whether the stream or a query told it.

Gerrit gives events no id. A patch set has one by nature, its number. Everything else is
known by who did it, in which second, and what was said. The second is the weak part: the
stream dates an event when it is fired, a query when the fact was written, and between the
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

_UNSAFE = re.compile(r"[^A-Za-z0-9@._+-]+")


def patchset_key(change: int, patchset: int) -> str:
    """Key of a patch set's upload; the same from every source, without a date."""
    return f"{EventKind.PATCHSET_CREATED.value}:{change}:{patchset}"


def comment_key(change: int, author: Account, at: datetime, said: Iterable[str]) -> str:
    """Key of a comment: who, when, and a digest of what was said."""
    who = _UNSAFE.sub("_", author.username or author.email or author.name)[:64]
    return f"{EventKind.COMMENT_ADDED.value}:{change}:{who}:{_epoch(at)}:{_digest(said)}"


def state_key(kind: EventKind, change: int, at: datetime) -> str:
    """Key of an abandon, restore or merge."""
    return f"{kind.value}:{change}:{_epoch(at)}"


def _epoch(at: datetime) -> int:
    return int(at.timestamp())


def _digest(said: Iterable[str]) -> str:
    # Servers differ in how they join several texts and keep blanks: compare the set of lines.
    lines = {" ".join(line.split()) for text in said for line in text.splitlines()}
    text = "\n".join(sorted(lines - {""}))
    return sha1(text.encode(), usedforsecurity=False).hexdigest()[:12]


def same_fact(left: str, right: str, *, tolerance_s: int = TOLERANCE_S) -> bool:
    """Whether two keys mean one fact: equal, or equal but for a date within the tolerance.

    Meant for keys from two sources; two keys from the same stream are two facts unless they
    are equal.
    """
    if left == right:
        return True
    one, other = _split(left), _split(right)
    if one is None or other is None:
        return False
    return one[0] == other[0] and abs(one[1] - other[1]) <= tolerance_s


def _split(key: str) -> tuple[tuple[str, ...], int] | None:
    """A dated key without its date, and the date in epoch seconds."""
    parts = key.split(":")
    place = {EventKind.COMMENT_ADDED.value: 3, EventKind.PATCHSET_CREATED.value: None}.get(
        parts[0], 2
    )
    if place is None or len(parts) <= place or not parts[place].isdecimal():
        return None
    return (*parts[:place], *parts[place + 1 :]), int(parts[place])
