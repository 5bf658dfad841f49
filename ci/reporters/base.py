# SPDX-License-Identifier: Apache-2.0
"""The seam to review servers: deliver one owed review, harmlessly when repeated.

`deliver` is called at least once for every Outbox row. It reads first: the change's current
patch set, and whether this very message is there already; so a crash between the server's
acceptance and our commit costs nothing. Thread-safety: one call per connection at a time.
"""

from enum import StrEnum
from typing import Protocol

from ci.model.review import Review


class Delivery(StrEnum):
    """What became of a row."""

    DELIVERED = "delivered"
    ALREADY_THERE = "already-there"
    STALE = "stale"  # no longer the current patch set, or closed: not posted
    REFUSED = "refused"  # posted, but the server dropped the label or the right is missing


class Reporter(Protocol):
    """Delivers reviews to one connection."""

    def deliver(self, review: Review) -> tuple[Delivery, str]:
        """Post a review unless it is stale or there already.

        Returns:
            What became of it and one sentence for the operator.

        Raises:
            ReviewServerError: Nothing is known of the outcome; try again later.
        """
        ...
