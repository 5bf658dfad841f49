# SPDX-License-Identifier: Apache-2.0
"""Step 8 of 9: a review on Gerrit, exactly once, and only where it still counts.

Reads first, so that a delivery which is repeated after a crash finds its own message. Checks
what the server took, because Gerrit drops a vote it does not like without a word.
"""

from http import HTTPStatus

from ci.errors import ReviewServerError
from ci.gerrit.rest import ChangeDetail, GerritRest, LabelState, RestError
from ci.model.review import Review
from ci.reporters.base import Delivery

REFUSALS = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
VOTE_NOT_TAKEN = "The review server did not take the vote that belongs to this comment."


class GerritReporter:
    """Posts reviews through one account. One call at a time.

    Args:
        rest: The account's REST client.
        own_username: The account's username: only its messages count as ours.
    """

    def __init__(self, rest: GerritRest, own_username: str) -> None:
        self._rest = rest
        self._user = own_username

    def deliver(self, review: Review) -> tuple[Delivery, str]:
        """Post a review unless it is stale or there already.

        Returns:
            What became of it and one sentence for the operator.

        Raises:
            ReviewServerError: Nothing is known of the outcome; try again later.
        """
        try:
            detail = self._rest.detail(review.project, review.change_number)
        except RestError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return Delivery.REFUSED, (
                    f"{_where(review)} is not to be seen: deleted, private, or"
                    f" {self._user} may not read {review.project}"
                )
            raise
        there = self._already_there(review, detail)
        if there is not None:
            return there
        stale = _stale(review, detail)
        if stale:
            return Delivery.STALE, stale
        return self._post(review, detail)

    def _already_there(self, review: Review, detail: ChangeDetail) -> tuple[Delivery, str] | None:
        found = any(
            message.tag == review.tag
            and message.author == self._user
            and review.marker in message.text
            for message in detail.messages
        )
        if not found:
            return None
        label = review.label
        if label is None or review.value == 0 or _stale(review, detail):
            return Delivery.ALREADY_THERE, f"the comment is on {_where(review)} already"
        state = detail.labels.get(label)
        value = state.value if state else 0
        if value == review.value:
            return Delivery.ALREADY_THERE, f"comment and vote are on {_where(review)} already"
        if value != 0:
            return (
                Delivery.ALREADY_THERE,
                f"the comment is on {_where(review)}, a newer vote {label} {value:+d} stands",
            )
        if self._vote_now(review, label, state):
            return (
                Delivery.DELIVERED,
                f"voted {_vote(review)} on {_where(review)}, whose comment was there",
            )
        return Delivery.REFUSED, (
            f"the comment is on {_where(review)}, but the vote {_vote(review)} is not:"
            f" it was removed or never taken; {self._fix(label, state)}"
        )

    def _vote_now(self, review: Review, label: str, state: LabelState | None) -> bool:
        """Give the vote that the comment still lacks, where the right has come meanwhile."""
        if state is None or state.permitted is None:
            return False
        low, high = state.permitted
        if not low <= review.value <= high:
            return False
        return self._send(review, "", {label: review.value}).get(label) == review.value

    def _post(self, review: Review, detail: ChangeDetail) -> tuple[Delivery, str]:
        label = review.label
        if label is None:
            try:
                self._send(review, review.message, {})
            except RestError as error:
                return self._refused(review, error)
            return Delivery.DELIVERED, f"commented on {_where(review)}"
        try:
            taken = self._send(review, review.message, {label: review.value})
        except RestError as error:
            if error.status != HTTPStatus.FORBIDDEN:
                return self._refused(review, error)
            return self._without_vote(review, label, detail, error)
        if taken.get(label) == review.value:
            return Delivery.DELIVERED, f"voted {_vote(review)} on {_where(review)}"
        return Delivery.REFUSED, (
            f"commented on {_where(review)}, but Gerrit dropped the vote {_vote(review)};"
            f" {self._fix(label, detail.labels.get(label))}"
        )

    def _without_vote(
        self, review: Review, label: str, detail: ChangeDetail, refusal: RestError
    ) -> tuple[Delivery, str]:
        """Post the comment alone: the author learns the result even where we may not vote."""
        try:
            self._send(review, f"{review.message}\n\n{VOTE_NOT_TAKEN}", {})
        except RestError as error:
            return self._refused(review, error)
        return Delivery.REFUSED, (
            f"commented on {_where(review)} without the vote {_vote(review)}, which Gerrit"
            f" refused ({refusal.message}); {self._fix(label, detail.labels.get(label))}"
        )

    def _refused(self, review: Review, error: RestError) -> tuple[Delivery, str]:
        """A refusal that no repeat would change; anything else is tried again.

        Raises:
            ReviewServerError: Trying again may help.
        """
        if error.status not in REFUSALS:
            raise ReviewServerError(
                f"review of {_where(review)}: {error.message}",
                hint=error.hint,
                retryable=error.retryable,
            ) from error
        return Delivery.REFUSED, f"nothing was posted on {_where(review)}: {error}"

    def _send(self, review: Review, message: str, labels: dict[str, int]) -> dict[str, int]:
        body = {"message": message, "tag": review.tag, "labels": labels}
        return self._rest.review(review.project, review.change_number, review.revision, body)

    def _fix(self, label: str, state: LabelState | None) -> str:
        if state is None:
            return f"the project has no label {label}: correct the pipeline's label, or define it"
        if state.permitted is None:
            return f"give {self._user} the right 'Label {label}' on the project's refs/heads/*"
        low, high = state.permitted
        return (
            f"{self._user} may vote {low:+d} to {high:+d} on {label}: widen that right, or the"
            " label's values, or change the pipeline's success and failure"
        )


def _where(review: Review) -> str:
    return f"{review.change_number},{review.patchset}"


def _vote(review: Review) -> str:
    return f"{review.label} {review.value:+d}"


def _stale(review: Review, detail: ChangeDetail) -> str:
    """Why the review no longer counts; empty while it does."""
    if detail.status != "NEW":
        return f"{_where(review)} is {detail.status.lower()}"
    if (detail.current_patchset, detail.current_revision) != (review.patchset, review.revision):
        return f"{_where(review)} is not current, patch set {detail.current_patchset} is"
    return ""
