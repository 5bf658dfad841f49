# SPDX-License-Identifier: Apache-2.0
"""A machine of one's own, always on, reached over SSH."""

import socket
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field

from ci.errors import ConfigError, NodeUnavailable
from ci.model.node import Endpoint, Transport
from nodes.providers import api_login
from nodes.providers.api_login import ApiLogin

CONNECT_S = 10.0


class StaticOptions(ApiLogin):
    """What the configuration may say of a `static` provider.

    Attributes:
        name: Name of the provider; its nodes are NAME-1, NAME-2, ...
        label: Node label that jobs ask for.
        slots: Builds that may use the machine at once, each in a directory of its own.
        host: Address.
        port: TCP port of its SSH server.
        user: Login.
        key_file: Private key.
        known_hosts: File with its host key; any other key is refused.
        workdir: Directory that builds may fill.
        hypervisor: URL of the hypervisor under test, as seen on the machine.
        grade: How real that hypervisor is; `none` until the operator says so.
    """

    name: str = Field(default="static", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")
    label: str = "static"
    slots: int = Field(default=1, ge=1, le=64)
    host: str = Field(pattern=r"^[A-Za-z0-9_.:-]+$")
    port: int = Field(default=22, ge=1, le=65535)
    user: str = Field(default="root", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    key_file: Path
    known_hosts: Path
    workdir: str = Field(default="/tmp/hypervouch", pattern=r"^/[^/\x00]+/[^\x00]+$")  # noqa: S108
    hypervisor: str = ""


class StaticProvider:
    """Says where the machine is; see `nodes.providers.base` for the contract."""

    Options: ClassVar[type[BaseModel]] = StaticOptions

    def __init__(self, options: StaticOptions, state_dir: Path) -> None:
        """Nothing is contacted; `state_dir` is for the password of an API, while a node is used."""
        self._options = options
        self._state = state_dir

    @property
    def name(self) -> str:
        """The name the configuration gives it."""
        return self._options.name

    @property
    def machine_bound(self) -> bool:
        """Any process that may log in reaches it."""
        return False

    @property
    def disposable(self) -> bool:
        """The machine stays."""
        return False

    def node_names(self) -> tuple[str, ...]:
        """NAME-1 to NAME-N."""
        return tuple(f"{self.name}-{number + 1}" for number in range(self._options.slots))

    def prepare(self) -> None:
        """Look at the files that logging in needs; repeatable.

        Raises:
            ConfigError: The key, the pinned host key, or what logs in to an API is not there.
        """
        options = self._options
        api_login.check(self.name, options)
        for key, path in (("key-file", options.key_file), ("known-hosts", options.known_hosts)):
            if not path.is_file():
                pin = f"ssh-keyscan -p {options.port} {options.host} > {path}"
                raise ConfigError(
                    f"provider {self.name}: {key} {path} is not there",
                    hint=f"create it: {pin}" if key == "known-hosts" else "create the key",
                )

    def start(self, node: str, holder: str) -> Endpoint:  # noqa: ARG002
        """Where the machine is, once its port has answered.

        Raises:
            NodeUnavailable: Nothing listens there.
        """
        options = self._options
        try:
            socket.create_connection((options.host, options.port), timeout=CONNECT_S).close()
        except OSError as error:
            raise NodeUnavailable(
                f"node {node}: {options.host}:{options.port} does not answer: {error}",
                hint="check that the machine is up and its SSH server runs",
                retryable=True,
            ) from error
        workdir = options.workdir if options.slots == 1 else f"{options.workdir}/{node}"
        return Endpoint(
            transport=Transport.SSH,
            host=options.host,
            port=options.port,
            user=options.user,
            key_file=options.key_file,
            known_hosts=options.known_hosts,
            workdir=workdir,
            hypervisor=options.hypervisor,
            grade=options.grade,
            **api_login.login(options, node, self._state),
        )

    def stop(self, node: str) -> None:
        """The machine stays; what logs in to its hypervisor goes."""
        api_login.forget(node, self._state)

    def leaked(self, held: frozenset[str]) -> tuple[str, ...]:  # noqa: ARG002
        """Nothing: it makes nothing."""
        return ()
