# SPDX-License-Identifier: Apache-2.0
"""`hypervouch explain`: what an event or a change would start, without starting anything."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ci import settings, triggers
from ci.app import load_layout
from ci.clock import SystemClock
from ci.errors import ConfigError
from ci.gerrit import fields
from ci.gerrit.facts import change_facts
from ci.gerrit.parse import Ignored, MalformedEvent, parse_line
from ci.gerrit.rest import GerritRest
from ci.layout import Connection, Layout
from ci.model.event import Account, Event, EventKind
from ci.model.facts import ChangeFacts
from ci.recheck import printable
from ci.store import history
from ci.store.database import Database
from ci.store.reads import change_detail
from ci.store.reads.records import BuildsetRecord, ChangeDetail
from ci.trigger_filters import told_vote
from ci.triggers import Decision, Known, match

DECISIONS_SHOWN = 5
ASKS = Account(username="somebody")


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """What an installation that has run knows of a change: nothing, where it has not."""

    detail: ChangeDetail | None = None
    has_run: frozenset[str] = frozenset()
    unjudged: frozenset[str] = frozenset()


def explain(
    config: Path, what: str, *, connection: str | None, files: Sequence[str]
) -> Iterator[str]:
    """Lines about a change, by its number, or about an event in a file.

    Args:
        config: The configuration.
        what: Number of a change, or path of a file.
        connection: Only this one; needed for a change where there are several.
        files: Changed files, instead of those that the server names.

    Raises:
        ConfigError: The configuration has mistakes, or what is asked for is not there.
        ReviewServerError: The server does not tell.
    """
    layout = load_layout(config)
    chosen = _connections(layout, connection)
    if not what.isdecimal():
        yield from _explain_file(layout, chosen, Path(what), files)
        return
    if len(chosen) > 1:
        raise ConfigError(
            f"change {what} may be on several servers",
            hint=f"say which with --connection: {', '.join(one.name for one in chosen)}",
        )
    yield from _explain_change(layout, chosen[0], int(what), files)


def _connections(layout: Layout, name: str | None) -> Sequence[Connection]:
    found = [one for one in layout.connections if name in {None, one.name}]
    if not found:
        known = ", ".join(one.name for one in layout.connections)
        raise ConfigError(f"there is no connection {name}", hint=f"there are: {known}")
    return found


def _explain_file(
    layout: Layout, connections: Sequence[Connection], file: Path, files: Sequence[str]
) -> Iterator[str]:
    """One line per connection and pipeline."""
    try:
        line = b" ".join(file.read_bytes().split(b"\n"))
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error.strerror}",
            hint="give the number of a change, or a file with one event",
        ) from error
    for connection in connections:
        try:
            event = parse_line(line, connection.name)
        except MalformedEvent as error:
            raise ConfigError(
                f"{file} holds no event: {error.message}",
                hint="give one event, as `gerrit stream-events` prints it",
            ) from error
        if not isinstance(event, Event):
            why = event.reason if isinstance(event, Ignored) else f"branch {event.branch} moved"
            yield f"{connection.name}: nothing starts: {why}"
            continue
        known = Known(files=list(files) or None, has_run=frozenset(), unjudged=frozenset())
        for sentence in triggers.explain(match(event, layout, known)):
            yield f"{connection.name}: {sentence}"


def _explain_change(
    layout: Layout, connection: Connection, number: int, files: Sequence[str]
) -> Iterator[str]:
    """What the server says of a change now, what that means here, and what was decided."""
    password = settings.resolve_secret(connection.password)
    with GerritRest(connection, password) as rest:
        facts = _facts(rest, number)
        change, patchset = facts.change, facts.patchset
        listed = files or rest.changed_files(change.project, number, patchset.revision)
        own = frozenset({connection.user, rest.account_self().name} - {""})
    stored = _stored(layout, connection, facts)
    yield from _heading(facts)
    known = Known(files=listed, facts=facts, has_run=stored.has_run, unjudged=stored.unjudged)
    upload = _event(connection, facts, EventKind.PATCHSET_CREATED)
    recheck = _event(connection, facts, EventKind.COMMENT_ADDED, "recheck")
    both = zip(match(upload, layout, known, own), match(recheck, layout, known, own), strict=True)
    for now, again in both:
        if layout.pipeline(now.pipeline).connection == connection.name:
            yield from _pipeline(now, again, stored)
    yield from _decided(stored.detail)


def _facts(rest: GerritRest, number: int) -> ChangeFacts:
    found = rest.changes(f"change:{number}", limit=1, options=())
    if not found:
        raise ConfigError(
            f"change {number} is not on {rest.settings.url}",
            hint=f"or {rest.settings.user} may not see it: ask for read access to its project",
        )
    return change_facts(rest, fields.project(found[0]), number)


def _stored(layout: Layout, connection: Connection, facts: ChangeFacts) -> _Stored:
    found = Database.that_ran(layout.service)
    if found is None:
        return _Stored()
    at = (connection.name, facts.change.number, facts.patchset.number)
    kinds = {pipeline.name: pipeline.skip_kinds for pipeline in layout.pipelines}
    with closing(found) as database:
        with database.read() as tx:
            has_run, unjudged = history.ran(tx, *at), history.unjudged(tx, *at, kinds)
        detail = change_detail(database, facts.change.number, connection=connection.name)
    return _Stored(detail=detail, has_run=has_run, unjudged=unjudged)


def _event(connection: Connection, facts: ChangeFacts, kind: EventKind, *texts: str) -> Event:
    return Event(
        key="explain",
        connection=connection.name,
        kind=kind,
        change=facts.change,
        patchset=facts.patchset,
        author=ASKS,
        occurred_at=SystemClock().now(),
        texts=texts,
    )


def _heading(facts: ChangeFacts) -> Iterator[str]:
    change, patchset = facts.change, facts.patchset
    yield printable(
        f"change {change.number} of {change.project}, branch {change.branch}, {change.status}: "
        f"{change.subject}"
    )
    yield f"patch set {patchset.number}, {patchset.revision}, {printable(patchset.kind)}"
    if facts.approvals:
        yield f"votes on it: {', '.join(map(told_vote, facts.approvals))}"
    if facts.copied:
        copies = ", ".join(map(told_vote, facts.copied))
        yield f"copied from an older patch set, so they do not count: {copies}"


def _pipeline(now: Decision, again: Decision, stored: _Stored) -> Iterator[str]:
    """Whether a pipeline starts for this patch set, ran already, and what a recheck would do."""
    ran = now.pipeline in stored.has_run
    if not ran:
        yield f"now: {triggers.explain([now])[0]}"
    else:
        newest = stored.detail.patchsets[0].buildsets if stored.detail else ()
        runs = [one for one in newest if one.pipeline == now.pipeline]
        yield f"now: {now.pipeline} does not start: {_told(runs)}."
    yield f"after `recheck`: {triggers.explain([again])[0]}"


def _told(runs: Sequence[BuildsetRecord]) -> str:
    if not runs:
        return "this patch set has run"
    newest = runs[0]
    reason = f", {newest.verdict.reason}" if newest.verdict else ""
    return printable(f"run {newest.recheck} of this patch set is {newest.state}{reason}")


def _decided(detail: ChangeDetail | None) -> Iterator[str]:
    """What was decided on the newest events, newest first."""
    if detail is None:
        yield "nothing is stored of it here"
        return
    found = [*detail.events, *(one for each in detail.patchsets for one in each.events)]
    found.sort(key=lambda one: one.id, reverse=True)
    for one in found[:DECISIONS_SHOWN]:
        who = f" by {printable(one.author)}" if one.author else ""
        said = (one.decision or "not planned yet").replace("\n", " ")
        yield f"{_date(one.occurred_at)}, {one.kind}{who}: {said}"


def _date(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
