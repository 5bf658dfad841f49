# SPDX-License-Identifier: Apache-2.0
"""One server's past, by whichever way answers: REST, else SSH, and the events-log besides."""

from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from http import HTTPStatus

from ci.clock import Clock
from ci.errors import ReviewServerError
from ci.gerrit import catchup, query
from ci.gerrit.events_log import EventsLog, with_logged
from ci.gerrit.history import Reading
from ci.gerrit.rest import GerritRest, RestError
from ci.layout import Connection
from ci.log import get as get_logger

ReadBySsh = Callable[[Connection, datetime, Collection[str]], Reading]
SSH_EVERY_S = 60.0
"""A login each time: not as often as REST is tried."""

log = get_logger(__name__)


class Reconciler:
    """Reads what happened on one connection's watched projects. Thread-safe.

    Args:
        rest: The server.
        projects: The projects that some pipeline of this connection watches.
        clock: Where time comes from.
        read_by_ssh: As `ci.gerrit.query.read`.
    """

    def __init__(
        self,
        rest: GerritRest,
        projects: Collection[str],
        clock: Clock,
        *,
        read_by_ssh: ReadBySsh = query.read,
    ) -> None:
        self._rest = rest
        self._connection = rest.settings
        self._projects = frozenset(projects)
        self._clock = clock
        self._read_by_ssh = read_by_ssh
        self._ssh_at_s: float | None = None
        self._log = EventsLog(rest, rest.settings.name)

    def server_time(self) -> datetime:
        """The server's own clock, aware, UTC."""
        return self._rest.server_time()

    def reconnected(self) -> None:
        """The stream was opened anew, perhaps by another server than before."""
        self._log.ask_again()
        self._ssh_at_s = None

    def read(self, since: datetime) -> Reading:
        """What happened since then and a little before.

        Raises:
            ReviewServerError: Neither way answered, or SSH did not long ago; nothing is lost
                by asking again.
        """
        overlap_s = self._connection.catch_up_overlap_s
        try:
            found = catchup.read(
                self._rest, self._connection.name, since, self._projects, overlap_s=overlap_s
            )
        except ReviewServerError as error:
            if not is_away(error):
                raise
            return self._by_ssh(since, error)
        begin = since - timedelta(seconds=overlap_s)
        return with_logged(found, self._log.read(begin, self._projects))

    def _by_ssh(self, since: datetime, why: ReviewServerError) -> Reading:
        now = self._clock.monotonic_s()
        if self._ssh_at_s is not None and now - self._ssh_at_s < SSH_EVERY_S:
            raise why
        self._ssh_at_s = now
        log.warning(
            "asked by SSH", action="fall-back", connection=self._connection.name, reason=why.message
        )
        try:
            return self._read_by_ssh(self._connection, since, self._projects)
        except ReviewServerError as error:
            raise ReviewServerError(
                f"{why.message}; and by SSH: {error.message}", hint=why.hint, retryable=True
            ) from error


def is_away(error: ReviewServerError) -> bool:
    """Whether REST itself fails, so that another way may answer what it did not.

    Not where it answers and declines: SSH would find the same.
    """
    if not isinstance(error, RestError):
        return error.retryable
    return (
        error.status == HTTPStatus.UNAUTHORIZED
        or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR
        or HTTPStatus.MULTIPLE_CHOICES <= error.status < HTTPStatus.BAD_REQUEST
    )
