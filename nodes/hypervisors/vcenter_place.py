# SPDX-License-Identifier: Apache-2.0
"""Where guests go in a vCenter: datacenter, cluster, datastore, network, found by name once."""

from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.vcenter_link import VcenterLink


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
    told = link.props(cluster, "datastore", "network", "resourcePool")
    datastores = {_name(link, one): one for one in told.get("datastore", ())}
    networks = {_name(link, one): one for one in told.get("network", ())}
    # Any will do where none is named: hosts of a cluster share its datastores.
    datastore_name = _pick("datastore", datastores, where.options.get("datastore", ""), first=True)
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
    )


def _named(link: VcenterLink, kind: Any, below: Any) -> dict[str, Any]:
    return {told.get("name", ""): thing for thing, told in link.all(kind, below, "name")}


def _name(link: VcenterLink, thing: Any) -> str:
    return str(link.props(thing, "name").get("name", ""))


def _pick(what: str, found: dict[str, Any], wanted: str, *, first: bool = False) -> str:
    """The name of one of several things."""
    names = ", ".join(sorted(found)) or "none"
    if wanted:
        if wanted not in found:
            raise CallerFault(f"there is no {what} {wanted!r}", hint=f"there are: {names}")
        return wanted
    if not found or (len(found) > 1 and not first):
        raise CallerFault(
            f"the URL names no {what}, and there is not just one", hint=f"there are: {names}"
        )
    return min(found)
