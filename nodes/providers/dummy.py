# SPDX-License-Identifier: Apache-2.0
"""Nodes that exist in name only, steered by inputs: for tests and for the demo without QEMU.

It objects when its caller breaks the contract of `nodes.providers.base`.
"""

import threading
import time
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from ci.errors import HypervouchBug, NodeUnavailable
from ci.model.node import Endpoint, Transport
from ci.model.result import Grade
from nodes.pretended import Machine
from nodes.providers.slots import Slots


class DummyOptions(BaseModel):
    """What steers a `dummy` provider.

    Attributes:
        name: Name of the provider; its nodes are NAME-1, NAME-2, ...
        label: Node label that jobs ask for.
        slots: Nodes that may run at once.
        transport: `dummy`, or `local` for nodes whose commands really run on this machine.
        fail_starts: The first so many starts fail.
        start_delay_s: Seconds that a start takes.
        hypervisor: URL of the pretended hypervisor.
        shared_dir: Folder where the processes of several machines find the same nodes; without
            it the nodes belong to one process, as those of this machine do.
        journal: File that the nodes write down in who used them and when.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )

    name: str = Field(default="dummy", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")
    label: str = "dummy"
    slots: int = Field(default=2, ge=1, le=64)
    transport: Literal["dummy", "local"] = "dummy"
    fail_starts: int = Field(default=0, ge=0)
    start_delay_s: float = Field(default=0.0, ge=0)
    hypervisor: str = "dummy:///"
    shared_dir: Path | None = None
    journal: Path | None = None


class DummyProvider(Slots[DummyOptions]):
    """Pretends to boot machines; a running one is a folder below `state_dir`."""

    Options: ClassVar[type[BaseModel]] = DummyOptions

    def __init__(self, options: DummyOptions, state_dir: Path) -> None:
        """Nothing is created.

        Args:
            options: What steers it.
            state_dir: Holds one folder a running node.
        """
        self._options = options
        self._state = (options.shared_dir or state_dir).absolute()
        self._to_fail = options.fail_starts
        self._starting: set[str] = set()
        self._lock = threading.Lock()

    @property
    def machine_bound(self) -> bool:
        """Whether only one process can reach its nodes."""
        return self._options.shared_dir is None

    @property
    def disposable(self) -> bool:
        """A pretended machine is thrown away; what really runs on this one is not."""
        return self._options.transport == "dummy"

    def prepare(self) -> None:
        """Nothing to make ready."""

    def start(self, node: str, holder: str) -> Endpoint:
        """Pretend to boot.

        Raises:
            NodeUnavailable: `fail_starts` are not used up.
            HypervouchBug: No such node, or a start of it is under way.
        """
        with self._lock:
            if node not in self.node_names() or node in self._starting:
                raise HypervouchBug(f"start of {node!r}: no such node, or it is being started")
            self._starting.add(node)
            failing = self._to_fail > 0
            self._to_fail -= failing
        try:
            if self._options.start_delay_s:
                time.sleep(self._options.start_delay_s)
            if failing:
                raise NodeUnavailable(f"node {node} did not come up: told to fail", retryable=True)
            return self._boot(node, holder)
        finally:
            with self._lock:
                self._starting.discard(node)

    def stop(self, node: str) -> None:
        """Pretend to end; repeatable."""
        self._machine(node).stop()

    def die(self, node: str) -> None:
        """Let the machine end under its holder, as a crash would."""
        self._machine(node).stop("die")

    def alive(self, node: str) -> bool:
        """Whether the pretended machine runs."""
        return self._machine(node).runs

    def leaked(self, held: frozenset[str]) -> tuple[str, ...]:
        """Slots not in `held` whose pretended machine runs."""
        return tuple(node for node in self.node_names() if node not in held and self.alive(node))

    def _machine(self, node: str) -> Machine:
        return Machine(folder=self._state / node, journal=self._options.journal)

    def _boot(self, node: str, holder: str) -> Endpoint:
        machine = self._machine(node)
        machine.boot(holder)
        local = self._options.transport == "local"
        return Endpoint(
            transport=Transport.LOCAL if local else Transport.DUMMY,
            workdir=str(machine.workdir),
            hypervisor=self._options.hypervisor,
            grade=Grade.EMULATOR,
            facts={"boot": "pretended", **machine.facts(holder)},
        )
