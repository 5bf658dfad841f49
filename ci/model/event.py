# SPDX-License-Identifier: Apache-2.0
"""What Gerrit tells us, as values of ours: Event, and the Account behind it."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from ci.model.change import Change, Patchset


class EventKind(StrEnum):
    """The events about a change that steps 2 and 3 act on; other types are counted and dropped."""

    PATCHSET_CREATED = "patchset-created"
    COMMENT_ADDED = "comment-added"
    CHANGE_ABANDONED = "change-abandoned"
    CHANGE_RESTORED = "change-restored"
    CHANGE_MERGED = "change-merged"
    CHANGE_DELETED = "change-deleted"
    WIP_STATE_CHANGED = "wip-state-changed"
    PRIVATE_STATE_CHANGED = "private-state-changed"
    TOPIC_CHANGED = "topic-changed"
    HASHTAGS_CHANGED = "hashtags-changed"
    VOTE_DELETED = "vote-deleted"


RECONSIDER = frozenset(
    {
        EventKind.WIP_STATE_CHANGED,
        EventKind.PRIVATE_STATE_CHANGED,
        EventKind.TOPIC_CHANGED,
        EventKind.HASHTAGS_CHANGED,
        EventKind.VOTE_DELETED,
    }
)
"""After these a patch set that did not start before may start now; one that ran does not again."""


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
class Approval:
    """A vote of an account on a patch set.

    Attributes:
        label: For instance `Verified`.
        value: 0 where it was taken away.
        by: Who gave it.
        changed: Whether the event it stands in gave or took it; an event lists the author's
            older votes as well.
        granted_at: Aware, UTC, where the source says it.
    """

    label: str
    value: int
    by: Account
    changed: bool = False
    granted_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class BranchMoved:
    """A branch got a new tip, by a submitted change or by a push past review.

    Attributes:
        connection: Name of the connection it came through.
        project: Gerrit project.
        branch: Short name.
        old: Commit before; empty for a new branch.
        new: Commit now; empty for a deleted branch.
        occurred_at: Server's time, aware, UTC, whole seconds.
    """

    connection: str
    project: str
    branch: str
    old: str
    new: str
    occurred_at: datetime


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
        source: `stream`, `catch-up`, or `request` for what an operator asked of us.
        approvals: Votes that the event tells of: of a comment's author, or those that were
            deleted; empty for other kinds.
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
    approvals: tuple[Approval, ...] = field(default=())
