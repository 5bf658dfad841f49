# SPDX-License-Identifier: Apache-2.0
"""A Windows machine of one's own, always on, reached over WinRM or over its OpenSSH."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from ci.errors import ConfigError
from ci.layout import SecretRef
from ci.model.node import Endpoint, Transport, WinrmLogin
from ci.model.result import Grade
from ci.settings import resolve_secret
from nodes.providers import api_login
from nodes.providers.slots import OwnOptions, Staying, await_port, check_ssh_files

_PORTS = {"winrm": 5986, "ssh": 22}
_KEYS = {
    "winrm": {"password", "auth", "ca-file", "certificate"},
    "ssh": {"key-file", "known-hosts"},
}
_NEEDED = {"winrm": {"password"}, "ssh": _KEYS["ssh"]}


def _key(name: str) -> str:
    return name.replace("_", "-")


class WindowsOptions(OwnOptions):
    """What the configuration may say of a `windows` provider.

    Attributes:
        name: Name of the provider; its nodes are NAME-1, NAME-2, ...
        label: Node label that jobs ask for.
        slots: Builds that may use the machine at once, each in a directory of its own.
        host: Address.
        transport: `winrm`, or `ssh` for OpenSSH on Windows.
        port: TCP port of its HTTPS listener, or of its SSH server; each has its default.
        user: Login.
        password: Of that user, by reference; for WinRM, like the three that follow.
        auth: How the user logs in.
        ca_file: Certificates that sign the machine's own.
        certificate: SHA-256 of the machine's certificate, which pins it.
        key_file: Private key; for SSH, like the one that follows.
        known_hosts: File with its host key; any other key is refused.
        workdir: Directory that builds may fill.
        hypervisor: URL of the hypervisor under test.
        grade: How real that hypervisor is; `none` until the operator says so.
    """

    name: str = Field(default="windows", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")
    label: str = "windows"
    slots: int = Field(default=1, ge=1, le=15)
    host: str = Field(pattern=r"^[A-Za-z0-9_.:-]+$")
    transport: Literal["winrm", "ssh"] = "winrm"
    port: int | None = Field(default=None, ge=1, le=65535)
    user: str = Field(pattern=r"^[^\x00-\x1f:]{1,256}$")
    password: SecretRef | None = None
    auth: Literal["negotiate", "ntlm", "kerberos", "basic"] = "negotiate"
    ca_file: Path | None = None
    certificate: str = Field(default="", pattern=r"^([0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2}){31})?$")
    key_file: Path | None = None
    known_hosts: Path | None = None
    workdir: str = Field(
        default="C:/hypervouch/work",
        pattern=r"^([A-Za-z]:)?/[^/<>:\"|?*%\x00-\x1f]+(/[^/<>:\"|?*%\x00-\x1f]+)*$",
    )
    hypervisor: str = ""
    grade: Grade = Grade.NONE

    @property
    def tcp_port(self) -> int:
        """The port, its default filled in."""
        return self.port or _PORTS[self.transport]

    @model_validator(mode="after")
    def _of_one_transport(self) -> Self:
        given = {_key(name) for name in self.model_fields_set if getattr(self, name) is not None}
        other = "ssh" if self.transport == "winrm" else "winrm"
        if strange := sorted(given & _KEYS[other]):
            raise ValueError(
                f"{', '.join(strange)} belongs to transport: {other}, and this one is reached by "
                f"{self.transport}: leave it out, or say transport: {other}"
            )
        if missing := sorted(_NEEDED[self.transport] - given):
            raise ValueError(f"transport: {self.transport} needs {' and '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _no_emulator(self) -> Self:
        """The machine itself may be our emulator, too, whatever its hypervisor is."""
        if self.grade is Grade.EMULATOR and not self.emulator_may_vote:
            raise ValueError(
                "an emulator of ours is no Windows and no hypervisor: say emulator-may-vote: true "
                "where a vote by it is wanted"
            )
        return self


class WindowsProvider(Staying[WindowsOptions]):
    """Says where the machine is; see `nodes.providers.base` for the contract."""

    Options: ClassVar[type[BaseModel]] = WindowsOptions

    def prepare(self) -> None:
        """Look at what logging in needs; repeatable.

        Raises:
            ConfigError: What a login needs is not there.
        """
        options = self._options
        api_login.check(self.name, options)
        if options.password is not None:
            resolve_secret(options.password)
        if options.key_file is not None and options.known_hosts is not None:
            where = f"-p {options.tcp_port} {options.host}"
            check_ssh_files(self.name, where, options.key_file, options.known_hosts)
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
        over_ssh = options.transport == "ssh"
        server = "its OpenSSH server runs" if over_ssh else "has an HTTPS listener for WinRM"
        hint = f"check that the machine is up and {server}"
        await_port(node, options.host, options.tcp_port, hint=hint)
        return Endpoint(
            transport=Transport.WINDOWS_SSH if over_ssh else Transport.WINRM,
            host=options.host,
            port=options.tcp_port,
            user=options.user,
            key_file=options.key_file,
            known_hosts=options.known_hosts,
            workdir=self._directory(node, options.workdir),
            hypervisor=options.hypervisor,
            grade=options.grade,
            winrm=_winrm(options),
            **api_login.login(options, node, self._state),
        )


def _winrm(options: WindowsOptions) -> WinrmLogin | None:
    if options.password is None:
        return None
    return WinrmLogin(
        password_env=options.password.from_env or "",
        password_file=options.password.from_file,
        ca_file=options.ca_file,
        certificate=options.certificate,
        auth=options.auth,
    )
