# SPDX-License-Identifier: Apache-2.0
"""One member of a XenServer pool: what it says of itself, and its maintenance."""

from contextlib import suppress
from datetime import UTC, datetime

from ci.errors import HypervouchError
from ci.model.feature import Feature
from nodes.hypervisors.base import HostStatus
from nodes.hypervisors.faults import CallerFault, NodeFault
from nodes.hypervisors.xenserver_link import Record, XapiLink
from nodes.hypervisors.xenserver_machines import MIB

_VERSIONS = {"product": "product_brand", "version": "product_version", "xen": "xen"}


class Host:
    """A member, by its reference.

    Attributes:
        reference: As XAPI names it.
    """

    def __init__(self, link: XapiLink, reference: str) -> None:
        self._link = link
        self.reference = reference

    def record(self) -> Record:
        """What the pool keeps of it."""
        return self._link.record("host", self.reference)

    def versions(self) -> dict[str, str]:
        """Of its product, and of Xen."""
        told = self.record()["software_version"]
        return {name: str(told[key]) for name, key in _VERSIONS.items() if key in told}

    def status(self) -> HostStatus:
        """What its record says."""
        host = self.record()
        booted = float(host["other_config"].get("boot_time", 0) or 0)
        uptime = datetime.now(UTC).timestamp() - booted if booted else 0.0
        info = host["cpu_info"]
        traits = str(info.get("flags", info.get("modelname", ""))).lower().split()
        return HostStatus(
            hostname=str(host["hostname"]),
            address=str(host["address"]),
            uptime_s=max(uptime, 0.0),
            memory_mib=int(self._metrics(host)["memory_total"]) // MIB,
            cpus=int(info.get("cpu_count", 0)),
            cpu_traits=tuple(sorted(set(traits))),
        )

    def is_live(self) -> bool:
        """Whether the pool hears of it."""
        return bool(self._metrics(self.record())["live"])

    def maintenance(self, *, on: bool) -> None:
        """No new guests, and those it has go to other members; or that ends."""
        doing = "put the host into maintenance" if on else "end the host's maintenance"
        if not on:
            self._link.call(doing, "host.enable", self.reference, feature=Feature.MAINTENANCE_MODE)
            return
        self._link.call(doing, "host.disable", self.reference, feature=Feature.MAINTENANCE_MODE)
        try:
            self._link.run(doing, "host.evacuate", self.reference, feature=Feature.MAINTENANCE_MODE)
        except BaseException:
            with suppress(HypervouchError):
                self._link.call(doing, "host.enable", self.reference)
            raise

    def _metrics(self, host: Record) -> Record:
        """What it measures of itself, and whether the pool hears of it."""
        return self._link.record("host_metrics", host["metrics"])


def named(link: XapiLink, kind: str, name: str) -> str:
    """The pool's one thing of a kind with a name; nothing where no name is given.

    Raises:
        CallerFault: There is none, or there are several.
    """
    if not name:
        return ""
    found = link.call(f"look for {name}", f"{kind}.get_by_name_label", name)
    if len(found) != 1:
        raise CallerFault(f"the pool has {len(found)} of a {kind} {name!r}", hint="one is needed")
    return str(found[0])


def find(link: XapiLink, name: str) -> Host:
    """The member with a name, or without one, that which answers.

    Raises:
        CallerFault: There is none, or there are several.
    """
    here = ("find the host", "session.get_this_host", link.reference)
    return Host(link, named(link, "host", name) or str(link.call(*here)))


def pool(link: XapiLink) -> Record:
    """The pool's own record.

    Raises:
        NodeFault: There is none, or there are several.
    """
    pools = link.records("pool")
    if len(pools) != 1:
        raise NodeFault(f"{link.where.host} tells of {len(pools)} pools")
    return next(iter(pools.values()))
