# SPDX-License-Identifier: Apache-2.0
"""A machine of one's own, always on, reached over SSH."""

from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field

from ci.model.node import Endpoint, Transport
from nodes.providers import api_login
from nodes.providers.slots import OwnOptions, Staying, await_port, check_ssh_files


class StaticOptions(OwnOptions):
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


class StaticProvider(Staying[StaticOptions]):
    """Says where the machine is; see `nodes.providers.base` for the contract."""

    Options: ClassVar[type[BaseModel]] = StaticOptions

    def prepare(self) -> None:
        """Look at the files that logging in needs; repeatable.

        Raises:
            ConfigError: The key, the pinned host key, or what logs in to an API is not there.
        """
        options = self._options
        api_login.check(self.name, options)
        where = f"-p {options.port} {options.host}"
        check_ssh_files(self.name, where, options.key_file, options.known_hosts)

    def start(self, node: str, holder: str) -> Endpoint:  # noqa: ARG002
        """Where the machine is, once its port has answered.

        Raises:
            NodeUnavailable: Nothing listens there.
        """
        options = self._options
        await_port(
            node,
            options.host,
            options.port,
            hint="check that the machine is up and its SSH server runs",
        )
        return Endpoint(
            transport=Transport.SSH,
            host=options.host,
            port=options.port,
            user=options.user,
            key_file=options.key_file,
            known_hosts=options.known_hosts,
            workdir=self._directory(node, options.workdir),
            hypervisor=options.hypervisor,
            grade=options.grade,
            **api_login.login(options, node, self._state),
        )
