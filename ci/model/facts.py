# SPDX-License-Identifier: Apache-2.0
"""A change as it is now, asked of the server: state, where an Event is only a hint."""

from dataclasses import dataclass
from datetime import datetime

from ci.model.change import Change, Patchset
from ci.model.event import Approval


@dataclass(frozen=True, kw_only=True)
class ChangeFacts:
    """What the server says of a change at one moment.

    Attributes:
        change: The change, with its commit message.
        patchset: Its current patch set.
        uploaded_at: When that was uploaded, server's time, aware, UTC.
        approvals: Votes that were given to it and stand, without zeros.
        copied: Votes that stand on it and were given to an earlier patch set. Their date does
            not tell: the server dates a copy when it makes it.
    """

    change: Change
    patchset: Patchset
    uploaded_at: datetime
    approvals: tuple[Approval, ...] = ()
    copied: tuple[Approval, ...] = ()
