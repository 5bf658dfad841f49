# SPDX-License-Identifier: Apache-2.0
"""REST's addresses below one change: its states, topic, hashtags, reviewers and comments."""

from ci.sandbox.calls import BAD_REQUEST, CREATED, NO_CONTENT, Reply, Request
from ci.sandbox.changes import NOT_FOUND, Changes, Refused
from ci.sandbox.records import ChangeRecord
from ci.sandbox.rest_shapes import RestShapes
from ci.sandbox.states import States


class StateCalls:
    """Answers calls about a change that the caller may see; thread-safe.

    Args:
        changes: The rules and the state.
        shapes: Makes JSON values.
    """

    def __init__(self, changes: Changes, shapes: RestShapes) -> None:
        self._states = States(changes)
        self._shapes = shapes

    def answer(  # noqa: PLR0911 - one line for each address
        self, request: Request, change: ChangeRecord, rest: tuple[str, ...]
    ) -> Reply | None:
        """Answer one call; None where the address is none of these.

        Raises:
            Refused: With the status and text that Gerrit gives.
        """
        if not rest:
            return self._whole(request, change)
        match rest:
            case ("comments",) if request.method == "GET":
                return Reply(value=self._shapes.comments(change))
            case ("wip" | "ready" | "private" as state,):
                return self._state(request, change, state)
            case ("topic",):
                return self._topic(request, change)
            case ("hashtags",):
                return self._hashtags(request, change)
            case ("reviewers", *inner):
                return self._reviewers(request, change, tuple(inner))
        return None

    def _whole(self, request: Request, change: ChangeRecord) -> Reply | None:
        if request.method != "DELETE":
            return None
        self._states.delete(change.number, request.user)
        return Reply(status=NO_CONTENT)

    def _state(self, request: Request, change: ChangeRecord, state: str) -> Reply | None:
        reason = str(request.fields.get("message") or "")
        user, number = request.user, change.number
        match (request.method, state):
            case ("POST", "wip" | "ready"):
                self._states.set_wip(number, user, reason, wip=state == "wip")
                return Reply(value="")
            case ("POST", "private"):
                news = self._states.set_private(number, user, reason, private=True)
                return Reply(value="", status=CREATED if news else 200)
            case ("DELETE", "private"):
                self._states.set_private(number, user, reason, private=False)
                return Reply(status=NO_CONTENT)
        return None

    def _topic(self, request: Request, change: ChangeRecord) -> Reply | None:
        if request.method == "GET":
            return Reply(value=change.topic)
        if request.method not in {"PUT", "DELETE"}:
            return None
        wanted = request.fields.get("topic") if request.method == "PUT" else ""
        topic = self._states.set_topic(change.number, request.user, str(wanted or ""))
        return Reply(value=topic) if topic else Reply(status=NO_CONTENT)

    def _hashtags(self, request: Request, change: ChangeRecord) -> Reply | None:
        if request.method == "GET":
            return Reply(value=list(change.hashtags))
        if request.method != "POST":
            return None
        add, remove = request.words("add"), request.words("remove")
        tags = self._states.set_hashtags(change.number, request.user, add=add, remove=remove)
        return Reply(value=list(tags))

    def _reviewers(
        self, request: Request, change: ChangeRecord, inner: tuple[str, ...]
    ) -> Reply | None:
        match (request.method, *inner):
            case ("GET",):
                return Reply(value=self._shapes.reviewers(change))
            case ("POST",):
                return self._add_reviewer(request, change)
            case ("GET", name, "votes"):
                if name not in change.all_reviewers():
                    raise Refused(NOT_FOUND, f"Not found: {name}")
                return Reply(value=self._shapes.votes(change, name))
            case ("DELETE", name, "votes", label):
                self._states.delete_vote(change.number, request.user, name, label)
                return Reply(status=NO_CONTENT)
        return None

    def _add_reviewer(self, request: Request, change: ChangeRecord) -> Reply:
        name = str(request.fields.get("reviewer") or "")
        try:
            news = self._states.add_reviewer(change.number, request.user, name)
        except Refused as refusal:
            told = {"input": name, "error": refusal.message}
            return Reply(value=told, status=BAD_REQUEST)
        who = self._shapes.account(name, detailed=True)
        return Reply(value={"input": name, "reviewers": [who] if news else []})
