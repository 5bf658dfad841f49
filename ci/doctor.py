# SPDX-License-Identifier: Apache-2.0
"""`hypervouch doctor`: tries each thing that can be wrong, and says how to mend it."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ci import settings
from ci.clock import SystemClock
from ci.disk_guard import DiskGuard
from ci.doctor_rows import looks
from ci.errors import HypervouchError
from ci.gerrit.rest import GerritRest
from ci.gerrit.ssh import PinnedConnection
from ci.layout import Connection, Layout, Pipeline, ProviderConfig, ReporterConfig, VotePolicy
from ci.log_shelf import open_shelf
from ci.reporters.table import driver as notifier_driver
from ci.store.database import Database
from nodes.health import preflight
from nodes.providers.table import driver

MIB = 1 << 20
STREAM_WAIT_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was tried.

    Attributes:
        what: The thing.
        good: Whether it works.
        message: What was found.
        hint: How to mend it.
    """

    what: str
    good: bool
    message: str
    hint: str = ""


def examine(layout: Layout) -> Iterator[Finding]:
    """Try the disk, every connection, the first node of every provider, every reporter."""
    yield _try("disk", partial(_disk, layout))
    yield from _rows(layout)
    if layout.service.log_store:
        yield _try("log store", partial(_log_store, layout))
    for connection in layout.connections:
        name = f"connection {connection.name}"
        yield _try(f"{name}, SSH and the right Stream Events", partial(_stream, connection))
        yield _try(f"{name}, REST and account", partial(_account, connection))
        for project, pipeline in _votes(layout, connection):
            what = f"{name}, label {pipeline.label} on {project}"
            yield _try(what, partial(_label, connection, project, pipeline))
    for config in layout.providers:
        yield _try(f"provider {config.name}", partial(_provider, layout, config))
    for reporter in layout.reporters:
        yield _try(f"reporter {reporter.name}", partial(_reporter, reporter))


def _rows(layout: Layout) -> Iterator[Finding]:
    """What the database tells; nothing where nothing was ever run."""
    try:
        database = Database.that_ran(layout.service)
    except HypervouchError as error:
        yield Finding(what="database", good=False, message=error.message, hint=error.hint)
        return
    if database is None:
        return
    try:
        for what, look in looks(layout, database, SystemClock()):
            yield _try(what, look)
    finally:
        database.close()


def _try(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what=what, good=True, message=look())
    except HypervouchError as error:
        return Finding(what=what, good=False, message=error.message, hint=error.hint)


def _disk(layout: Layout) -> str:
    service = layout.service
    place = next(p for p in (service.state_dir, *service.state_dir.parents) if p.exists())
    free_mib = shutil.disk_usage(place).free // MIB
    if free_mib < service.free_disk_mib:
        raise HypervouchError(
            f"{place} has {free_mib} MiB free; new builds wait below {service.free_disk_mib} MiB",
            hint="make room, or lower free-disk-mib",
        )
    guard = DiskGuard(
        place,
        SystemClock(),
        high_percent=service.disk_high_water_percent,
        budget_bytes=service.disk_budget_mib * MIB if service.disk_budget_mib else None,
        folders=(service.state_dir / "logs", service.state_dir / "git"),
    )
    if reason := guard.reason():
        raise HypervouchError(
            f"no new builds are started: {reason}",
            hint="make room, keep logs for fewer days, or raise disk-high-water-percent",
        )
    return f"{place} has {free_mib} MiB free"


def _log_store(layout: Layout) -> str:
    shelf = open_shelf(layout.service)
    return shelf.probe() if shelf else "logs stay in the state directory"


def _stream(connection: Connection) -> str:
    client = PinnedConnection(connection).connect()
    try:
        _, stdout, stderr = client.exec_command(
            "gerrit stream-events -s patchset-created", timeout=STREAM_WAIT_S
        )
        try:
            ended = stdout.read(1) == b""
        except TimeoutError:
            ended = False
        if ended:
            said = stderr.read().decode("utf-8", "replace").strip()
            raise HypervouchError(
                f"{connection.user} may not read the event stream: {said}",
                hint="ask Gerrit's administrator for the global capability Stream Events",
            )
    finally:
        client.close()
    return f"host key pinned, {connection.user} logs in and reads the stream"


def _account(connection: Connection) -> str:
    rest = GerritRest(connection, settings.resolve_secret(connection.password))
    try:
        version, account = rest.version(), rest.account_self()
    finally:
        rest.close()
    if not account.name.endswith(" CI"):
        raise HypervouchError(
            f"the account's full name is {account.name!r}: Gerrit's summary tab shows only names "
            "that end in ' CI'",
            hint="set a full name such as 'Acme CI' in the account's settings",
        )
    return f"Gerrit {version}, account {account.name}"


def _votes(layout: Layout, connection: Connection) -> Iterator[tuple[str, Pipeline]]:
    """(project, pipeline as it applies there) of each pair that votes."""
    for project in layout.projects:
        for name in project.pipelines:
            pipeline = layout.effective(name, project.name)
            votes = pipeline.policy in {VotePolicy.PLUS_ONE_ONLY, VotePolicy.VOTE}
            if votes and pipeline.connection == connection.name:
                yield project.name, pipeline


def _label(connection: Connection, project: str, pipeline: Pipeline) -> str:
    """Whether we may give the votes that a pipeline gives; asked of a project's open change."""
    rest = GerritRest(connection, settings.resolve_secret(connection.password))
    try:
        found = rest.changes(
            f'project:"{project}" status:open', limit=1, options=("DETAILED_LABELS",)
        )
    finally:
        rest.close()
    if not found:
        return "not known: the project has no open change to ask about"
    label, user = pipeline.label, connection.user
    if label not in (found[0].get("labels") or {}):
        raise HypervouchError(
            f"{project} has no label {label}: the server drops such votes without a word",
            hint="correct the pipeline's label, or ask the project's owner to define it",
        )
    permitted = [int(value) for value in (found[0].get("permitted_labels") or {}).get(label, [])]
    wanted = [value for value in (pipeline.success, pipeline.failure) if value]
    missing = [value for value in wanted if value not in permitted]
    if missing:
        raise HypervouchError(
            f"{user} may not give {', '.join(f'{label} {value:+d}' for value in missing)}",
            hint=f"ask the project's owner for the right 'Label {label}' on refs/heads/*, or set"
            " policy to comment",
        )
    return f"{user} may give {', '.join(f'{value:+d}' for value in wanted)}"


def _provider(layout: Layout, config: ProviderConfig) -> str:
    chosen = driver(config.driver)
    provider = chosen(
        chosen.Options.model_validate(config.options),
        layout.service.state_dir / "doctor" / config.name,
    )
    provider.prepare()
    node = provider.node_names()[0]
    try:
        facts = preflight(provider.start(node, "doctor"))
    finally:
        provider.stop(node)
    said = ", ".join(
        f"{name} {value}" for name, value in sorted(facts.items()) if name != "cpu-flags"
    )
    return f"node {node} answers and is fit ({said})"


def _reporter(config: ReporterConfig) -> str:
    """Whether a receiver of notices answers and knows us; it is told nothing."""
    chosen = notifier_driver(config.driver)
    notifier = chosen(chosen.Options.model_validate(config.options))
    try:
        return notifier.probe()
    finally:
        notifier.close()
