# SPDX-License-Identifier: Apache-2.0
"""The seam between Gerrit's reporter and its two ways in, REST and SSH.

A transport reads one change and posts one review; whether to post, by which way, and what an
outcome means is the reporter's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from ci.errors import ReviewServerError
from ci.model.review import Review


class Instead(Enum):
    """When the other way in is taken instead."""

    NEVER = "never"
    AT_ONCE = "at once"
    AFTER_SEVERAL = "after several"


@dataclass(frozen=True, kw_only=True)
class Rights:
    """What we may vote on a label.

    Attributes:
        exists: Whether the change has the label.
        permitted: Smallest and largest vote we may give; None where we may not vote.
    """

    exists: bool
    permitted: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A change as a review needs to know it.

    Attributes:
        status: `NEW`, `MERGED` or `ABANDONED`.
        current_patchset: Number of the newest patch set.
        current_revision: Its commit id.
        comment: Our own message with the review's marker, with Gerrit's first paragraph;
            None where it is not there.
        value: Our vote on the review's label on the current patch set; 0 for none.
        rights: For that label; None where this transport cannot tell.
    """

    status: str
    current_patchset: int
    current_revision: str
    comment: str | None
    value: int
    rights: Rights | None


class Trouble(ReviewServerError):
    """A transport could not do it, and doing it again may help.

    Attributes:
        sent: The server may have taken the post all the same.
        slow: It was given up while somebody may still have been at it.
        instead: Whether the other transport may do better.
        whole_server: Other changes would fare alike.
        pause_s: How long to leave this transport alone at least.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        sent: bool = False,
        slow: bool = False,
        instead: Instead = Instead.NEVER,
        whole_server: bool = False,
        pause_s: float = 0.0,
    ) -> None:
        super().__init__(message, hint=hint, retryable=True)
        self.sent = sent
        self.slow = slow
        self.instead = instead
        self.whole_server = whole_server
        self.pause_s = pause_s


class Refused(ReviewServerError):
    """The server refused, and no repeat changes that.

    Attributes:
        no_right: It was the vote that we may not give.
    """

    def __init__(self, message: str, *, hint: str = "", no_right: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.no_right = no_right


class Invisible(ReviewServerError):
    """There is no such change for us.

    Attributes:
        certain: The project itself is to be seen, so it is the change that has gone.
    """

    def __init__(self, message: str, *, certain: bool) -> None:
        super().__init__(message)
        self.certain = certain


class Transport(Protocol):
    """One way into Gerrit, under one account. Thread-safe."""

    @property
    def name(self) -> str:
        """`rest` or `ssh`."""
        ...

    def read(self, review: Review) -> Seen:
        """The change that a review is about.

        Raises:
            Invisible: It is not to be seen.
            Trouble: Try again, or the other way.
            Refused: No repeat helps.
        """
        ...

    def post(self, review: Review, message: str, labels: Mapping[str, int]) -> Mapping[str, int]:
        """Post a message with votes on the review's patch set.

        Returns:
            The labels that the server took; one it did not like is missing.

        Raises:
            Trouble: Try again, or the other way.
            Refused: No repeat helps.
        """
        ...
