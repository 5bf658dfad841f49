# SPDX-License-Identifier: Apache-2.0
"""Where guests go in a vCenter: datacenter, cluster, datastore, network, found by name once.

A cluster has datastores that all its hosts share, and often disks of single hosts, on which a
guest stays where it was made. DRS may place guests and move them by itself, or is off.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from ci import plain
from nodes.hypervisors import vcenter_devices as devices
from nodes.hypervisors.base import PREFIX
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.vcenter_link import VcenterLink

_DRS = ("configurationEx.drsConfig.enabled", "configurationEx.drsConfig.defaultVmBehavior")


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a URL names; objects of pyvmomi beside their names.

    Attributes:
        datacenter: With `datacenter_name`.
        cluster: One hypervisor, with `cluster_name`.
        datastore: Holds disks, with `datastore_name`.
        network: Of first cards, with `network_name`.
        pool: The cluster's resource pool.
        folder: The datacenter's folder of machines.
        hosts: References of the hosts that reach the datastore.
        of_hosts: How many hosts the cluster has.
        drs: `off`, or what it does by itself: `manual`, `partiallyAutomated`, `fullyAutomated`.
    """

    datacenter: Any
    datacenter_name: str
    cluster: Any
    cluster_name: str
    datastore: Any
    datastore_name: str
    network: Any
    network_name: str
    pool: Any
    folder: Any
    hosts: frozenset[str]
    of_hosts: int
    drs: str

    def facts(self) -> dict[str, str]:
        """What of it decides what moving a guest shows."""
        reach = f"on {len(self.hosts)} of {self.of_hosts} hosts"
        return {"drs": self.drs, "datastore": reach}


def find(link: VcenterLink) -> Place:
    """Look everything up.

    Raises:
        CallerFault: There is no such thing, or several and none was named.
        NodeUnavailable: It cannot be read.
    """
    where = link.where
    top = link.content.rootFolder
    datacenters = _named(link, vim.Datacenter, top)
    datacenter_name = _pick("datacenter", datacenters, where.datacenter)
    datacenter = datacenters[datacenter_name]
    clusters = _named(link, vim.ClusterComputeResource, datacenter)
    cluster_name = _pick("cluster", clusters, where.cluster)
    cluster = clusters[cluster_name]
    told = link.props(cluster, "resourcePool", "host", *_DRS)
    listed = link.along(cluster, "datastore", vim.Datastore, "name", "host")
    stores = {str(its.get("name", "")): (one, _reach(its.get("host", ()))) for one, its in listed}
    datastores = {name: one for name, (one, _) in stores.items()}
    reach = {name: hosts for name, (_, hosts) in stores.items()}
    networks = networks_of(link, cluster)
    # Where none is named, any will do that most hosts share.
    most = max(map(len, reach.values()), default=0)
    named = where.options.get("datastore", "")
    usual = {n: one for n, one in datastores.items() if named or len(reach[n]) == most}
    datastore_name = _pick("datastore", usual, named, first=True)
    network_name = _pick("network", networks, where.options.get("network", ""), first=True)
    return Place(
        datacenter=datacenter,
        datacenter_name=datacenter_name,
        cluster=cluster,
        cluster_name=cluster_name,
        datastore=datastores[datastore_name],
        datastore_name=datastore_name,
        network=networks[network_name],
        network_name=network_name,
        pool=told["resourcePool"],
        folder=link.props(datacenter, "vmFolder")["vmFolder"],
        hosts=reach[datastore_name],
        of_hosts=len(told.get("host", ())),
        drs=str(told.get(_DRS[1], "on")) if told.get(_DRS[0]) else "off",
    )


def usable_hosts(link: VcenterLink, place: Place) -> list[Any]:
    """Hosts that a guest can be on now, the one with the fewest machines first.

    Raises:
        NodeUnavailable: They cannot be read.
    """
    paths = ("runtime.connectionState", "runtime.inMaintenanceMode", "vm")
    found = [
        (len(told.get(paths[2], ())), host._GetMoId(), host)  # noqa: SLF001 - its only name
        for host, told in link.all(vim.HostSystem, place.cluster, *paths)
        if told.get(paths[0]) == "connected" and not told.get(paths[1])
    ]
    return [host for _, name, host in sorted(found, key=lambda one: one[:2]) if name in place.hosts]


def machine(link: VcenterLink, place: Place, name: str) -> Any | None:
    """The cluster's machine of that name, in whatever folder somebody has put it.

    Raises:
        NodeUnavailable: It cannot be looked for.
    """
    found = link.all(vim.VirtualMachine, place.cluster, "name")
    return next((one for one, told in found if told.get("name") == name), None)


def networks_of(link: VcenterLink, cluster: Any) -> dict[str, Any]:
    """What a cluster's machines can be on, by name.

    Raises:
        NodeUnavailable: It cannot be read.
    """
    listed = link.along(cluster, "network", vim.Network, "name")
    return {str(told.get("name", "")): one for one, told in listed}


def _reach(mounts: Iterable[Any]) -> frozenset[str]:
    """The hosts that can write to a datastore now, of those that mount it."""
    return frozenset(
        one.key._GetMoId()  # noqa: SLF001 - its only name
        for one in mounts
        if one.mountInfo.accessible is not False and one.mountInfo.accessMode == "readWrite"
    )


def line_ports(link: VcenterLink, place: Place) -> set[int]:
    """TCP ports of the serial lines of our guests.

    Others' machines are not asked: they may be thousands, and hardly one has such a line.

    Raises:
        NodeUnavailable: They cannot be read.
    """
    listed = link.all(vim.VirtualMachine, place.cluster, "name")
    ours = [one for one, told in listed if str(told.get("name", "")).startswith(PREFIX)]
    path = "config.hardware.device"
    return {
        devices.line_port(told.get(path, ()))
        for _, told in link.several(ours, vim.VirtualMachine, path)
    }


def _named(link: VcenterLink, kind: Any, below: Any) -> dict[str, Any]:
    return {told.get("name", ""): thing for thing, told in link.all(kind, below, "name")}


def _pick(what: str, found: dict[str, Any], wanted: str, *, first: bool = False) -> str:
    """The name of one of several things."""
    names = plain.names(found)
    if wanted:
        if wanted not in found:
            raise CallerFault(f"there is no {what} {wanted!r}", hint=f"there are: {names}")
        return wanted
    if not found or (len(found) > 1 and not first):
        raise CallerFault(
            f"the URL names no {what}, and there is not just one", hint=f"there are: {names}"
        )
    return min(found)
