# SPDX-License-Identifier: Apache-2.0
"""The sandbox's REST interface: Gerrit's addresses, statuses and refusals, without the HTTP."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ci.sandbox.changes import FORBIDDEN, NOT_FOUND, Changes, Refused, ReviewInput
from ci.sandbox.queries import BadQuery, parse
from ci.sandbox.records import AccountRecord, ChangeRecord, PatchSetRecord
from ci.sandbox.rest_shapes import DETAIL, RestShapes
from ci.sandbox.ssh_commands import COMPATIBLE_WITH, QUERY_LIMIT

BAD_REQUEST, CREATED = 400, 201
_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class Request:
    """A call, with the path divided at its slashes and decoded.

    Attributes:
        method: GET, POST or PUT.
        path: Segments without empty ones and without `a`.
        query: Parameter to its values.
        body: Parsed JSON; None when nothing was sent.
        account: Who is logged in, or None.
    """

    method: str
    path: tuple[str, ...]
    query: Mapping[str, Sequence[str]]
    account: AccountRecord | None
    body: Any = field(default=None)

    def number(self, name: str, default: int) -> int:
        """A parameter that is a number."""
        given = self.query.get(name, [""])[-1]
        return int(given) if given.isdecimal() else default

    @property
    def fields(self) -> Mapping[str, Any]:
        """The body as an object."""
        if self.body is None:
            return {}
        if not isinstance(self.body, dict):
            raise Refused(BAD_REQUEST, "Invalid application/json in request")
        return self.body

    @property
    def user(self) -> AccountRecord:
        """Who is logged in.

        Raises:
            Refused: Nobody is.
        """
        if self.account is None:
            raise Refused(FORBIDDEN, "Authentication required")
        return self.account


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A status and a JSON value."""

    value: Any
    status: int = 200


class Rest:
    """Answers calls; thread-safe.

    Args:
        changes: The rules and the state.
        shapes: Makes JSON values.
        create_project: Makes a project.
    """

    def __init__(
        self, changes: Changes, shapes: RestShapes, create_project: Callable[[str], None]
    ) -> None:
        self._changes = changes
        self._store = changes.store
        self._shapes = shapes
        self._create_project = create_project

    def answer(self, request: Request) -> Reply:  # noqa: PLR0911 - one line for each address
        """Answer one call.

        Raises:
            Refused: With the status and text that Gerrit gives.
        """
        match (request.method, *request.path):
            case ("GET", "config", "server", "version"):
                return Reply(value=COMPATIBLE_WITH)
            case ("GET", "accounts", "self"):
                return Reply(value=self._self(request))
            case ("GET", "accounts", "self", "capabilities"):
                return Reply(value=self._capabilities(request))
            case ("GET", "projects"):
                return Reply(value={one: {"state": "ACTIVE"} for one in self._store.projects()})
            case (method, "projects", name):
                return self._project(request, method, name)
            case ("GET", "changes"):
                return Reply(value=self._query(request))
            case (method, "changes", change_id, *rest):
                return self._change(request, method, change_id, tuple(rest))
        raise Refused(NOT_FOUND, "Not Found")

    def _self(self, request: Request) -> Any:
        if request.account is None:
            raise Refused(FORBIDDEN, "Resolving account 'self' requires login")
        return self._shapes.account(request.account.username, detailed=True)

    def _capabilities(self, request: Request) -> Any:
        user = request.user
        shown: dict[str, Any] = {"administrateServer": True} if user.admin else {}
        shown |= {"streamEvents": True} if user.stream_events or user.admin else {}
        return shown | {"queryLimit": {"min": 0, "max": QUERY_LIMIT}}

    def _project(self, request: Request, method: str, name: str) -> Reply:
        known = self._store.has_project(name)
        if method == "PUT":
            if not request.user.admin:
                raise Refused(FORBIDDEN, "create project not permitted")
            if known:
                raise Refused(409, f"Project {name} already exists")
            self._create_project(name)
        elif method != "GET" or not known:
            raise Refused(NOT_FOUND, f"Not found: {name}")
        shown = {"id": name, "name": name, "state": "ACTIVE"}
        return Reply(value=shown, status=CREATED if method == "PUT" else 200)

    def _query(self, request: Request) -> Any:
        texts = request.query.get("q", [""])
        answers = [self._rows(request, text) for text in texts]
        return answers if len(texts) > 1 else answers[0]

    def _rows(self, request: Request, text: str) -> list[Any]:
        try:
            query = parse(text)
        except BadQuery as error:
            raise Refused(BAD_REQUEST, error.message) from error
        found = [one for one in self._store.changes() if query.matches(one)]
        found = found[request.number("S", request.number("start", 0)) :]
        limit = min(request.number("n", query.limit or QUERY_LIMIT), _BATCH)
        options = request.query.get("o", [])
        rows = [self._shapes.change(one, options, request.account) for one in found[:limit]]
        if rows and len(found) > limit:
            rows[-1]["_more_changes"] = True
        return rows

    def _find(self, change_id: str) -> ChangeRecord:
        number = re.fullmatch(r"(?:(.+)~)?(\d{1,9})", change_id)
        found: ChangeRecord | None = None
        if number is not None:
            found = self._store.change(int(number.group(2)))
            if found is not None and number.group(1) not in {None, found.project}:
                found = None
        else:
            matching = [one for one in self._store.changes() if change_id in _names(one)]
            found = matching[0] if len(matching) == 1 else None
        if found is None:
            raise Refused(NOT_FOUND, f"Not found: {change_id}")
        return found

    def _change(
        self, request: Request, method: str, change_id: str, rest: tuple[str, ...]
    ) -> Reply:
        change = self._find(change_id)
        options = set(request.query.get("o", []))
        match (method, *rest):
            case ("GET",):
                return Reply(value=self._shapes.change(change, options, request.account))
            case ("GET", "detail"):
                return Reply(value=self._shapes.change(change, options | DETAIL, request.account))
            case ("GET", "messages"):
                return Reply(value=self._shapes.messages(change, detailed=True))
            case ("POST", "abandon" | "restore" | "submit" as verb):
                return self._act(request, change, verb)
            case (_, "revisions", revision, *inner):
                return self._revision(request, change, revision, tuple(inner))
        raise Refused(NOT_FOUND, "Not Found")

    def _act(self, request: Request, change: ChangeRecord, verb: str) -> Reply:
        reason = str(request.fields.get("message", ""))
        if verb == "abandon":
            done = self._changes.abandon(change.number, request.user, reason)
        elif verb == "restore":
            done = self._changes.restore(change.number, request.user, reason)
        else:
            done = self._changes.submit(change.number, request.user)
        return Reply(value=self._shapes.change(done, (), request.account))

    def _revision(
        self, request: Request, change: ChangeRecord, revision: str, inner: tuple[str, ...]
    ) -> Reply:
        patchset = _patchset(change, revision)
        match (request.method, *inner):
            case ("GET", "files"):
                return Reply(value=self._shapes.files(change, patchset))
            case ("GET", "commit"):
                commit = {"commit": patchset.revision, **self._shapes.commit(patchset)}
                return Reply(value=commit)
            case ("GET", "review"):
                options = {*DETAIL, "CURRENT_REVISION"}
                return Reply(value=self._shapes.change(change, options, request.account))
            case ("POST", "review"):
                said = read_review(request.fields)
                votes = self._changes.review(change.number, patchset.number, request.user, said)
                shown = self._shapes.change(self._find(str(change.number)), (), request.account)
                return Reply(
                    value={**({} if votes is None else {"labels": votes}), "change_info": shown}
                )
        raise Refused(NOT_FOUND, "Not Found")


def _names(change: ChangeRecord) -> tuple[str, str]:
    return change.change_id, f"{change.project}~{change.branch}~{change.change_id}"


def _patchset(change: ChangeRecord, revision: str) -> PatchSetRecord:
    if revision == "current":
        return change.current
    for one in change.patchsets:
        if revision in {str(one.number), one.revision}:
            return one
    raise Refused(NOT_FOUND, f"Not found: {revision}")


def read_review(fields: Mapping[str, Any]) -> ReviewInput:
    """Read the body of a review; fields that the sandbox has no use for are passed over.

    Raises:
        Refused: A field has another type than Gerrit's.
    """
    labels, comments = fields.get("labels"), fields.get("comments") or {}
    try:
        return ReviewInput(
            message=str(fields.get("message") or ""),
            labels=None if labels is None else {str(k): int(v) for k, v in labels.items()},
            tag=str(fields.get("tag") or ""),
            comments=sum(len(one) for one in comments.values()),
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise Refused(BAD_REQUEST, "Invalid application/json in request") from error


def spell(value: Any) -> bytes:
    """A JSON value as Gerrit sends it: after a line that no script can run."""
    return b")]}'\n" + json.dumps(value, separators=(",", ":")).encode() + b"\n"
