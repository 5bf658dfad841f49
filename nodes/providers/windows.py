# SPDX-License-Identifier: Apache-2.0
"""A Windows machine of one's own, always on, reached over WinRM."""

import socket
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from ci.errors import ConfigError, NodeUnavailable
from ci.layout import SecretRef
from ci.model.node import Endpoint, Transport, WinrmLogin
from ci.model.result import Grade
from ci.settings import resolve_secret
from nodes.providers import api_login
from nodes.providers.api_login import ApiLogin

CONNECT_S = 10.0


class WindowsOptions(ApiLogin):
    """What the configuration may say of a `windows` provider.

    Attributes:
        name: Name of the provider; its nodes are NAME-1, NAME-2, ...
        label: Node label that jobs ask for.
        slots: Builds that may use the machine at once, each in a directory of its own.
        host: Address.
        port: TCP port of its HTTPS listener.
        user: Login.
        password: Of that user, by reference.
        auth: How the user logs in.
        ca_file: Certificates that sign the machine's own.
        certificate: SHA-256 of the machine's certificate, which pins it.
        workdir: Directory that builds may fill.
        hypervisor: URL of the hypervisor under test.
        grade: How real that hypervisor is; `none` until the operator says so.
    """

    name: str = Field(default="windows", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")
    label: str = "windows"
    slots: int = Field(default=1, ge=1, le=15)
    host: str = Field(pattern=r"^[A-Za-z0-9_.:-]+$")
    port: int = Field(default=5986, ge=1, le=65535)
    user: str = Field(pattern=r"^[^\x00-\x1f:]{1,256}$")
    password: SecretRef
    auth: Literal["negotiate", "ntlm", "kerberos", "basic"] = "negotiate"
    ca_file: Path | None = None
    certificate: str = Field(default="", pattern=r"^([0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2}){31})?$")
    workdir: str = Field(
        default="C:/hypervouch/work",
        pattern=r"^([A-Za-z]:)?/[^/<>:\"|?*%\x00-\x1f]+(/[^/<>:\"|?*%\x00-\x1f]+)*$",
    )
    hypervisor: str = ""
    grade: Grade = Grade.NONE

    @model_validator(mode="after")
    def _no_emulator(self) -> Self:
        """The machine itself may be our emulator, too, whatever its hypervisor is."""
        if self.grade is Grade.EMULATOR and not self.emulator_may_vote:
            raise ValueError(
                "an emulator of ours is no Windows and no hypervisor: say emulator-may-vote: true "
                "where a vote by it is wanted"
            )
        return self


class WindowsProvider:
    """Says where the machine is; see `nodes.providers.base` for the contract."""

    Options: ClassVar[type[BaseModel]] = WindowsOptions

    def __init__(self, options: WindowsOptions, state_dir: Path) -> None:
        """Nothing is contacted; `state_dir` is for the password of an API, while a node is used."""
        self._options = options
        self._state = state_dir

    @property
    def name(self) -> str:
        """The name the configuration gives it."""
        return self._options.name

    @property
    def machine_bound(self) -> bool:
        """Any process that has the password reaches it."""
        return False

    @property
    def disposable(self) -> bool:
        """The machine stays."""
        return False

    def node_names(self) -> tuple[str, ...]:
        """NAME-1 to NAME-N."""
        return tuple(f"{self.name}-{number + 1}" for number in range(self._options.slots))

    def prepare(self) -> None:
        """Look at what logging in needs; repeatable.

        Raises:
            ConfigError: The password or the certificates are not there.
        """
        options = self._options
        resolve_secret(options.password)
        api_login.check(self.name, options)
        if options.ca_file is not None and not options.ca_file.is_file():
            raise ConfigError(
                f"provider {self.name}: ca-file {options.ca_file} is not there",
                hint="put the machine's certificates there, or pin its own with certificate",
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
                hint="check that the machine is up and has an HTTPS listener for WinRM",
                retryable=True,
            ) from error
        workdir = options.workdir if options.slots == 1 else f"{options.workdir}/{node}"
        return Endpoint(
            transport=Transport.WINRM,
            host=options.host,
            port=options.port,
            user=options.user,
            workdir=workdir,
            hypervisor=options.hypervisor,
            grade=options.grade,
            winrm=WinrmLogin(
                password_env=options.password.from_env or "",
                password_file=options.password.from_file,
                ca_file=options.ca_file,
                certificate=options.certificate,
                auth=options.auth,
            ),
            **api_login.login(options, node, self._state),
        )

    def stop(self, node: str) -> None:
        """The machine stays; what logs in to its hypervisor goes."""
        api_login.forget(node, self._state)

    def leaked(self, held: frozenset[str]) -> tuple[str, ...]:  # noqa: ARG002
        """Nothing: it makes nothing."""
        return ()
