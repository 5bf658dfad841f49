# SPDX-License-Identifier: Apache-2.0
"""What a libvirt host says of itself and of what is on it."""

import platform
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import libvirt

from ci.model.evidence import System
from ci.model.feature import Feature
from nodes.hypervisors import libvirt_xml as xml
from nodes.hypervisors.base import GuestState, HostStatus, Hypervisor, Inventory
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.libvirt_bounded import operation
from nodes.hypervisors.libvirt_flavour import Flavour
from nodes.hypervisors.libvirt_link import Link
from nodes.hypervisors.libvirt_store import Store

STATES: Mapping[int, GuestState] = {
    libvirt.VIR_DOMAIN_NOSTATE: GuestState.RUNNING,
    libvirt.VIR_DOMAIN_RUNNING: GuestState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: GuestState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: GuestState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: GuestState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTOFF: GuestState.SHUTOFF,
    libvirt.VIR_DOMAIN_CRASHED: GuestState.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: GuestState.SUSPENDED,
}


class LibvirtFacts(Hypervisor):
    """The part of the adapter that only looks."""

    def __init__(self, link: Link, flavour: Flavour) -> None:
        """Take over a connection.

        Args:
            link: The open connection; `close` gives it back.
            flavour: What is particular to the driver.
        """
        self.link = link
        self.flavour = flavour
        self.store = Store(link.conn, link.disks)

    @property
    def url(self) -> str:
        """Where this leads, without what is only for us."""
        return self.link.address.url

    @property
    def timeout_s(self) -> float:
        """Seconds that one call may take."""
        return self.link.access.timeout_s

    @operation()
    def system(self) -> System:
        """Which column this is, with the versions of what stands behind it."""
        key, title = self.flavour.column()
        conn = self.link.conn
        cpu = xml.parse(conn.getCapabilities()).find("./host/cpu")
        model = "" if cpu is None else cpu.findtext("model", "")
        versions = {
            "libvirt": _dotted(conn.getLibVersion()),
            conn.getType().lower(): _dotted(conn.getVersion()),
            "kernel": self.link.host_text("/proc/sys/kernel/osrelease").strip(),
            "cpu": model,
            "cpu-flags": " ".join(self._cpu_flags()),
            **self.versions(),
            **self.flavour.versions(),
        }
        return System(key=key, title=title, grade=self.link.access.grade, versions=versions)

    def versions(self) -> Mapping[str, str]:
        """More versions that a driver knows of: here the firmware it offers."""
        try:
            told = xml.parse(self._domain_capabilities())
        except libvirt.libvirtError:
            return {}
        # Loaders are listed for every machine, also for one that has no use for them.
        uefi = told.find("./os/enum[@name='firmware']/value") is not None
        loaders = [value.text or "" for value in told.findall("./os/loader/value") if uefi]
        return {
            "machine": told.findtext("machine", ""),
            "firmware": " ".join(sorted(Path(loader).name for loader in loaders)),
        }

    def _domain_capabilities(self) -> str:
        """What the host offers to guests, as XML."""
        return str(self.link.conn.getDomainCapabilities())

    def _cpu_flags(self) -> tuple[str, ...]:
        for line in self.link.host_text("/proc/cpuinfo").lower().splitlines():
            name, _, flags = line.partition(":")
            if name.strip() in ("flags", "features"):
                return tuple(sorted(flags.split()))
        return (platform.machine(),) if self.link.local else ()

    @operation(Feature.GET_HOST_INFO)
    def status(self) -> HostStatus:
        """What the host says of itself."""
        info = self.link.conn.getInfo()
        return HostStatus(
            hostname=self.link.conn.getHostname(),
            address=_address(self.link.address.host),
            uptime_s=float(self.link.host_text("/proc/uptime").split()[0]),
            memory_mib=int(info[1]),
            cpus=int(info[2]),
            cpu_traits=self._cpu_flags(),
        )

    @operation()
    def inventory(self) -> Inventory:
        """Everything on it, ours and others'."""
        conn = self.link.conn
        guests, snapshots = {}, set()
        for domain in conn.listAllDomains():
            name = domain.name()
            guests[name] = self.state(domain)
            snapshots |= {f"{name}/{tag}" for tag in self._snapshots(domain)}
        self.store.refresh()
        volumes = {
            str(name)
            for pool in conn.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
            for name in pool.listVolumes()
        }
        return Inventory(
            guests=guests,
            volumes=frozenset(volumes),
            networks=frozenset(self._networks()),
            snapshots=frozenset(snapshots),
        )

    def _networks(self) -> list[str]:
        try:
            return [network.name() for network in self.link.conn.listAllNetworks()]
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
                return []  # a daemon without the network driver
            raise

    def _snapshots(self, domain: Any) -> list[str]:
        if Feature.SNAPSHOT in self.missing:
            return []
        return [snapshot.getName() for snapshot in domain.listAllSnapshots()]

    def find(self, name: str) -> Any:
        """Libvirt's domain of a guest; None where there is none."""
        try:
            return self.link.conn.lookupByName(name)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def domain(self, name: str) -> Any:
        """Libvirt's domain of a guest.

        Raises:
            CallerFault: There is none.
        """
        found = self.find(name)
        if found is None:
            raise CallerFault(
                f"there is no guest {name} on {self.url}", hint="look at the inventory"
            )
        return found

    def state(self, domain: Any) -> GuestState:
        """What libvirt says of a guest."""
        state = STATES[domain.state()[0]]
        if state is GuestState.SHUTOFF and Feature.SUSPEND not in self.missing:
            return GuestState.SUSPENDED if domain.hasManagedSaveImage() else state
        return state


def _dotted(number: int) -> str:
    """Libvirt's way to write 9.1.2 is 9001002."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _address(host: str) -> str:
    """An address of a host; of this machine where it is empty."""
    try:
        return str(socket.getaddrinfo(host or socket.gethostname(), None)[0][4][0])
    except OSError:
        return host or "127.0.0.1"
