# SPDX-License-Identifier: Apache-2.0
"""The seam to review servers: deliver one owed review, harmlessly when repeated.

`deliver` is called at least once for every Outbox row. It reads first: the change's current
patch set, and whether this very message is there already; so a crash between the server's
acceptance and our commit costs nothing. Thread-safety: several calls at a time per connection,
never two for one change.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple, Protocol

from ci.errors import ReviewServerError
from ci.model.review import Review


class Delivery(StrEnum):
    """What became of a row."""

    DELIVERED = "delivered"
    ALREADY_THERE = "already-there"
    STALE = "stale"  # no longer the current patch set, or closed: not posted
    GONE = "gone"  # the change is not to be seen: deleted, or private
    REFUSED = "refused"  # the server dropped the label, or the right is missing


class Outcome(NamedTuple):
    """What became of a row, one sentence for the operator, and how it got there.

    Attributes:
        delivery: What became of it.
        note: Why, or where it stands.
        transport: `rest`, `ssh`, or nothing where that means nothing.
    """

    delivery: Delivery
    note: str
    transport: str = ""


class ServerAway(ReviewServerError):
    """The server itself is at fault: any other review would fare alike, so one try is enough.

    Attributes:
        pause_s: How long the server, or sense, asks us to wait at least.
    """

    def __init__(self, message: str, *, hint: str = "", pause_s: float = 0.0) -> None:
        super().__init__(message, hint=hint, retryable=True)
        self.pause_s = pause_s


class NoLongerOurs(ReviewServerError):
    """Another process may be sending this review by now: nothing was posted."""


Permit = Callable[[], None]


def anybody() -> None:
    """The permit of somebody who shares the outbox with nobody."""


class Reporter(Protocol):
    """Delivers reviews to one connection."""

    def deliver(self, review: Review, permit: Permit = anybody) -> Outcome:
        """Post a review unless it is stale or there already.

        Args:
            review: What is owed.
            permit: Called right before each request that posts; raises when it must not.

        Raises:
            NoLongerOurs: The permit said so.
            ServerAway: Nothing could be done for any change; try later.
            ReviewServerError: Nothing is known of this one's outcome; try again later.
        """
        ...

    def doubt(self, review: Review) -> None:
        """An earlier process may have sent this just before it died, with no answer seen.

        A server that is slow may still be at it: what is not there yet is not sent at once.
        """
        ...
