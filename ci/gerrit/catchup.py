# SPDX-License-Identifier: Apache-2.0
"""What the stream did not tell, read by REST with ordinary rights.

The stream has no replay, so after every connect, and now and then besides, the changes that
were touched since the watermark are read; `ci/gerrit/history.py` makes Events of them.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from ci.errors import ReviewServerError
from ci.gerrit import fields
from ci.gerrit.fields import Json, MalformedEvent, objects
from ci.gerrit.history import ChangeRecord, Message, Reading, gathered, merged_into
from ci.gerrit.rest import GerritRest
from ci.log import get as get_logger
from ci.model.change import Patchset
from ci.model.event import Account, Approval, BranchMoved

PAGE = 100
PROJECTS_PER_QUERY = 40
MAX_PAGES = 1000
MAX_ROUNDS = 5
MAX_BRANCHES = 50

log = get_logger(__name__)


def read(
    rest: GerritRest,
    connection_name: str,
    since: datetime,
    projects: Collection[str],
    *,
    overlap_s: float = 120.0,
) -> Reading:
    """What happened on watched projects since a point in time.

    Facts that are known already come again: the key tells.

    Args:
        rest: The server.
        connection_name: Goes into the Events.
        since: The watermark, by the server's clock.
        projects: Only these.
        overlap_s: So much earlier than `since` it begins, because the search index may lag
            and because the stream dates an event later than a query does.

    Raises:
        ReviewServerError: The query failed; nothing is lost by asking again.
    """
    begin = since - timedelta(seconds=overlap_s)
    until = rest.server_time()
    records = []
    for source in _touched(rest, begin, projects):
        try:
            records.append(_record(rest, source))
        except MalformedEvent as error:
            log.warning(
                "change unreadable", action="skip", connection=connection_name, error=str(error)
            )
    found = gathered(records, begin, connection_name, rest.settings.user, until)
    return replace(found, branches=tuple(_tips(rest, found, connection_name)))


def _tips(rest: GerritRest, found: Reading, connection: str) -> Iterator[BranchMoved]:
    """Where the branches stand that something was merged into. Not worth a failed catch-up."""
    for project, branch in merged_into(found.events)[:MAX_BRANCHES]:
        try:
            at = rest.server_time()
            tip = rest.branch_tip(project, branch)
        except ReviewServerError as error:
            log.warning(
                "branch not read",
                action="skip",
                connection=connection,
                branch=branch,
                error=str(error),
            )
            continue
        yield BranchMoved(
            connection=connection, project=project, branch=branch, old="", new=tip, occurred_at=at
        )


def project_terms(projects: Collection[str]) -> Iterator[str]:
    """Query terms for these projects, a bounded number in each."""
    names = sorted(projects)
    for first in range(0, len(names), PROJECTS_PER_QUERY):
        some = names[first : first + PROJECTS_PER_QUERY]
        yield "(" + " OR ".join(f'project:"{name}"' for name in some) + ")"


def after(at: datetime) -> str:
    """Query term for changes touched since then, inclusive, whole seconds."""
    # Without a zone the server takes its own.
    return f'after:"{at:%Y-%m-%d %H:%M:%S} +0000"'


def _touched(rest: GerritRest, begin: datetime, projects: Collection[str]) -> list[Json]:
    """Changes touched since `begin`, each once, as its last reading showed it."""
    known: dict[object, Json] = {}
    for which in project_terms(projects):
        cursor = begin
        for _ in range(MAX_ROUNDS):
            started = rest.server_time()
            pages = 0
            for page in _pages(rest, f"{which} {after(cursor)}"):
                known |= {one.get("_number"): one for one in page}
                pages += 1
            # A change touched while we turn pages jumps to the front, where we no longer
            # look: read what was touched in the meantime until it fits on one page.
            if pages <= 1:
                break
            cursor = started - timedelta(seconds=1)
    return list(known.values())


def _pages(rest: GerritRest, query: str) -> Iterator[list[Json]]:
    start = 0
    for _ in range(MAX_PAGES):
        page = rest.changes(query, start=start, limit=PAGE)
        yield page
        if not page or page[-1].get("_more_changes") is not True:
            return
        start += len(page)


def _record(rest: GerritRest, source: Json) -> ChangeRecord:
    """A ChangeInfo as a record.

    Raises:
        MalformedEvent: A member that later steps rely on is missing or unsafe.
    """
    name, number = fields.project(source), fields.number(source, "_number")
    patchsets = _patchsets(source, number)
    newest = patchsets[max(patchsets)] if patchsets else None
    found = fields.obj(source, "revisions")
    last = fields.obj(found, newest.revision) if newest else {}
    commit = last.get("commit")
    change = fields.change(
        source,
        number_name="_number",
        id_name="change_id",
        url=f"{rest.settings.url}c/{name}/+/{number}",
        message=fields.text(commit, "message", default="") if isinstance(commit, dict) else "",
    )
    whole = _WholePatchset(lambda: rest.patchset_comments(name, number))
    return ChangeRecord(
        change=change,
        patchsets=patchsets,
        uploader=fields.account(last, "uploader"),
        uploaded_at=fields.rest_time(last, "created") if newest else None,
        updated_at=fields.rest_time(source, "updated"),
        messages=tuple(_message(one) for one in objects(source, "messages")),
        standing=standing_votes(source),
        whole=whole.take,
    )


def _patchsets(source: Json, number: int) -> dict[int, Patchset]:
    found = fields.obj(source, "revisions")
    parsed = (
        fields.patchset(
            fields.obj(found, revision), of=number, number_name="_number", revision=revision
        )
        for revision in found
    )
    return {one.number: one for one in parsed}


def _message(source: Json) -> Message:
    which = source.get("_revision_number")
    return Message(
        at=fields.rest_time(source, "date"),
        author=fields.account(source, "author"),
        tag=fields.line(source, "tag"),
        text=fields.clean_text(fields.text(source, "message", default="")),
        patchset=which if isinstance(which, int) else None,
        named=tuple(
            fields.account({"named": one}, "named")
            for one in objects(source, "accounts_in_message")[:10]
        ),
    )


def standing_votes(source: Json) -> tuple[Approval, ...]:
    """The votes on the current patch set that a ChangeInfo with DETAILED_LABELS shows.

    A vote that was copied from an earlier patch set bears the second in which the current one
    was uploaded.

    Raises:
        MalformedEvent: The labels are not what Gerrit writes.
    """
    labels = source.get("labels")
    found = []
    for name, label in (labels if isinstance(labels, dict) else {}).items():
        for one in objects(fields.obj({"label": label}, "label"), "all"):
            value = fields.vote(one, "value") if one.get("value") is not None else 0
            if value and (cleaned := fields.clean_line(name, 100)):
                found.append(
                    Approval(
                        label=cleaned,
                        value=value,
                        by=fields.account({"by": one}, "by"),
                        granted_at=fields.rest_time(one, "date") if one.get("date") else None,
                    )
                )
    return tuple(found[: fields.MOST_APPROVALS])


class _WholePatchset:
    """Comments on patch sets as a whole, fetched once and handed out once."""

    def __init__(self, fetch: Callable[[], list[Json]]) -> None:
        self._fetch = fetch
        self._left: list[Json] | None = None

    def take(self, message: Message, count: int) -> tuple[str, ...]:
        """Texts that belong to a message: at most `count` by its author, of its second.

        The server's own link from a comment to its message is of no use: it, too, is worked
        out from the second, and so names the first message of that second.
        """
        if self._left is None:
            self._left = self._fetch()
        mine = [one for one in self._left if _belongs(one, message.author, message.at)][:count]
        self._left = [one for one in self._left if one not in mine]
        return tuple(fields.clean_text(fields.text(one, "message", default="")) for one in mine)


def _belongs(comment: Json, author: Account, at: datetime) -> bool:
    near = timedelta(seconds=1)
    return (
        fields.account(comment, "author") == author
        and abs(fields.rest_time(comment, "updated") - at) <= near
    )
