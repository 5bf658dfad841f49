# SPDX-License-Identifier: Apache-2.0
"""Reviews by Gerrit's REST interface: the ordinary way, which tells the most."""

from collections.abc import Mapping
from http import HTTPStatus

from ci.errors import ReviewServerError
from ci.gerrit.rest import ChangeDetail, GerritRest, NoAnswer, NotGerrit, RestError
from ci.model.review import Review
from ci.reporters.transport import Instead, Invisible, Refused, Rights, Seen, Trouble

LOGIN_PAUSE_S = 60.0  # a wrong password tried too often locks the account
LONGEST_ASKED_S = 3600.0
REFUSALS = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
UNANSWERED = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT})


class RestTransport:
    """One account's REST client as a transport.

    Args:
        rest: The client.
    """

    name = "rest"

    def __init__(self, rest: GerritRest) -> None:
        self._rest = rest

    def read(self, review: Review) -> Seen:
        """The change that a review is about."""
        try:
            detail = self._rest.detail(review.project, review.change_number)
        except RestError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise _told(error, sent=False) from error
            raise self._invisible(review, error) from error
        except ReviewServerError as error:
            raise _told(error, sent=False) from error
        return _seen(detail, review, self._rest.settings.user)

    def post(self, review: Review, message: str, labels: Mapping[str, int]) -> Mapping[str, int]:
        """Post a message with votes; Gerrit's reply names the labels it took."""
        body = {"message": message, "tag": review.tag, "labels": dict(labels)}
        try:
            return self._rest.review(review.project, review.change_number, review.revision, body)
        except ReviewServerError as error:
            raise _told(error, sent=True) from error

    def _invisible(self, review: Review, cause: RestError) -> ReviewServerError:
        """Tell a change that has gone from a project that we may not read."""
        try:
            certain = self._rest.reads_project(review.project)
        except ReviewServerError as error:
            return _told(error, sent=False)
        return Invisible(cause.message, certain=certain)


def _seen(detail: ChangeDetail, review: Review, user: str) -> Seen:
    ours = [
        message.text
        for message in detail.messages
        if message.tag == review.tag and message.author == user and review.marker in message.text
    ]
    state = detail.labels.get(review.label) if review.label else None
    return Seen(
        status=detail.status,
        current_patchset=detail.current_patchset,
        current_revision=detail.current_revision,
        comment=ours[0] if ours else None,
        value=state.value if state else 0,
        rights=Rights(exists=state is not None, permitted=state.permitted if state else None),
    )


def _told(error: ReviewServerError, *, sent: bool) -> ReviewServerError:
    """What an error of the client means to whoever has a review to give.

    Args:
        error: As the client raised it.
        sent: It was a post.
    """
    if isinstance(error, RestError):
        return _answered(error, sent=sent)
    if isinstance(error, NoAnswer | NotGerrit):
        return Trouble(
            error.message,
            hint=error.hint,
            sent=sent and (isinstance(error, NotGerrit) or error.sent),
            slow=isinstance(error, NoAnswer) and error.slow,
            instead=Instead.AT_ONCE,
            whole_server=True,
        )
    # It is Gerrit, or says so, but makes no sense.
    return Trouble(error.message, hint=error.hint, sent=sent, instead=Instead.AFTER_SEVERAL)


def _answered(error: RestError, *, sent: bool) -> ReviewServerError:
    status = error.status
    if status in REFUSALS:
        return Refused(
            error.message, hint=error.hint, no_right=sent and status == HTTPStatus.FORBIDDEN
        )
    if status == HTTPStatus.UNAUTHORIZED or status < HTTPStatus.BAD_REQUEST:
        # The account cannot log in, or is sent elsewhere to do it.
        return Trouble(
            error.message,
            hint=error.hint,
            instead=Instead.AT_ONCE,
            whole_server=True,
            pause_s=LOGIN_PAUSE_S,
        )
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        many = status == HTTPStatus.TOO_MANY_REQUESTS
        return Trouble(
            error.message,
            hint=error.hint,
            whole_server=many,
            pause_s=min(error.retry_after_s, LONGEST_ASKED_S),
        )
    own_fault = status == HTTPStatus.INTERNAL_SERVER_ERROR
    return Trouble(
        error.message,
        hint=error.hint,
        sent=sent and (own_fault or status in UNANSWERED),
        slow=status == HTTPStatus.GATEWAY_TIMEOUT,
        instead=Instead.AFTER_SEVERAL,
        whole_server=not own_fault,
        pause_s=min(error.retry_after_s, LONGEST_ASKED_S),
    )
