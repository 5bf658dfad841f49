# SPDX-License-Identifier: Apache-2.0
"""What a pool does: machines, disks, cards, hosts. Methods are named as the API names them."""

import copy
import secrets
import time
from collections.abc import Mapping
from typing import Any

from nodes.stand_ins.xapi.records import NULL, Failure, Record, Records

# Method: the states in which it is allowed, and the state after it.
POWER: Mapping[str, tuple[tuple[str, ...], str]] = {
    "start": (("Halted",), "Running"),
    "start_on": (("Halted",), "Running"),
    "clean_shutdown": (("Running",), "Halted"),
    "hard_shutdown": (("Running", "Paused", "Suspended"), "Halted"),
    "clean_reboot": (("Running",), "Running"),
    "hard_reboot": (("Running", "Paused"), "Running"),
    "pause": (("Running",), "Paused"),
    "unpause": (("Paused",), "Running"),
    "suspend": (("Running",), "Suspended"),
    "resume": (("Suspended",), "Running"),
    "resume_on": (("Suspended",), "Running"),
}
_OWN = ("uuid", "VBDs", "VIFs", "consoles", "snapshots", "snapshot_of")
_REVERTED = ("VCPUs_max", "VCPUs_at_startup", "memory_static_max", "memory_dynamic_max")


class Pool(Records):
    """A pool with a shared storage and one network.

    Args:
        hosts: How many members it has; the first is the master.
        machines: How many guests it has from the start.
    """

    def __init__(self, hosts: int = 2, machines: int = 0) -> None:
        super().__init__()
        names = [f"xs{number + 1}" for number in range(hosts)]
        self.content: dict[str, bytes] = {}
        members = [
            self.new(
                "host",
                name_label=name,
                hostname=name,
                metrics=self.new("host_metrics"),
                other_config={"boot_time": f"{time.time() - 3600:.0f}."},
            )
            for name in names
        ]
        storage = self.new("SR", name_label="Shared NFS")
        self.new("network", name_label="Pool-wide network associated with eth0")
        self.new("pool", name_label="pool", master=members[0], default_SR=storage)
        self.new("VM", name_label="Other install media", is_a_template=True)
        for name, ref in zip(names, members, strict=True):
            label = f"Control domain on host: {name}"
            self.new("VM", name_label=label, is_control_domain=True, resident_on=ref)
        for number in range(machines):
            self.new("VM", name_label=f"machine-{number}")

    def session_get_this_host(self, _session: str) -> str:
        """The master."""
        return next(iter(self.of["host"]))

    # Machines ----------------------------------------------------------------------------

    def power(self, verb: str, vm: str, *args: Any) -> str:
        """Each change of a machine's power state.

        Raises:
            Failure: The state does not allow it, or there is no host for it.
        """
        machine = self.get("VM", vm)
        if machine["is_a_template"]:
            raise Failure("VM_IS_TEMPLATE", vm)
        allowed, after = POWER[verb]
        self._must_be(vm, *allowed)
        if verb in {"start", "start_on", "resume", "resume_on"}:
            machine["resident_on"] = self._host_for(args[0] if verb.endswith("_on") else None)
        machine["power_state"] = after
        off = after in {"Halted", "Suspended"}
        if off:
            machine["resident_on"] = NULL
        machine["domid"] = "-1" if off else "1"
        for link in machine["VBDs"]:
            self.of["VBD"][link]["currently_attached"] = after != "Halted"
        self._consoles(vm, machine)
        return ""

    def _host_for(self, wanted: str | None) -> str:
        ready = [ref for ref, host in self.of["host"].items() if host["enabled"]]
        if wanted is not None:
            self.get("host", wanted)
            if wanted not in ready:
                raise Failure("HOST_DISABLED", wanted)
            return wanted
        if not ready:
            raise Failure("NO_HOSTS_AVAILABLE")
        return ready[0]

    def _consoles(self, vm: str, machine: Record) -> None:
        for one in machine["consoles"]:
            self.of["console"].pop(one, None)
        machine["consoles"] = []
        if machine["power_state"] in {"Running", "Paused"}:
            where = f"https://127.0.0.1/console?uuid={machine['uuid']}"
            machine["consoles"] = [self.new("console", VM=vm, location=where)]

    def _must_be(self, vm: str, *states: str) -> None:
        found = self.get("VM", vm)["power_state"]
        if found not in states:
            raise Failure("VM_BAD_POWER_STATE", vm, states[0], found)

    def VM_create(self, record: Record) -> str:  # noqa: N802 - the API's own name
        """A machine without disks and cards."""
        if int(record["VCPUs_at_startup"]) > int(record["VCPUs_max"]):
            raise Failure("INVALID_VALUE", "VCPUs_at_startup", record["VCPUs_at_startup"])
        return self.new("VM", **record)

    def VM_clone(self, vm: str, name: str) -> str:  # noqa: N802 - the API's own name
        """A copy with disks of its own."""
        self._must_be(vm, "Halted", "Suspended")
        return self._copy(vm, name, template=self.get("VM", vm)["is_a_template"])

    def VM_provision(self, vm: str) -> str:  # noqa: N802
        """A template becomes a machine."""
        self.get("VM", vm)["is_a_template"] = False
        return ""

    def VM_destroy(self, vm: str) -> str:  # noqa: N802
        """Its links go with it, its disks stay."""
        if not self.get("VM", vm)["is_a_snapshot"]:
            self._must_be(vm, "Halted")
        for link in list(self.get("VM", vm)["VBDs"]):
            self.VBD_destroy(link)
        for card in list(self.get("VM", vm)["VIFs"]):
            self.of["VIF"].pop(card, None)
        gone = self.drop("VM", vm)
        source = self.of["VM"].get(gone["snapshot_of"])
        if source is not None:
            source["snapshots"] = [one for one in source["snapshots"] if one != vm]
        return ""

    def VM_snapshot(self, vm: str, name: str, left_out: Any = ()) -> str:  # noqa: N802
        """A template with copies of the disks, but for those that are left out."""
        made = self._copy(vm, name, template=True, snapshot=True, left_out=left_out)
        self.get("VM", vm)["snapshots"].append(made)
        return made

    def VM_revert(self, snapshot: str) -> str:  # noqa: N802
        """Its settings, and disks that are other ones with what the snapshot's hold."""
        kept = self.get("VM", snapshot)
        vm = kept["snapshot_of"]
        machine = self.get("VM", vm)
        machine.update({key: kept[key] for key in _REVERTED})
        machine.update(power_state="Halted", resident_on=NULL, domid="-1")
        for link in machine["VBDs"]:
            self.get("VBD", link)["currently_attached"] = False
        for link in kept["VBDs"]:
            wanted = self.get("VBD", link)
            for old in list(machine["VBDs"]):
                if self.get("VBD", old)["userdevice"] == wanted["userdevice"]:
                    disk = self.get("VBD", old)["VDI"]
                    self.VBD_destroy(old)
                    self.VDI_destroy(disk)
            disk = self._copy_disk(wanted["VDI"], snapshot=False)
            self._link(wanted | {"VM": vm, "VDI": disk})
        return ""

    def VM_pool_migrate(self, vm: str, host: str, _options: Any) -> str:  # noqa: N802
        """To another member."""
        self._must_be(vm, "Running")
        self.get("VM", vm)["resident_on"] = self._host_for(host)
        return ""

    def task_create(self, name: str, description: str) -> str:
        """One that an upload is followed by."""
        return self.new("task", name_label=name, name_description=description)

    def task_cancel(self, task: str) -> str:
        """It ends, unless it has."""
        record = self.get("task", task)
        if record["status"] == "pending":
            record.update(status="cancelled", error_info=["TASK_CANCELLED", task])
        return ""

    def VM_power_state_reset(self, vm: str) -> str:  # noqa: N802
        """Its host is taken for dead."""
        self.get("VM", vm).update(power_state="Halted", resident_on=NULL, domid="-1")
        return ""

    def VM_set_memory_limits(self, vm: str, *sizes: str) -> str:  # noqa: N802
        """While it is off."""
        self._must_be(vm, "Halted")
        names = ("static_min", "static_max", "dynamic_min", "dynamic_max")
        told = zip(names, sizes, strict=True)
        self.get("VM", vm).update({f"memory_{name}": size for name, size in told})
        return ""

    def VM_set_VCPUs_max(self, vm: str, count: str) -> str:  # noqa: N802
        """While it is off, and not below what it starts with."""
        self._must_be(vm, "Halted")
        return self._cpus(vm, int(count), int(self.get("VM", vm)["VCPUs_at_startup"]))

    def VM_set_VCPUs_at_startup(self, vm: str, count: str) -> str:  # noqa: N802
        """While it is off, and not above its maximum."""
        self._must_be(vm, "Halted")
        return self._cpus(vm, int(self.get("VM", vm)["VCPUs_max"]), int(count))

    def _cpus(self, vm: str, most: int, first: int) -> str:
        if first > most:
            raise Failure("INVALID_VALUE", "VCPUs_at_startup", first)
        self.get("VM", vm).update(VCPUs_max=str(most), VCPUs_at_startup=str(first))
        return ""

    def _copy(
        self, vm: str, name: str, *, template: bool, snapshot: bool = False, left_out: Any = ()
    ) -> str:
        source = self.get("VM", vm)
        kept = {key: copy.deepcopy(one) for key, one in source.items() if key not in _OWN}
        kept |= {"name_label": name, "power_state": "Halted", "resident_on": NULL, "domid": "-1"}
        kept |= {"is_a_template": template, "is_a_snapshot": snapshot}
        made = self.new("VM", **kept)
        self.get("VM", made)["snapshot_of"] = vm if snapshot else NULL
        for link in source["VBDs"]:
            old = self.get("VBD", link)
            if old["VDI"] in left_out:
                continue
            disk = self._copy_disk(old["VDI"], snapshot=snapshot)
            self._link(old | {"VM": made, "VDI": disk, "currently_attached": False})
        return made

    # Disks and cards ---------------------------------------------------------------------

    def VDI_create(self, record: Record) -> str:  # noqa: N802
        """An empty disk."""
        storage = self.get("SR", record["SR"])
        made = self.new("VDI", **record)
        storage["VDIs"].append(made)
        return made

    def VDI_destroy(self, disk: str) -> str:  # noqa: N802
        """Not while a machine has it."""
        self.get("VDI", disk)
        links = self.of["VBD"].values()
        if any(one["VDI"] == disk and one["currently_attached"] for one in links):
            raise Failure("VDI_IN_USE", disk, "destroy")
        storage = self.get("SR", self.drop("VDI", disk)["SR"])
        self.content.pop(disk, None)
        storage["VDIs"] = [one for one in storage["VDIs"] if one != disk]
        return ""

    def _copy_disk(self, disk: str, *, snapshot: bool) -> str:
        if disk == NULL:
            return NULL
        source = self.get("VDI", disk)
        kept = {key: copy.deepcopy(one) for key, one in source.items() if key not in _OWN}
        made = self.new("VDI", **kept | {"is_a_snapshot": snapshot})
        self.content[made] = self.content.get(disk, b"")
        self.get("VDI", made)["snapshot_of"] = disk if snapshot else NULL
        return made

    def VBD_create(self, record: Record) -> str:  # noqa: N802
        """A place on a machine's bus."""
        machine = self.get("VM", record["VM"])
        if record["VDI"] != NULL:
            self.get("VDI", record["VDI"])
        taken = [self.of["VBD"][one]["userdevice"] for one in machine["VBDs"]]
        if record["userdevice"] in taken:
            raise Failure("DEVICE_ALREADY_EXISTS", record["userdevice"])
        return self._link(record)

    def _link(self, record: Record) -> str:
        made = self.new("VBD", **record)
        self.get("VM", record["VM"])["VBDs"].append(made)
        if record["VDI"] != NULL:
            self.get("VDI", record["VDI"])["VBDs"].append(made)
        return made

    def VBD_plug(self, link: str) -> str:  # noqa: N802
        """Into a running machine."""
        self._must_be(self.get("VBD", link)["VM"], "Running")
        return self._plug("VBD", link, on=True)

    def VBD_unplug(self, link: str) -> str:  # noqa: N802
        """Out of a running machine."""
        self._must_be(self.get("VBD", link)["VM"], "Running")
        return self._plug("VBD", link, on=False)

    def VBD_destroy(self, link: str) -> str:  # noqa: N802
        """The disk stays."""
        if self.get("VBD", link)["currently_attached"]:
            raise Failure("OPERATION_NOT_ALLOWED", f"VBD {link} is attached")
        gone = self.drop("VBD", link)
        machine, disk = self.get("VM", gone["VM"]), self.of["VDI"].get(gone["VDI"])
        if disk is not None:
            disk["VBDs"] = [one for one in disk["VBDs"] if one != link]
        machine["VBDs"] = [one for one in machine["VBDs"] if one != link]
        return ""

    def VIF_create(self, record: Record) -> str:  # noqa: N802
        """A card, with an address of the pool's own where none is given."""
        self.get("network", record["network"])
        address = record["MAC"] or ":".join(["ee", *(secrets.token_hex(1) for _ in range(5))])
        made = self.new("VIF", **record | {"MAC": address})
        self.get("VM", record["VM"])["VIFs"].append(made)
        if self.get("VM", record["VM"])["power_state"] == "Running":
            return made
        self.get("VIF", made)["currently_attached"] = True
        return made

    def VIF_plug(self, card: str) -> str:  # noqa: N802
        """Into a running machine."""
        return self._plug("VIF", card, on=True)

    def VIF_unplug(self, card: str) -> str:  # noqa: N802
        """Out of a running machine."""
        return self._plug("VIF", card, on=False)

    def VIF_destroy(self, card: str) -> str:  # noqa: N802
        """It is gone."""
        machine = self.get("VM", self.drop("VIF", card)["VM"])
        machine["VIFs"] = [one for one in machine["VIFs"] if one != card]
        return ""

    def _plug(self, kind: str, ref: str, *, on: bool) -> str:
        record = self.get(kind, ref)
        if record["currently_attached"] == on:
            raise Failure(f"DEVICE_ALREADY_{'ATTACHED' if on else 'DETACHED'}", ref)
        record["currently_attached"] = on
        return ""

    # Hosts -------------------------------------------------------------------------------

    def host_disable(self, host: str) -> str:
        """It takes no more machines."""
        self.get("host", host)["enabled"] = False
        return ""

    def host_enable(self, host: str) -> str:
        """It takes machines again."""
        self.get("host", host)["enabled"] = True
        return ""

    def host_evacuate(self, host: str, *_ignored: Any) -> str:
        """Its machines go to another member."""
        others = [ref for ref, one in self.of["host"].items() if one["enabled"] and ref != host]
        for vm, machine in self.of["VM"].items():
            if machine["resident_on"] == host and not machine["is_control_domain"]:
                if not others:
                    raise Failure("NO_HOSTS_AVAILABLE")
                self.VM_pool_migrate(vm, others[0], {})
        return ""
