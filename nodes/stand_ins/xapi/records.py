# SPDX-License-Identifier: Apache-2.0
"""The records of a pool: classes with their fields, references, and what every class can do."""

import copy
import uuid
from collections.abc import Mapping
from typing import Any

Record = dict[str, Any]
NULL = "OpaqueRef:NULL"
_MIB = 1 << 20


class Failure(Exception):
    """An error as the API tells it: a code and its details."""

    def __init__(self, *details: object) -> None:
        super().__init__(*details)
        self.details = [str(one) for one in details]


_EMPTY_MAP: dict[str, str] = {}
FIELDS: Mapping[str, Record] = {
    "VM": {
        "name_label": "",
        "name_description": "",
        "power_state": "Halted",
        "is_a_template": False,
        "is_a_snapshot": False,
        "is_control_domain": False,
        "resident_on": NULL,
        "affinity": NULL,
        "VCPUs_max": "1",
        "VCPUs_at_startup": "1",
        "memory_static_max": str(512 * _MIB),
        "memory_dynamic_max": str(512 * _MIB),
        "memory_dynamic_min": str(512 * _MIB),
        "memory_static_min": str(128 * _MIB),
        "VBDs": [],
        "VIFs": [],
        "consoles": [],
        "snapshots": [],
        "snapshot_of": NULL,
        "other_config": {},
        "platform": {},
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {"order": "cd"},
        "blocked_operations": {},
        "domid": "-1",
    },
    "VDI": {
        "name_label": "",
        "name_description": "",
        "SR": NULL,
        "virtual_size": "0",
        "type": "user",
        "sharable": False,
        "read_only": False,
        "VBDs": [],
        "snapshots": [],
        "snapshot_of": NULL,
        "is_a_snapshot": False,
        "other_config": {},
        "physical_utilisation": "0",
    },
    "VBD": {
        "VM": NULL,
        "VDI": NULL,
        "userdevice": "0",
        "device": "",
        "bootable": False,
        "mode": "RW",
        "type": "Disk",
        "currently_attached": False,
        "empty": False,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    },
    "VIF": {
        "VM": NULL,
        "network": NULL,
        "device": "0",
        "MAC": "",
        "MTU": "1500",
        "currently_attached": False,
        "other_config": {},
        "qos_algorithm_type": "",
        "qos_algorithm_params": {},
    },
    "SR": {"name_label": "", "type": "nfs", "shared": True, "VDIs": [], "other_config": {}},
    "host": {
        "name_label": "",
        "hostname": "",
        "address": "127.0.0.1",
        "enabled": True,
        "software_version": {
            "product_brand": "stand-in for XCP-ng",
            "product_version": "8.3.0",
            "xen": "4.17",
        },
        "cpu_info": {"cpu_count": "8", "modelname": "modelled", "flags": "modelled"},
        "metrics": NULL,
        "other_config": {},
    },
    "host_metrics": {"memory_total": str(32 << 30), "memory_free": str(16 << 30), "live": True},
    "network": {"name_label": "", "bridge": "xenbr0", "other_config": {}, "MTU": "1500"},
    "pool": {"name_label": "", "master": NULL, "default_SR": NULL, "other_config": {}},
    "console": {"VM": NULL, "protocol": "rfb", "location": "", "other_config": {}},
    "task": {
        "name_label": "",
        "name_description": "",
        "status": "pending",
        "result": "",
        "error_info": [],
    },
}


class Records:
    """All records by class and reference; the caller holds a lock."""

    def __init__(self) -> None:
        self.of: dict[str, dict[str, Record]] = {name: {} for name in FIELDS}

    def new(self, kind: str, **fields: Any) -> str:
        """Make one; gives its reference."""
        name = str(uuid.uuid4())
        known = {key: value for key, value in fields.items() if key in FIELDS[kind]}
        self.of[kind][f"OpaqueRef:{name}"] = copy.deepcopy({**FIELDS[kind], **known, "uuid": name})
        return f"OpaqueRef:{name}"

    def get(self, kind: str, ref: str) -> Record:
        """One by its reference.

        Raises:
            Failure: There is none.
        """
        try:
            return self.of[kind][ref]
        except KeyError:
            raise Failure("HANDLE_INVALID", kind, ref) from None

    def drop(self, kind: str, ref: str) -> Record:
        """Remove one."""
        self.get(kind, ref)
        return self.of[kind].pop(ref)

    def generic(self, kind: str, name: str, args: list[Any]) -> Any:
        """What every class can do: get, set, find; a MESSAGE_METHOD_UNKNOWN for the rest.

        Raises:
            Failure: There is no such record, field or method.
        """
        table = self.of.get(kind)
        if table is None:
            raise Failure("MESSAGE_METHOD_UNKNOWN", f"{kind}.{name}")
        if name == "get_all":
            return list(table)
        if name == "get_all_records":
            return table
        if name == "get_record":
            return self.get(kind, args[0])
        if name == "get_by_name_label":
            return [ref for ref, one in table.items() if one.get("name_label") == args[0]]
        if name == "destroy":
            self.drop(kind, args[0])
            return ""
        return self._field(kind, name, args)

    def _field(self, kind: str, name: str, args: list[Any]) -> Any:
        verb, field = next(
            (
                (verb, name.removeprefix(verb))
                for verb in ("get_", "set_", "add_to_", "remove_from_")
                if name.startswith(verb)
            ),
            ("", ""),
        )
        if field not in {*FIELDS[kind], "uuid"}:
            raise Failure("MESSAGE_METHOD_UNKNOWN", f"{kind}.{name}")
        record = self.get(kind, args[0])
        if verb == "get_":
            return record[field]
        if verb == "set_":
            record[field] = args[1]
        elif verb == "add_to_":
            if args[1] in record[field]:
                raise Failure("MAP_DUPLICATE_KEY", kind, field, args[0], args[1])
            record[field][args[1]] = args[2]
        else:
            record[field].pop(args[1], None)
        return ""
