# SPDX-License-Identifier: Apache-2.0
"""Step 8 of 9: a review on Gerrit, exactly once, and only where it still counts.

Reads first, so that a delivery which is repeated after a crash finds its own message. Checks
what the server took, because Gerrit drops a vote it does not like without a word. Takes the
other way in where the first does not answer, after having looked there as well.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ci.clock import Clock, SystemClock
from ci.errors import ReviewServerError
from ci.model.review import Review
from ci.reporters.base import Delivery, Outcome, Permit, ServerAway, anybody
from ci.reporters.transport import (
    Instead,
    Invisible,
    Refused,
    Rights,
    Seen,
    Transport,
    Trouble,
)

VOTE_NOT_TAKEN = "The review server did not take the vote that belongs to this comment."
SEVERAL = 3
AVOID_S = 60.0  # so long a way in that failed is left alone while another works
SETTLE_S = 10.0  # a post whose answer was lost may still arrive for so long
SLOW_SETTLE_S = 60.0  # and one that was given up, as it took too long, for so long


@dataclass
class _Doubt:
    """A post whose answer was not seen.

    Attributes:
        wait_s: How long it may take to arrive, once the server answers again.
        since_s: When the server first answered without it; None while it did not.
    """

    wait_s: float
    since_s: float | None = None


class _Permitted:
    """A transport that asks right before each post whether it may."""

    def __init__(self, transport: Transport, permit: Permit) -> None:
        self._transport, self._permit = transport, permit

    @property
    def name(self) -> str:
        return self._transport.name

    def read(self, review: Review) -> Seen:
        return self._transport.read(review)

    def post(self, review: Review, message: str, votes: Mapping[str, int]) -> Mapping[str, int]:
        self._permit()
        return self._transport.post(review, message, votes)


class GerritReporter:
    """Posts reviews through one account. Thread-safe; never two calls for one change at a time.

    Args:
        transports: The ways in, the preferred one first.
        own_username: The account's username, for what operators are told.
        clock: Where time comes from.
    """

    def __init__(
        self, transports: Sequence[Transport], own_username: str, *, clock: Clock | None = None
    ) -> None:
        self._transports = tuple(transports)
        self._user = own_username
        self._clock = clock or SystemClock()
        self._avoid_until_s: dict[str, float] = {}
        self._failures: dict[tuple[str, str], int] = {}
        self._in_doubt: dict[str, _Doubt] = {}

    def deliver(self, review: Review, permit: Permit = anybody) -> Outcome:
        """Post a review unless it is stale or there already.

        Raises:
            NoLongerOurs: The permit, asked right before each post, said so.
            ServerAway: Nothing could be done for any change; try later.
            ReviewServerError: Nothing is known of this one's outcome; try again later.
        """
        troubles: list[tuple[Transport, Trouble]] = []
        for transport in self._ways(review):
            try:
                outcome = self._through(_Permitted(transport, permit), review)
            except Trouble as trouble:
                troubles.append((transport, trouble))
                if not self._gives_way(transport, review, trouble):
                    break
            else:
                self._forget(review)
                return outcome._replace(transport=transport.name)
        raise _summed_up(troubles)

    def doubt(self, review: Review) -> None:
        """An earlier process may have sent this just before it died, with no answer seen."""
        self._in_doubt.setdefault(review.marker, _Doubt(SETTLE_S))

    def _ways(self, review: Review) -> list[Transport]:
        """Those that have not just failed, or all; one that fails this very review comes last."""
        now_s = self._clock.monotonic_s()
        good = [t for t in self._transports if self._avoid_until_s.get(t.name, now_s) <= now_s]
        return sorted(
            good or self._transports,
            key=lambda t: self._failures.get((t.name, review.marker), 0) >= SEVERAL,
        )

    def _gives_way(self, transport: Transport, review: Review, trouble: Trouble) -> bool:
        """Whether the next transport is tried in this one's place."""
        if trouble.instead is Instead.NEVER:
            return False
        if trouble.instead is Instead.AFTER_SEVERAL:
            counted = [self._count(transport, marker) for marker in ("", review.marker)]
            if max(counted) < SEVERAL:
                return False
        else:
            self._failures[transport.name, review.marker] = SEVERAL
        if trouble.whole_server:
            pause_s = max(AVOID_S, trouble.pause_s)
            self._avoid_until_s[transport.name] = self._clock.monotonic_s() + pause_s
        return True

    def _count(self, transport: Transport, marker: str) -> int:
        """Failures in a row: of one review, or, without a marker, of any reading."""
        name = (transport.name, marker)
        self._failures[name] = self._failures.get(name, 0) + 1
        return self._failures[name]

    def _forget(self, review: Review) -> None:
        for transport in self._transports:
            self._failures.pop((transport.name, review.marker), None)
        self._in_doubt.pop(review.marker, None)

    def _through(self, transport: Transport, review: Review) -> Outcome:
        """Deliver by one way.

        Raises:
            Trouble: It did not work out.
            ReviewServerError: Try again later.
        """
        try:
            seen = transport.read(review)
        except Invisible as error:
            return self._invisible(review, error)
        except Refused as error:
            return Outcome(Delivery.REFUSED, f"{_where(review)} cannot be read: {error}")
        self._failures.pop((transport.name, ""), None)
        self._avoid_until_s.pop(transport.name, None)
        try:
            if seen.comment is not None:
                return self._already_there(transport, review, seen)
            return self._post_with_care(transport, review, seen)
        except Refused as error:
            return Outcome(Delivery.REFUSED, f"nothing was posted on {_where(review)}: {error}")

    def _post_with_care(self, transport: Transport, review: Review, seen: Seen) -> Outcome:
        self._wait_for_the_lost(review)
        try:
            return self._post(transport, review, seen)
        except Trouble as trouble:
            if not trouble.sent:
                raise
            self._in_doubt[review.marker] = _Doubt(SLOW_SETTLE_S if trouble.slow else SETTLE_S)
            return self._look_again(transport, review, trouble)

    def _look_again(self, transport: Transport, review: Review, trouble: Trouble) -> Outcome:
        """The answer to a post was lost: see whether it has arrived.

        Raises:
            Trouble: It has not, or that cannot be seen.
        """
        try:
            seen = transport.read(review)
        except ReviewServerError:
            raise trouble from None
        if seen.comment is None:
            self._in_doubt[review.marker].since_s = self._clock.monotonic_s()
            raise trouble
        return self._already_there(transport, review, seen)

    def _wait_for_the_lost(self, review: Review) -> None:
        """Post again only once an earlier post, whose answer was lost, must have arrived.

        A server that was frozen answers our reading before it gets to what lay in its queue.

        Raises:
            ReviewServerError: Later.
        """
        doubt = self._in_doubt.get(review.marker)
        if doubt is None:
            return
        now_s = self._clock.monotonic_s()
        if doubt.since_s is None:
            doubt.since_s = now_s
        if now_s - doubt.since_s < doubt.wait_s:
            raise ReviewServerError(
                f"a post on {_where(review)} had no answer; it is not there, and is given"
                f" {doubt.wait_s:g} s to arrive before it is sent again",
                retryable=True,
            )

    def _invisible(self, review: Review, error: Invisible) -> Outcome:
        if error.certain:
            return Outcome(Delivery.GONE, f"{_where(review)} was deleted, or is private")
        return Outcome(
            Delivery.REFUSED,
            f"{_where(review)} is not to be seen: deleted, private, or {self._user} may not read"
            f" {review.project}",
        )

    def _already_there(self, transport: Transport, review: Review, seen: Seen) -> Outcome:
        """Our comment stands; see to the vote, unless a person has seen to it since."""
        label, where = review.label, _where(review)
        if label is None or review.value == 0 or _stale(review, seen):
            return Outcome(Delivery.ALREADY_THERE, f"the comment is on {where} already")
        if seen.value == review.value:
            return Outcome(Delivery.ALREADY_THERE, f"comment and vote are on {where} already")
        if seen.value != 0:
            note = f"the comment is on {where}, a newer vote {label} {seen.value:+d} stands"
            return Outcome(Delivery.ALREADY_THERE, note)
        if _voted(seen.comment or "", label, review.value):
            note = f"the comment is on {where}; its vote was taken away since and stays away"
            return Outcome(Delivery.ALREADY_THERE, note)
        if _permits(seen.rights, review.value):
            taken = transport.post(review, "", {label: review.value})
            if taken.get(label) == review.value:
                note = f"voted {_vote(review)} on {where}, whose comment was there"
                return Outcome(Delivery.DELIVERED, note)
        return Outcome(
            Delivery.REFUSED,
            f"the comment is on {where}, but the vote {_vote(review)} was never taken;"
            f" {self._fix(label, seen.rights)}",
        )

    def _post(self, transport: Transport, review: Review, seen: Seen) -> Outcome:
        stale = _stale(review, seen)
        if stale and not review.comment_when_stale:
            return Outcome(Delivery.STALE, stale)
        if stale:
            transport.post(review, review.message, {})
            return Outcome(Delivery.DELIVERED, f"commented without a vote: {stale}")
        if review.label is None:
            transport.post(review, review.message, {})
            return Outcome(Delivery.DELIVERED, f"commented on {_where(review)}")
        return self._post_vote(transport, review, review.label, seen.rights)

    def _post_vote(
        self, transport: Transport, review: Review, label: str, rights: Rights | None
    ) -> Outcome:
        try:
            taken = transport.post(review, review.message, {label: review.value})
        except Refused as refusal:
            if not refusal.no_right:
                raise
            return self._without_vote(transport, review, label, rights, refusal)
        if taken.get(label, 0) == review.value:
            return Outcome(Delivery.DELIVERED, f"voted {_vote(review)} on {_where(review)}")
        return Outcome(
            Delivery.REFUSED,
            f"commented on {_where(review)}, but Gerrit dropped the vote {_vote(review)};"
            f" {self._fix(label, rights)}",
        )

    def _without_vote(
        self,
        transport: Transport,
        review: Review,
        label: str,
        rights: Rights | None,
        refusal: Refused,
    ) -> Outcome:
        """Post the comment alone: the author learns the result even where we may not vote."""
        transport.post(review, f"{review.message}\n\n{VOTE_NOT_TAKEN}", {})
        return Outcome(
            Delivery.REFUSED,
            f"commented on {_where(review)} without the vote {_vote(review)}, which Gerrit"
            f" refused ({refusal.message}); {self._fix(label, rights)}",
        )

    def _fix(self, label: str, rights: Rights | None) -> str:
        if rights is None:
            return (
                f"see that the project has the label {label}, and that {self._user} may give"
                " that vote on its refs/heads/*"
            )
        if not rights.exists:
            return f"the project has no label {label}: correct the pipeline's label, or define it"
        if rights.permitted is None:
            return f"give {self._user} the right 'Label {label}' on the project's refs/heads/*"
        low, high = rights.permitted
        return (
            f"{self._user} may vote {low:+d} to {high:+d} on {label}: widen that right, or the"
            " label's values, or change the pipeline's success and failure"
        )


def _summed_up(troubles: Sequence[tuple[Transport, Trouble]]) -> ReviewServerError:
    """One error for all ways that were tried."""
    if len(troubles) == 1:
        message, hint = troubles[0][1].message, troubles[0][1].hint
    else:
        message, hint = "; ".join(f"by {t.name}: {e}" for t, e in troubles), ""
    whole = [trouble for _, trouble in troubles if trouble.whole_server]
    if len(whole) < len(troubles):
        return ReviewServerError(message, hint=hint, retryable=True)
    return ServerAway(message, hint=hint, pause_s=max(t.pause_s for t in whole))


def _permits(rights: Rights | None, value: int) -> bool:
    if rights is None or rights.permitted is None:
        return False
    low, high = rights.permitted
    return low <= value <= high


def _voted(comment: str, label: str, value: int) -> bool:
    """Whether Gerrit's own first paragraph says that the vote was taken with the comment."""
    first = comment.partition("\n\n")[0]
    return bool(re.search(rf"(?:^|\s){re.escape(label)}{re.escape(f'{value:+d}')}(?:\s|$)", first))


def _where(review: Review) -> str:
    return f"{review.change_number},{review.patchset}"


def _vote(review: Review) -> str:
    return f"{review.label} {review.value:+d}"


def _stale(review: Review, seen: Seen) -> str:
    """Why the review no longer counts; empty while it does."""
    if seen.status != "NEW":
        return f"{_where(review)} is {seen.status.lower()}"
    if (seen.current_patchset, seen.current_revision) != (review.patchset, review.revision):
        return f"{_where(review)} is not current, patch set {seen.current_patchset} is"
    return ""
