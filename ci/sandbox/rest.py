# SPDX-License-Identifier: Apache-2.0
"""The sandbox's REST interface: Gerrit's addresses, statuses and refusals, without the HTTP."""

import re
from collections.abc import Callable
from typing import Any

from ci.sandbox.calls import (
    BAD_REQUEST,
    COMPATIBLE_WITH,
    CREATED,
    QUERY_LIMIT,
    Reply,
    Request,
    read_review,
)
from ci.sandbox.changes import CONFLICT, FORBIDDEN, NOT_FOUND, Changes, Refused
from ci.sandbox.queries import BadQuery, parse_time
from ci.sandbox.records import ChangeRecord, PatchSetRecord
from ci.sandbox.rest_shapes import DETAIL, RestShapes
from ci.sandbox.rest_states import StateCalls
from ci.sandbox.search import Search


class Rest:
    """Answers calls; thread-safe.

    Args:
        changes: The rules and the state.
        shapes: Makes JSON values.
        search: Answers queries.
        create_project: Makes a project.
        events_log: Whether to stand in for the events-log plugin.
    """

    def __init__(
        self,
        changes: Changes,
        shapes: RestShapes,
        search: Search,
        *,
        create_project: Callable[[str], None],
        events_log: bool = False,
    ) -> None:
        self._states = StateCalls(changes, shapes)
        self._search = search
        self._events_log = events_log
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
            case ("GET", "projects", name, "branches", branch):
                return Reply(value=self._branch(name, branch))
            case ("GET", "plugins", "events-log", "events") if self._events_log:
                return Reply(text=self._logged(request))
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
                raise Refused(CONFLICT, f"Project {name} already exists")
            self._create_project(name)
        elif method != "GET" or not known:
            raise Refused(NOT_FOUND, f"Not found: {name}")
        shown = {"id": name, "name": name, "state": "ACTIVE"}
        return Reply(value=shown, status=CREATED if method == "PUT" else 200)

    def _branch(self, project: str, branch: str) -> Any:
        ref = f"refs/heads/{branch.removeprefix('refs/heads/')}"
        known = self._store.has_project(project)
        tip = self._changes.repositories.tip(project, ref) if known else ""
        if not tip:
            raise Refused(NOT_FOUND, f"Not found: {branch if known else project}")
        return {"ref": ref, "revision": tip}

    def _logged(self, request: Request) -> str:
        """A stand-in for the plugin: what the stream sent from `t1` to `t2`, a line each."""
        if not (request.user.stream_events or request.user.admin):
            raise Refused(FORBIDDEN, "Forbidden")
        try:
            since, until = (
                parse_time(request.query[name][-1]) if name in request.query else default
                for name, default in (("t1", 0.0), ("t2", float(2**40)))
            )
        except BadQuery as error:
            raise Refused(BAD_REQUEST, error.message) from error
        return "".join(f"{line}\n" for line in self._store.events(since, until))

    def _query(self, request: Request) -> Any:
        texts = request.query.get("q", [""])
        answers = [self._rows(request, text) for text in texts]
        return answers if len(texts) > 1 else answers[0]

    def _rows(self, request: Request, text: str) -> list[Any]:
        try:
            query = self._search.find(text, request.username)
        except BadQuery as error:
            raise Refused(BAD_REQUEST, error.message) from error
        found = query.changes[request.number("S", request.number("start", 0)) :]
        limit = min(request.number("n", 0) or query.limit or QUERY_LIMIT, QUERY_LIMIT)
        options = request.query.get("o", [])
        rows = [self._shapes.change(one, options, request.account) for one in found[:limit]]
        if rows and len(found) > limit:
            rows[-1]["_more_changes"] = True
        return rows

    def _find(self, change_id: str, username: str) -> ChangeRecord:
        number = re.fullmatch(r"(?:(.+)~)?(\d{1,9})", change_id)
        found: ChangeRecord | None = None
        if number is not None:
            found = self._store.change(int(number.group(2)))
            if found is not None and number.group(1) not in {None, found.project}:
                found = None
        else:
            matching = [one for one in self._store.changes() if change_id in _names(one)]
            found = matching[0] if len(matching) == 1 else None
        if found is None or not found.visible_to(username):
            raise Refused(NOT_FOUND, f"Not found: {change_id}")
        return found

    def _change(
        self, request: Request, method: str, change_id: str, rest: tuple[str, ...]
    ) -> Reply:
        change = self._find(change_id, request.username)
        options = set(request.query.get("o", []))
        done = self._states.answer(request, change, rest)
        if done is not None:
            return done
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
            case ("GET", "comments"):
                return Reply(value=self._shapes.comments(change, patchset.number))
            case ("GET", "commit"):
                commit = {"commit": patchset.revision, **self._shapes.commit(patchset)}
                return Reply(value=commit)
            case ("GET", "review"):
                options = {*DETAIL, "CURRENT_REVISION"}
                return Reply(value=self._shapes.change(change, options, request.account))
            case ("POST", "review"):
                said = read_review(request.fields)
                votes = self._changes.review(change.number, patchset.number, request.user, said)
                reviewed = self._store.change(change.number) or change
                shown = self._shapes.change(reviewed, (), request.account)
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
