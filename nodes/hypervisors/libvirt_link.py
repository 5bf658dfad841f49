# SPDX-License-Identifier: Apache-2.0
"""A connection to a libvirt daemon: on this machine, or over SSH with a pinned host key.

Over SSH libvirt starts a program of our choice instead of `ssh`: a wrapper that runs ssh with
the key and the known-hosts file of `Access`, and refuses any host whose key is not in there.
On the other side libvirt needs `virt-ssh-helper` or `nc`.
"""

import getpass
import secrets
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import libvirt

from ci import proc
from nodes.hypervisors import libvirt_errors, libvirt_events, shell_link, tunnel
from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault
from nodes.hypervisors.libvirt_bounded import bounded
from nodes.hypervisors.shell_link import ShellLink

T = TypeVar("T")
OURS = frozenset({"type", "arch", "disks", "bridge", "address"})
"""Parameters of a URL that are for us; libvirt never sees them."""

REMOTE_DISKS = "/var/lib/libvirt/hypervouch"
KEEP_ALIVE_S, KEEP_ALIVE_COUNT = 5, 4
CONNECT_S = 15
COMPLAINT = 400
PATHS = {"qemu": ("/system", "/session"), "lxc": ("/system", "/"), "xen": ("/system", "/")}
"""What a driver's URL may end with."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """A URL, taken apart.

    Attributes:
        scheme: `qemu`, `lxc` or `xen`.
        transport: `ssh`, or empty for this machine.
        host: Empty for this machine.
        port: 0 for the transport's own.
        user: Empty for whoever we are.
        url: What libvirt is given, without our parameters.
        options: Our parameters.
    """

    scheme: str
    transport: str
    host: str
    port: int
    user: str
    url: str
    options: Mapping[str, str] = field(default_factory=dict)


def address(url: str) -> Address:
    """Take a URL apart.

    Raises:
        CallerFault: It is no URL of a libvirt daemon that we connect to.
    """
    try:
        parts = urlsplit(url)
        host, port, user = parts.hostname or "", parts.port or 0, parts.username or ""
    except ValueError as error:
        raise CallerFault(f"{url!r} is no URL: {error}") from error
    scheme, _, transport = parts.scheme.partition("+")
    paths = PATHS.get(scheme, ("/system",))
    if parts.path not in ("", *paths):
        raise CallerFault(
            f"{url!r} leads to {parts.path}, which {scheme} has not",
            hint=f"use {' or '.join(paths)}",
        )
    if parts.password:
        raise CallerFault(f"the URL of {host} holds a password", hint="use a key-file")
    if transport not in ("", "ssh", "unix"):
        raise CallerFault(
            f"{url!r} asks for the transport {transport!r}, which is not used here",
            hint="connect over SSH: qemu+ssh://root@host/system",
        )
    if host and transport != "ssh":
        raise CallerFault(
            f"{url!r} leads to another host without SSH", hint=f"use {scheme}+ssh://{host}/system"
        )
    if transport == "ssh" and not host:
        raise CallerFault(f"{url!r} names no host", hint=f"use {scheme}+ssh://root@host/system")
    given = parse_qsl(parts.query, keep_blank_values=True)
    rest = urlencode([pair for pair in given if pair[0] not in OURS], quote_via=quote, safe="/")
    return Address(
        scheme=scheme,
        transport=transport,
        host=host,
        port=port,
        user=user,
        url=f"{parts.scheme}://{parts.netloc}{parts.path or '/system'}{rest and '?'}{rest}",
        options={key: value for key, value in given if key in OURS},
    )


@dataclass(kw_only=True)
class Link:
    """A connection with what it needs; `close` gives it back.

    Attributes:
        conn: libvirt's virConnect.
        address: Where it leads.
        access: What the URL did not hold.
        watch: Events of its guests.
        ssh: The wrapper that runs ssh, with the arguments that lead to the host; empty for
            this machine.
    """

    conn: Any
    address: Address
    access: Access
    watch: libvirt_events.Watch
    ssh: tuple[str, ...] = ()
    _shell: ShellLink | None = None

    @property
    def local(self) -> bool:
        """Whether the daemon is on this machine."""
        return not self.ssh

    @property
    def options(self) -> Mapping[str, str]:
        """Our own parameters of the URL."""
        return self.address.options

    @property
    def disks(self) -> str:
        """The directory on the host that holds whatever we make."""
        here = str(self.access.work.absolute() / "disks") if self.local else REMOTE_DISKS
        return self.options.get("disks", here)

    @property
    def wire(self) -> str:
        """The host's address as other hosts send guests to it."""
        return self.options.get("address") or self.address.host or "127.0.0.1"

    def host_text(self, path: str) -> str:
        """A small text file of the host, as /proc/uptime.

        Raises:
            NodeFault: It cannot be read.
        """
        try:
            if self.local:
                return Path(path).read_text()
            return self.host_run("cat", path).decode("utf-8", "replace")
        except OSError as error:
            raise NodeFault(f"cannot read {path} of {self.address.url}: {error}") from error

    def host_run(self, *argv: str) -> bytes:
        """What a short command on the host prints.

        Raises:
            NodeFault: It failed.
        """
        if not self.local:
            return self.shell().run(argv, timeout_s=CONNECT_S * 2).out
        try:
            return proc.run(argv, timeout_s=CONNECT_S * 2).stdout
        except proc.CommandFailed as error:
            raise NodeFault(
                f"{' '.join(argv)} failed on {self.address.url}: {error}", hint=error.hint
            ) from error

    def reach(self, host: str, port: int) -> tuple[str, int]:
        """Where an address of the host's own loopback is for us."""
        if self.local:
            return host, port
        return tunnel.HOST, self.shell().tunnels.port(host, port)

    def shell(self) -> ShellLink:
        """A shell on the host that is reached over SSH; one connection for all that is asked."""
        if self._shell is None:
            where = shell_link.Address(
                host=self.address.host,
                port=self.address.port or 22,
                user=self.address.user or getpass.getuser(),
            )
            self._shell = ShellLink(where, self.access)
        return self._shell

    def close(self) -> None:
        """Let go of it; repeatable, never raises."""
        if self._shell is not None:
            self._shell.close()
        self.watch.close()
        with suppress(libvirt.libvirtError):
            self.conn.close()


def wrapper(access: Access) -> tuple[Path, Path]:
    """Write `ssh` with our keys, for ourselves and as libvirt runs it.

    Raises:
        CallerFault: There is no key or no pinned host key.
    """
    if access.key_file is None or access.known_hosts is None:
        raise CallerFault(
            "a hypervisor over SSH needs a key-file and a known-hosts file", hint="set both"
        )
    for path, what in ((access.key_file, "key-file"), (access.known_hosts, "known-hosts file")):
        if not path.is_file():
            raise CallerFault(f"the {what} {path} is not there")
    options = {
        "IdentityFile": access.key_file.absolute(),
        "UserKnownHostsFile": access.known_hosts.absolute(),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "BatchMode": "yes",
        "ConnectTimeout": CONNECT_S,
        "ServerAliveInterval": KEEP_ALIVE_S,
        "ServerAliveCountMax": KEEP_ALIVE_COUNT,
        "LogLevel": "ERROR",
    }
    words = ["ssh", "-F", "none"]
    for key, value in options.items():
        # ssh takes these apart again: a path with blanks needs quotes of its own.
        words += ["-o", f'{key}="{value}"' if isinstance(value, Path) else f"{key}={value}"]
    work = access.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    plain, script = work / "ssh-pinned", work / "ssh-for-libvirt"
    _write_program(plain, f'exec {shlex.join(words)} "$@"')
    # libvirt gives up on more than 1,024 bytes of complaint, and tells of that alone.
    _write_program(
        script, f'{{ {shlex.quote(str(plain))} "$@" 2>&1 >&3 | tail -c {COMPLAINT} >&2; }} 3>&1'
    )
    return plain, script


def _write_program(path: Path, line: str) -> None:
    """Write a shell script, whole or not at all: another connection may be running it."""
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    fresh.write_text(f"#!/bin/sh\n{line}\n")
    fresh.chmod(0o700)
    fresh.replace(path)


def open_link(url: str, access: Access) -> Link:
    """Connect to a daemon.

    Raises:
        CallerFault: The URL is wrong, or a key is missing.
        TransientFault: Nobody answers.
        NodeFault: It refuses us, or showed another host key.
    """
    where = address(url)
    target, ssh = where.url, ()
    if where.transport == "ssh":
        plain, script = wrapper(access)
        target += f"{'&' if '?' in target else '?'}command={quote(str(script))}"
        port = ("-p", str(where.port)) if where.port else ()
        user = ("-l", where.user) if where.user else ()
        ssh = (str(plain), *port, *user, "--", where.host)
    libvirt_events.run_loop()

    def connect() -> Any:
        conn = libvirt.open(target)
        # Without it a daemon that hangs would hold our calls for ever. Some drivers have none.
        with suppress(libvirt.libvirtError):
            conn.setKeepAlive(KEEP_ALIVE_S, KEEP_ALIVE_COUNT)
        return conn

    conn = answered(connect, where, min(access.timeout_s, 4.0 * CONNECT_S))
    return Link(conn=conn, address=where, access=access, watch=libvirt_events.Watch(conn), ssh=ssh)


def answered(call: Callable[[], T], where: Address, timeout_s: float) -> T:
    """What a call gives that is a part of connecting.

    Raises:
        CallerFault: The URL is wrong.
        TransientFault: Nobody answers.
        NodeFault: It refuses us, or showed another host key.
    """
    doing = f"connect to {where.url}"
    try:
        return bounded(call, timeout_s)
    except TimeoutError as late:
        raise TransientFault(
            f"cannot {doing}: no answer within {timeout_s:g} s",
            hint="look whether libvirtd hangs there",
            retryable=True,
        ) from late
    except libvirt.libvirtError as error:
        raise libvirt_errors.fault(error, doing) from error
