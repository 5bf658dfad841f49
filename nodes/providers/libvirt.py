# SPDX-License-Identifier: Apache-2.0
"""Domains of a libvirt host that are there already, put back to a snapshot for every build.

The domains belong to this CI: whatever runs in one that nobody holds is ended. What a killed
process left is found in libvirt's own state, as a domain that runs without a holder.

A snapshot brings back old memory too: its clock and its random state are renewed over SSH before
a domain is handed out. Its host key is the snapshot's, so it is pinned in the configuration.
"""

import fnmatch
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import paramiko
from pydantic import BaseModel, ConfigDict, Field

from ci import plugins, proc
from ci.errors import ConfigError, NodeUnavailable
from ci.model.node import Endpoint, Transport
from ci.model.result import Grade
from nodes.login import LOGIN_S, await_login, log_in
from nodes.providers.slots import Slots

OUR_METADATA = "urn:hypervouch:slot"
# Bytes that are only written to the pool count at its next reseed, up to a minute later.
FRESHEN = """\
date -u -s @{now} >/dev/null && exec python3 -ISc '
import fcntl, struct, sys
seed = sys.stdin.buffer.read()
with open("/dev/random", "wb") as pool:
    fcntl.ioctl(pool, 0x40085203, struct.pack("ii", 8 * len(seed), len(seed)) + seed)
    fcntl.ioctl(pool, 0x5207)
'"""


class LibvirtOptions(BaseModel):
    """What the configuration may say of a `libvirt` provider.

    Attributes:
        name: Name of the provider; its nodes are NAME-1, NAME-2, ...
        label: Node label that jobs ask for.
        slots: Domains that may be used at once, of those that `domains` names.
        url: Of the libvirt host.
        domains: Names of domains, or patterns such as `ci-*`, in the order of the slots.
        snapshot: Name of the snapshot that each of them has.
        host: Address of a domain; `{domain}` stands for its name. Libvirt is asked by default.
        port: TCP port of its SSH server.
        addresses: HOST or HOST:PORT by the domain's name, where that does not fit.
        user: Login.
        key_file: Private key.
        known_hosts: File with the host keys; any other key is refused.
        workdir: Directory that builds may fill.
        boot_timeout_s: Seconds until a domain must answer.
        hypervisor: URL of the hypervisor under test, as seen in the domain.
        grade: How real that hypervisor is; `nested` as long as the operator says no other.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )

    name: str = Field(default="libvirt", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")
    label: str = "libvirt"
    slots: int = Field(default=1, ge=1, le=64)
    url: str = Field(default="qemu:///system", pattern=r"^[a-z]+(\+[a-z0-9]+)?://\S*$")
    domains: tuple[str, ...] = Field(min_length=1)
    snapshot: str = Field(default="ready", min_length=1)
    host: str = Field(default="", pattern=r"^[A-Za-z0-9_.:{}-]*$")
    port: int = Field(default=22, ge=1, le=65535)
    addresses: dict[str, str] = Field(default_factory=dict)
    user: str = Field(default="root", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    key_file: Path
    known_hosts: Path
    workdir: str = Field(default="/tmp/hypervouch", pattern=r"^/[^/\x00]+/[^\x00]+$")  # noqa: S108
    boot_timeout_s: float = Field(default=120.0, gt=0)
    hypervisor: str = ""
    grade: Grade = Grade.NESTED


class LibvirtProvider(Slots[LibvirtOptions]):
    """Reverts, starts and ends domains; see `nodes.providers.base` for the contract."""

    Options: ClassVar[type[BaseModel]] = LibvirtOptions

    def __init__(self, options: LibvirtOptions, state_dir: Path) -> None:
        """Nothing is contacted; nothing is kept below `state_dir`."""
        self._options = options
        self._state = state_dir
        self._domains: tuple[str, ...] = ()
        self._lock = threading.Lock()

    @property
    def machine_bound(self) -> bool:
        """Whether the URL names no host, so that only processes here reach it."""
        return not urlsplit(self._options.url).netloc

    @property
    def disposable(self) -> bool:
        """A domain is put back to its snapshot, disk and memory."""
        return True

    def prepare(self) -> None:
        """Look at the files that logging in needs, the domains and their snapshots; repeatable.

        Raises:
            ConfigError: One of them is not there, or libvirt does not answer.
        """
        options = self._options
        for key, path in (("key-file", options.key_file), ("known-hosts", options.known_hosts)):
            if not path.is_file():
                raise ConfigError(
                    f"provider {self.name}: {key} {path} is not there", hint="create it"
                )
        try:
            with self._host() as host:
                for name in self._resolved(host):
                    self._snapshot(host.lookupByName(name))
        except NodeUnavailable as error:
            raise ConfigError(error.message, hint=error.hint) from error

    def start(self, node: str, holder: str) -> Endpoint:
        """Put a domain back to its snapshot, let it run and log in.

        Raises:
            NodeUnavailable: It did not come up in time, or libvirt refused it.
            ConfigError: There are fewer domains than slots.
        """
        deadline = time.monotonic() + self._options.boot_timeout_s
        with self._host() as host:
            domain = self._domain(host, node)
            snapshot = self._snapshot(domain)
            _destroy(domain)
            try:
                domain.revertToSnapshot(snapshot, _sdk().VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING)
                _mark(domain, node, holder)
                endpoint = self._endpoint(domain, deadline)
                await_login(endpoint, deadline)
                renewed = freshen(endpoint)
            except BaseException:
                _destroy(domain)
                raise
        facts = {"domain": domain.name(), "snapshot": snapshot.getName()}
        facts["clock-and-random"] = "renewed" if renewed else "as the snapshot had them"
        return replace(endpoint, facts=facts)

    def stop(self, node: str) -> None:
        """End the slot's domain at once; what is on its disk goes with the next revert. Repeatable.

        Raises:
            NodeUnavailable: Libvirt does not answer, or refuses.
        """
        with self._host() as host:
            _destroy(self._domain(host, node))

    def leaked(self, held: frozenset[str]) -> tuple[str, ...]:
        """Slots not in `held` whose domain runs, by libvirt's own word.

        Raises:
            NodeUnavailable: Libvirt does not answer.
        """
        with self._host() as host:
            return tuple(
                node
                for node in self.node_names()
                if node not in held and self._domain(host, node).isActive()
            )

    def _domain(self, host: Any, node: str) -> Any:
        return host.lookupByName(self._resolved(host)[self.node_names().index(node)])

    def _resolved(self, host: Any) -> tuple[str, ...]:
        """One domain's name for each slot; found once, so that a slot keeps its domain.

        Raises:
            ConfigError: There are too few.
        """
        with self._lock:
            if not self._domains:
                there = sorted(domain.name() for domain in host.listAllDomains())
                found: dict[str, None] = {}
                for pattern in self._options.domains:
                    found |= dict.fromkeys(fnmatch.filter(there, pattern))
                if len(found) < self._options.slots:
                    raise ConfigError(
                        f"provider {self.name}: {self._options.url} has {len(found)} domains named "
                        f"{', '.join(self._options.domains)}, {self._options.slots} are needed",
                        hint="define them, or set slots to as many as there are",
                    )
                self._domains = tuple(found)[: self._options.slots]
            return self._domains

    def _snapshot(self, domain: Any) -> Any:
        wanted = self._options.snapshot
        try:
            return domain.snapshotLookupByName(wanted)
        except _sdk().libvirtError as missing:
            raise ConfigError(
                f"domain {domain.name()} has no snapshot {wanted}",
                hint=f"virsh -c {self._options.url} snapshot-create-as {domain.name()} {wanted}",
            ) from missing

    def _endpoint(self, domain: Any, deadline: float) -> Endpoint:
        options, name = self._options, domain.name()
        host, port = options.host.replace("{domain}", name), options.port
        if name in options.addresses:
            host, _, given = options.addresses[name].partition(":")
            port = int(given or port)
        return Endpoint(
            transport=Transport.SSH,
            host=host or _asked_address(domain, deadline),
            port=port,
            user=options.user,
            key_file=options.key_file,
            known_hosts=options.known_hosts,
            workdir=options.workdir,
            hypervisor=options.hypervisor,
            grade=options.grade,
        )

    @contextmanager
    def _host(self) -> Iterator[Any]:
        """A connection; what libvirt refuses comes out as NodeUnavailable."""
        sdk = _sdk()
        connection = None
        try:
            connection = sdk.open(self._options.url)
            yield connection
        except sdk.libvirtError as error:
            raise NodeUnavailable(
                f"provider {self.name}: libvirt: {error.get_error_message() or error}",
                hint=f"try: virsh -c {self._options.url} list --all",
                retryable=True,
            ) from error
        finally:
            if connection is not None:
                with suppress(sdk.libvirtError):
                    connection.close()


def freshen(endpoint: Endpoint) -> bool:
    """Give a machine whose memory was restored our clock, and a random state of its own.

    Returns:
        Whether it took them: the login has to be root. A clock that is wrong fails the preflight.

    Raises:
        NodeUnavailable: It ended the session.
    """
    with log_in(endpoint, LOGIN_S) as client:
        try:
            command = FRESHEN.format(now=round(time.time()))
            to, said, _ = client.exec_command(command, timeout=LOGIN_S)
            to.write(os.urandom(64))
            to.channel.shutdown_write()
            status: int = said.channel.recv_exit_status()
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise NodeUnavailable(
                f"{endpoint.host}:{endpoint.port} ends our session: {error}", retryable=True
            ) from error
    return status == 0


def _sdk() -> Any:
    """The libvirt bindings, kept from writing to our standard error."""
    sdk = plugins.need("libvirt", extra="libvirt", what="a libvirt provider")
    sdk.registerErrorHandler(_silence, None)
    return sdk


def _silence(_context: object, _error: object) -> None:
    """Every error is raised besides."""


def _destroy(domain: Any) -> None:
    """End a domain at once; one that does not run is no error."""
    sdk = _sdk()
    try:
        domain.destroy()
    except sdk.libvirtError as error:
        if error.get_error_code() != sdk.VIR_ERR_OPERATION_INVALID:
            raise


def _mark(domain: Any, node: str, holder: str) -> None:
    """Write into the running domain who has it, for whoever looks with virsh."""
    sdk = _sdk()
    text = f"<slot node='{node}' holder='{holder}'/>"
    with suppress(sdk.libvirtError):  # some drivers keep no metadata
        domain.setMetadata(
            sdk.VIR_DOMAIN_METADATA_ELEMENT,
            text,
            "hypervouch",
            OUR_METADATA,
            sdk.VIR_DOMAIN_AFFECT_LIVE,
        )


def _asked_address(domain: Any, deadline: float) -> str:
    """The address that libvirt knows of a running domain: by DHCP, its agent or the ARP table.

    Raises:
        NodeUnavailable: It knows none in time.
    """
    sdk = _sdk()
    sources = (
        sdk.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
        sdk.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
        sdk.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
    )
    for _ in proc.wait_until(deadline, every_s=0.5):
        for source in sources:
            with suppress(sdk.libvirtError):
                for card in domain.interfaceAddresses(source).values():
                    for one in card["addrs"] or ():
                        if one["type"] == sdk.VIR_IP_ADDR_TYPE_IPV4 and one["addr"] != "127.0.0.1":
                            return str(one["addr"])
    raise NodeUnavailable(
        f"libvirt knows no address of domain {domain.name()}",
        hint="say it in host or addresses",
        retryable=True,
    )
