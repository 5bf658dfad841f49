# SPDX-License-Identifier: Apache-2.0
"""`hypervouch doctor`: tries each thing that can be wrong, and says how to mend it."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ci import settings
from ci.errors import HypervouchError
from ci.gerrit.rest import GerritRest
from ci.gerrit.ssh import PinnedConnection
from ci.layout import Connection, Layout, ProviderConfig
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
    """Try the disk, every connection and the first node of every provider, one by one."""
    yield _try("disk", partial(_disk, layout))
    for connection in layout.connections:
        name = f"connection {connection.name}"
        yield _try(f"{name}, SSH and the right Stream Events", partial(_stream, connection))
        yield _try(f"{name}, REST and account", partial(_account, connection))
    for config in layout.providers:
        yield _try(f"provider {config.name}", partial(_provider, layout, config))


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
    return f"{place} has {free_mib} MiB free"


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
    said = ", ".join(f"{name} {value}" for name, value in sorted(facts.items()))
    return f"node {node} answers and is fit ({said})"
