# SPDX-License-Identifier: Apache-2.0
"""A session with a Hyper-V host by PowerShell Remoting: pipelines of cmdlets, never script text.

Cmdlets and their parameters travel as structure, so there is nothing to quote and nothing to
inject into. One pipeline runs at a time. A session that the host has ended is opened anew before
the next pipeline, and never in the middle of one.

The host's endpoint is `Microsoft.PowerShell`, which is Windows PowerShell 5.1 on every Windows
Server, also beside PowerShell 7.
"""

import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from pypsrp.complex_objects import GenericComplexObject, PSInvocationState
from pypsrp.exceptions import WSManFaultError
from pypsrp.powershell import PowerShell, RunspacePool
from pypsrp.serializer import TaggedValue
from pypsrp.wsman import WSMan

from ci.errors import HypervouchError
from ci.model.feature import Feature
from nodes import wsman
from nodes.hypervisors import api_url
from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import CallerFault, TransientFault
from nodes.hypervisors.hyperv_errors import (
    NO_PATH,
    NO_SHELL,
    UNKNOWN_NAME,
    CmdletFailed,
    from_record,
    translated,
)
from nodes.wsman import ON_THE_WAY

OPTIONS = frozenset({"switch", "folder", "auth"})
WAYS = frozenset(wsman.AUTHS)
FOLDER = r"C:\hypervouch"
HTTPS_PORT, HTTP_PORT = 5986, 5985
Record = dict[str, Any]
_PATH = re.compile(r"(?:[A-Za-z]:|\\\\[\w.-]+\\[\w.$-]+)(?:\\[\w][\w .-]*)+")
_POLL_S = 20
_ANSWER_S = 10
_ENVELOPE = 500 << 10
"""What Windows Server 2012 and later take."""
_IDLE_S = 1800
"""A session that nobody uses for so long is ended by the host: what a killed process left."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """What a URL says: `hyperv://user@host:5986?switch=NAME&folder=PATH&auth=negotiate`.

    Attributes:
        host: Name or address.
        port: TCP port.
        user: Login; `DOMAIN%5Cname` in the URL.
        is_tls: Whether it is HTTPS; over HTTP each message is sealed by the login.
        options: What stands after the question mark.
    """

    host: str
    port: int
    user: str
    is_tls: bool
    options: dict[str, str]

    @property
    def way(self) -> str:
        """How to log in."""
        return self.options.get("auth", "negotiate")

    @property
    def folder(self) -> str:
        """Where our files lie on the host."""
        return self.options.get("folder", FOLDER).rstrip("\\")


def address(url: str) -> Address:
    r"""Take a URL apart: `hyperv://` is HTTPS, `hyperv+http://` is HTTP with sealed messages.

    Raises:
        CallerFault: It is no URL of a host, or holds a password.
    """
    example = "hyperv://user@host:5986?switch=NAME"
    is_tls = url.partition(":")[0].lower() != "hyperv+http"
    parts, host, port = api_url.split(url, HTTPS_PORT if is_tls else HTTP_PORT, example)
    if parts.scheme not in {"hyperv", "hyperv+http"}:
        raise CallerFault(f"{url!r} is no URL of a Hyper-V host", hint=example)
    if not host or not parts.username or parts.path.strip("/"):
        raise CallerFault(f"{url!r} names no host or no user, or has a path", hint=example)
    options = api_url.options(url, parts, OPTIONS)
    made = Address(
        host=host, port=port, user=unquote(parts.username), is_tls=is_tls, options=options
    )
    _check(made)
    return made


def _check(where: Address) -> None:
    if where.way not in WAYS:
        raise CallerFault(f"auth={where.way} is unknown", hint=f"use {', '.join(sorted(WAYS))}")
    if where.way == "basic" and not where.is_tls:
        raise CallerFault("auth=basic over HTTP would show the password", hint="use hyperv://")
    if not _PATH.fullmatch(where.folder):
        raise CallerFault(
            f"{where.folder!r} is no folder of a Windows host",
            hint=r"an absolute path without wildcards: C:\hypervouch",
        )


@dataclass(frozen=True)
class Step:
    """One cmdlet of a pipeline; a parameter that is None is a switch."""

    name: str
    parameters: dict[str, Any]


def step(name: str, /, **parameters: Any) -> Step:
    """A cmdlet that ends its pipeline when it fails."""
    return Step(name, parameters | {"ErrorAction": "Stop"})


def wide(number: int) -> TaggedValue:
    """A size in 64 bits: pypsrp writes every int in 32, which 2 GiB do not fit."""
    return TaggedValue("I64", number)


class HyperVLink:
    """One session.

    Attributes:
        where: From the URL.
        timeout_s: Seconds that one pipeline may take.
    """

    def __init__(self, where: Address, access: Access) -> None:
        """Log in, once.

        Raises:
            CallerFault: There is no password.
            TransientFault: It does not answer.
            NodeFault: It refuses us, showed another certificate, or is no WinRM.
        """
        if not access.password:
            raise CallerFault(
                f"there is no password for {where.user} on {where.host}",
                hint="name a file or a variable that holds it",
            )
        self.where = where
        self.timeout_s = access.timeout_s
        self._access = access
        self._lock = threading.Lock()
        self._pool: RunspacePool | None = None
        with self._lock, translated(f"log in to {where.host} as {where.user}"):
            self._opened()

    def close(self) -> None:
        """End the session; never raises."""
        with self._lock, suppress(Exception):
            self._drop(is_alive=True)

    def run(self, doing: str, *steps: Step, feature: Feature | None = None) -> list[Any]:
        """Run a pipeline; objects come as dictionaries of their properties.

        Raises:
            HypervouchError: See `nodes.hypervisors.hyperv_errors`.
            Unsupported: It cannot do that, and `feature` was given.
        """
        with self._lock, translated(doing, feature):
            return self._run(doing, steps)

    def find(self, doing: str, *steps: Step) -> list[Any]:
        """The same, and nothing where what was named is not there.

        Raises:
            HypervouchError: See `nodes.hypervisors.hyperv_errors`.
        """
        with self._lock, translated(doing):
            try:
                return self._run(doing, steps)
            except CmdletFailed as error:
                if error.identity in {UNKNOWN_NAME, NO_PATH}:
                    return []
                raise

    def _run(self, doing: str, steps: tuple[Step, ...]) -> list[Any]:
        deadline = time.monotonic() + self.timeout_s
        try:
            shell = self._begun(steps)
            while shell.state == PSInvocationState.RUNNING:
                if time.monotonic() >= deadline:
                    with suppress(*ON_THE_WAY):
                        shell.stop()
                        self._drop(is_alive=True)
                    raise TransientFault(
                        f"cannot {doing}: {steps[-1].name} has not ended in {self.timeout_s:g} s",
                        hint="look at the host",
                        retryable=True,
                    )
                shell.poll_invoke()
            shell.close()
        except (HypervouchError, *ON_THE_WAY):
            self._drop(is_alive=False)
            raise
        if shell.had_errors or shell.streams.error:
            raise from_record(next(iter(shell.streams.error), "it failed and said nothing"))
        return [plain(one) for one in shell.output]

    def _begun(self, steps: tuple[Step, ...]) -> PowerShell:
        """A pipeline that runs. Where the session is gone, the host has not begun it: once more."""
        try:
            return self._begin(steps)
        except WSManFaultError as error:
            if error.code != NO_SHELL:
                raise
        self._drop(is_alive=False)
        return self._begin(steps)

    def _begin(self, steps: tuple[Step, ...]) -> PowerShell:
        shell = PowerShell(self._opened())
        for one in steps:
            shell.add_cmdlet(one.name)
            for name, value in one.parameters.items():
                shell.add_parameter(name, value)
        shell.begin_invoke()
        return shell

    def _opened(self) -> RunspacePool:
        if self._pool is None:
            poll_s = int(max(1, min(_POLL_S, self.timeout_s / 2)))
            pool = RunspacePool(self._connection(poll_s), idle_timeout=_IDLE_S)
            try:
                pool.open()
            except BaseException:
                pool.connection.close()
                raise
            self._pool = pool
        return self._pool

    def _drop(self, *, is_alive: bool) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            if is_alive:
                pool.close()
        finally:
            with suppress(Exception):
                pool.connection.close()

    def _connection(self, poll_s: int) -> WSMan:
        where, wait_s = self.where, int(max(2, min(_ANSWER_S, self.timeout_s / 2)))
        return wsman.connect(
            where.host,
            where.port,
            where.user,
            self._access,
            auth=where.way,
            operation_s=poll_s,
            connect_s=poll_s + wait_s,
            read_s=poll_s + wait_s,
            envelope_bytes=_ENVELOPE,
            is_tls=where.is_tls,
        )


def plain(value: Any) -> Any:
    """A value without pypsrp's classes: objects as dictionaries, enums as their names."""
    if isinstance(value, GenericComplexObject):
        told = value.adapted_properties | value.extended_properties
        if not told:
            return str(value.to_string or "")
        return {str(key): plain(one) for key, one in told.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value
