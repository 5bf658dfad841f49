# SPDX-License-Identifier: Apache-2.0
"""Where work runs: Endpoint (how to reach a node), Node, Lease."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from ci.model.result import Grade


class NodeState(StrEnum):
    """LAVA's health words; whether a node is leased is the lease's business."""

    UNKNOWN = "Unknown"
    GOOD = "Good"
    LOOPING = "Looping"
    BAD = "Bad"
    MAINTENANCE = "Maintenance"
    RETIRED = "Retired"


class Transport(StrEnum):
    """How a runner talks to a node."""

    SSH = "ssh"
    WINRM = "winrm"
    WINDOWS_SSH = "windows-ssh"
    LOCAL = "local"
    DUMMY = "dummy"


WINDOWS = frozenset({Transport.WINRM, Transport.WINDOWS_SSH})
"""Transports of nodes whose shell is cmd.exe."""

EMULATED_WINDOWS = "EMULATOR-of-hypervouch"
"""What our own emulator of Windows' OpenSSH gives for `%OS%`: nobody takes it for a Windows."""


@dataclass(frozen=True, kw_only=True)
class WinrmLogin:
    """What a login over WinRM needs besides an address and a user; it holds no secret itself.

    Attributes:
        password_env: Name of the variable that holds the password.
        password_file: Or the file that does.
        ca_file: Certificates that sign the node's own; without one, this machine's.
        certificate: SHA-256 of the node's certificate, which pins it.
        auth: `negotiate`, `ntlm`, `kerberos` or `basic`.
    """

    password_env: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    certificate: str = ""
    auth: str = "negotiate"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """How to reach a node; the one thing runners and node adapters share.

    Attributes:
        transport: Which runner to use.
        host: Address; a loopback one for nodes on this machine.
        port: TCP port.
        user: Login.
        key_file: Private key, or None where the transport needs none.
        known_hosts: File with the pinned host key; unknown keys are refused.
        workdir: Directory on the node that a build may fill.
        hypervisor: URL of the hypervisor under test as seen on the node.
        grade: How real that hypervisor is.
        password_file: File with the password for the hypervisor's own API, where it has one.
        ca_file: Certificates that sign that API's own; without one, this machine's.
        certificate: SHA-256 of that API's certificate, which pins it.
        marks: Directory of ours that outlives builds: what is ours behind that API is noted there,
            where the hypervisor itself has no room for a mark.
        winrm: How to log in, where the transport is `winrm`.
        facts: What the evidence needs to say of the node (kernel, versions).
    """

    transport: Transport
    host: str = "127.0.0.1"
    port: int = 22
    user: str = "root"
    key_file: Path | None = None
    known_hosts: Path | None = None
    workdir: str = "/tmp/hypervouch"  # noqa: S108
    hypervisor: str = ""
    grade: Grade = Grade.NONE
    password_file: Path | None = None
    ca_file: Path | None = None
    certificate: str = ""
    marks: Path | None = None
    winrm: WinrmLogin | None = None
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A node held for a bounded time.

    Attributes:
        node: Name of the node.
        token: Fencing token, strictly growing per node: a smaller one can no longer vote.
        holder: Attempt id that holds it.
        expires_at: Aware, UTC; renewed at a third of its term.
    """

    node: str
    token: int
    holder: str
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class Node:
    """A slot that one build may use at a time.

    Attributes:
        name: Unique, for instance `qemu-1`.
        label: Node label that jobs ask for.
        provider: Name of the provider that makes or knows it.
        state: Health.
        reason: Why it has that state.
        lease: Who holds it now, if anybody.
        failures: Attempts in a row that ended as the node's fault.
        checked_at: Last preflight.
    """

    name: str
    label: str
    provider: str
    state: NodeState = NodeState.UNKNOWN
    reason: str = ""
    lease: Lease | None = None
    failures: int = 0
    checked_at: datetime | None = None
