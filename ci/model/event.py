# SPDX-License-Identifier: Apache-2.0
"""What Gerrit tells us, as values of ours: Event, and the Account behind it."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from ci.model.change import Change, Patchset


class EventKind(StrEnum):
    """The events that steps 2 and 3 act on; every other type is counted and dropped."""

    PATCHSET_CREATED = "patchset-created"
    COMMENT_ADDED = "comment-added"
    CHANGE_ABANDONED = "change-abandoned"
    CHANGE_RESTORED = "change-restored"
    CHANGE_MERGED = "change-merged"


@dataclass(frozen=True, kw_only=True)
class Account:
    """Who did it. Any field may be empty: servers may hide them."""

    username: str = ""
    name: str = ""
    email: str = ""

    @property
    def is_ci(self) -> bool:
        """Whether the full name says that this is a CI or a bot."""
        return self.name.endswith((" CI", " Bot"))


@dataclass(frozen=True, kw_only=True)
class Event:
    """One fact about a change, whether the stream or a query told it.

    Attributes:
        key: Identity of the fact: the same from the stream and from catch-up, so that a
            second copy changes nothing.
        connection: Name of the connection it came through.
        kind: What happened.
        change: The change as it was then.
        patchset: The patch set it is about; None for change-abandoned without one.
        author: Who did it.
        texts: Comment texts without Gerrit's own first paragraph; empty for other kinds.
        occurred_at: Server's time, aware, UTC, whole seconds.
        source: `stream` or `catch-up`.
    """

    key: str
    connection: str
    kind: EventKind
    change: Change
    patchset: Patchset | None
    author: Account
    occurred_at: datetime
    texts: tuple[str, ...] = field(default=())
    source: str = "stream"
