# SPDX-License-Identifier: Apache-2.0
"""Notice: something that other programs or the operator want to be told, beside the review."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class NoticeKind(StrEnum):
    """What a notice is about; a reporter subscribes to kinds."""

    VERDICT = "verdict"  # a buildset was judged
    MERGE_CONFLICT = "merge-conflict"  # a patch set does not merge onto its branch
    DEPENDENCY = "dependency"  # a Depends-On cannot be followed
    HELD_VOTE = "held-vote"  # a negative vote waits for an operator
    UNDELIVERED = "undelivered"  # a review could not be given for long, or was refused
    QUARANTINE = "quarantine"  # a node was taken out
    DISK = "disk"  # a worker has no room and starts no new builds
    COMMENT_TEMPLATE = "comment-template"  # an operator's template failed, ours was used


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One thing to tell.

    Attributes:
        kind: What it is about.
        key: Identity: a second notice of this key is the same one.
        subject: One line; may hold hostile text, printable only.
        text: What happened and what to do, several lines; likewise.
        url: Our page about it; empty where there is none.
        facts: JSON values for programs.
        occurred_at: Aware, UTC.
    """

    kind: NoticeKind
    key: str
    subject: str
    text: str
    occurred_at: datetime
    url: str = ""
    facts: dict[str, object] = field(default_factory=dict)
