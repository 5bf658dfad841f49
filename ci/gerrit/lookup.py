# SPDX-License-Identifier: Apache-2.0
"""Changes that others depend on, asked of Gerrit by number or by Change-Id.

Source: https://gerrit-review.googlesource.com/Documentation/rest-api-changes.html
"""

from http import HTTPStatus

from ci.depends import Found
from ci.errors import DependencyError, ReviewServerError
from ci.gerrit import fields
from ci.gerrit.facts import change_facts
from ci.gerrit.fields import Json, MalformedEvent
from ci.gerrit.rest import GerritRest, RestError
from ci.model.facts import ChangeFacts
from ci.model.stack import Dependency

OPTIONS = ("CURRENT_REVISION", "CURRENT_COMMIT")
MOST = 50
MESSAGE_LIMIT = 256 * 1024
_HIDDEN = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN})


class GerritLookup:
    """Answers for one server. Thread-safe, keeps nothing.

    Every method raises ReviewServerError, `retryable` where waiting may help: a password that
    is refused counts, for the operator mends it and the build goes on.

    Args:
        rest: The server, seen by our account.
    """

    def __init__(self, rest: GerritRest) -> None:
        self._rest = rest

    def by_number(self, number: int, project: str) -> Found | None:
        """A change by its number; None where it is gone or hidden from us."""
        try:
            if project:
                return _found(self._rest.change(project, number, OPTIONS))
            # A bare number is no path: without its project only the search knows it.
            found = self._rest.changes(f"change:{number}", limit=2, options=OPTIONS)
        except RestError as error:
            if error.status in _HIDDEN:
                return None
            raise _patient(error) from error
        return next((_found(one) for one in found if one.get("_number") == number), None)

    def by_change_id(self, change_id: str) -> tuple[Found, ...]:
        """All changes with a Change-Id that we can see, at most 50."""
        try:
            found = self._rest.changes(f"change:{change_id}", limit=MOST, options=OPTIONS)
        except RestError as error:
            raise _patient(error) from error
        return tuple(_found(one) for one in found if one.get("change_id") == change_id)

    def facts(self, project: str, number: int) -> ChangeFacts | None:
        """A change with its votes; None where it is gone or hidden from us."""
        try:
            return change_facts(self._rest, project, number)
        except MalformedEvent as error:
            raise _unreadable(error) from error
        except RestError as error:
            if error.status in _HIDDEN:
                return None
            raise _patient(error) from error


def _found(source: Json) -> Found:
    """A ChangeInfo with its current commit.

    Raises:
        DependencyError: It cannot be read as one that git may be asked for.
    """
    try:
        change = fields.change(source, number_name="_number", id_name="change_id", url="")
        revision = fields.text(source, "current_revision")
        current = fields.obj(fields.obj(source, "revisions"), revision)
        patchset = fields.patchset(
            current, of=change.number, number_name="_number", revision=revision
        )
        message = fields.text(fields.obj(current, "commit"), "message", default="")
    except MalformedEvent as error:
        raise _unreadable(error) from error
    return Found(
        patchset=Dependency(
            project=change.project,
            branch=change.branch,
            number=change.number,
            patchset=patchset.number,
            revision=patchset.revision,
            ref=patchset.ref,
        ),
        status=change.status,
        message=message[:MESSAGE_LIMIT],
    )


def _unreadable(error: MalformedEvent) -> DependencyError:
    return DependencyError(f"a change that is depended on cannot be read: {error.message}")


def _patient(error: RestError) -> ReviewServerError:
    return ReviewServerError(error.message, hint=error.hint, retryable=True)
