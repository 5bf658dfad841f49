# SPDX-License-Identifier: Apache-2.0
"""This machine itself, without isolation: for trusted suites only."""

import platform
import shutil
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field

from ci.errors import NodeUnavailable
from ci.model.node import Endpoint, Transport
from nodes.providers import api_login
from nodes.providers.slots import OwnOptions, Staying


class LocalOptions(OwnOptions):
    """What the configuration may say of a `local` provider.

    Attributes:
        name: Name of the provider; its nodes are NAME-1, NAME-2, ...
        label: Node label that jobs ask for.
        slots: Builds that may run at once.
        hypervisor: URL of the hypervisor under test.
        grade: How real that hypervisor is; `none` until the operator says so.
    """

    name: str = Field(default="local", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")
    label: str = "local"
    slots: int = Field(default=1, ge=1, le=64)
    hypervisor: str = "qemu:///tcg"


class LocalProvider(Staying[LocalOptions]):
    """Gives each slot a directory; see `nodes.providers.base` for the contract."""

    Options: ClassVar[type[BaseModel]] = LocalOptions

    def __init__(self, options: LocalOptions, state_dir: Path) -> None:
        """Nothing is created.

        Args:
            options: From the configuration.
            state_dir: Holds one directory a slot.
        """
        super().__init__(options, state_dir.absolute())

    @property
    def machine_bound(self) -> bool:
        """Only a process here can use this machine so."""
        return True

    def prepare(self) -> None:
        """Look at what logging in to an API needs.

        Raises:
            ConfigError: It is not there.
        """
        api_login.check(self.name, self._options)

    def start(self, node: str, holder: str) -> Endpoint:
        """An empty directory for a slot.

        Raises:
            NodeUnavailable: It cannot be made.
        """
        self.stop(node)
        folder = self._state / node
        try:
            (folder / "work").mkdir(parents=True, exist_ok=True)
            (folder / "holder").write_text(holder)
        except OSError as error:
            raise NodeUnavailable(
                f"node {node}: {folder} cannot be made: {error.strerror}",
                hint="check the state directory's space and owner",
                retryable=True,
            ) from error
        return Endpoint(
            transport=Transport.LOCAL,
            workdir=str(folder / "work"),
            hypervisor=self._options.hypervisor,
            grade=self._options.grade,
            **api_login.login(self._options, node, self._state),
            facts={"kernel": platform.release(), "python3": platform.python_version()},
        )

    def stop(self, node: str) -> None:
        """Remove the slot's directory; its runner has ended the processes. Repeatable."""
        shutil.rmtree(self._state / node, ignore_errors=True)
        api_login.forget(node, self._state)

    def leaked(self, held: frozenset[str]) -> tuple[str, ...]:
        """Slots not in `held` whose directory was left."""
        return tuple(
            node for node in self.node_names() if node not in held and (self._state / node).exists()
        )
