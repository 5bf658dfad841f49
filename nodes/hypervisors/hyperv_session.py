# SPDX-License-Identifier: Apache-2.0
"""A session of PowerShell Remoting with a Hyper-V host: one pipeline of cmdlets at a time.

All that passes between the adapter and a host passes here, as structure: this is where a run is
recorded, and where a recording stands in for the host, see `nodes.recording.pipelines`.

The host's endpoint is `Microsoft.PowerShell`, which is Windows PowerShell 5.1 on every Windows
Server, also beside PowerShell 7.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pypsrp.complex_objects import GenericComplexObject, PSInvocationState
from pypsrp.exceptions import WSManFaultError
from pypsrp.powershell import PowerShell, RunspacePool
from pypsrp.wsman import WSMan

from ci.errors import HypervouchError
from nodes import wsman
from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import TransientFault
from nodes.hypervisors.hyperv_errors import NO_SHELL, from_record
from nodes.wsman import ON_THE_WAY

if TYPE_CHECKING:
    from nodes.hypervisors.hyperv_link import Address

_POLL_S = 20
_ANSWER_S = 10
_ENVELOPE = 500 << 10
"""What Windows Server 2012 and later take."""
_IDLE_S = 1800
"""A session that nobody uses for so long is ended by the host: what a killed process left."""


@dataclass(frozen=True)
class Step:
    """One cmdlet of a pipeline; a parameter that is None is a switch."""

    name: str
    parameters: dict[str, Any]


class Session:
    """One session; see `HyperVLink`, which lets one thread at a time use it."""

    def __init__(self, where: "Address", access: Access) -> None:
        self._where = where
        self._access = access
        self._timeout_s = access.timeout_s
        self._pool: RunspacePool | None = None

    def open(self) -> None:
        """Log in, once; any error of pypsrp's or of ours."""
        self._opened()

    def close(self) -> None:
        """End it; any error of pypsrp's."""
        self._drop(is_alive=True)

    def run(self, doing: str, steps: Sequence[Step]) -> list[Any]:
        """Run a pipeline; objects come as dictionaries of their properties.

        Raises:
            CmdletFailed: It ended with an error record.
            TransientFault: It has not ended in time. Else any error of pypsrp's.
        """
        deadline = time.monotonic() + self._timeout_s
        try:
            shell = self._begun(steps)
            while shell.state == PSInvocationState.RUNNING:
                if time.monotonic() >= deadline:
                    with suppress(*ON_THE_WAY):
                        shell.stop()
                        self._drop(is_alive=True)
                    raise TransientFault(
                        f"cannot {doing}: {steps[-1].name} has not ended in {self._timeout_s:g} s",
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

    def _begun(self, steps: Sequence[Step]) -> PowerShell:
        """A pipeline that runs. Where the session is gone, the host has not begun it: once more."""
        try:
            return self._begin(steps)
        except WSManFaultError as error:
            if error.code != NO_SHELL:
                raise
        self._drop(is_alive=False)
        return self._begin(steps)

    def _begin(self, steps: Sequence[Step]) -> PowerShell:
        shell = PowerShell(self._opened())
        for one in steps:
            shell.add_cmdlet(one.name)
            for name, value in one.parameters.items():
                shell.add_parameter(name, value)
        shell.begin_invoke()
        return shell

    def _opened(self) -> RunspacePool:
        if self._pool is None:
            poll_s = int(max(1, min(_POLL_S, self._timeout_s / 2)))
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
        where, wait_s = self._where, int(max(2, min(_ANSWER_S, self._timeout_s / 2)))
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
