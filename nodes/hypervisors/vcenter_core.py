# SPDX-License-Identifier: Apache-2.0
"""What every part of vCenter's adapter stands on: the session, its place, a guest by its name."""

from collections.abc import Callable, Mapping
from typing import Any

from pyVmomi import vim

from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors import vcenter_place
from nodes.hypervisors.base import Access, GuestState, Hypervisor
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.local import check_name
from nodes.hypervisors.vcenter_link import VcenterLink
from nodes.hypervisors.vcenter_store import Datastore

_SIMULATOR = "simulator"  # in the name that ours tells
_REAL = frozenset({Grade.BARE, Grade.NESTED})
STATES = {
    "poweredOn": GuestState.RUNNING,
    "poweredOff": GuestState.SHUTOFF,
    "suspended": GuestState.SUSPENDED,
}


class VcenterCore(Hypervisor):
    """One cluster, and how its guests are found, read and changed."""

    def __init__(self, link: VcenterLink, access: Access) -> None:
        """Find the place.

        Raises:
            CallerFault: It is not there, or it is a simulator, said to be more than that.
        """
        self._link = link
        self._access = access
        product = str(link.content.about.fullName)
        if access.grade in _REAL and _SIMULATOR in product:
            raise CallerFault(
                f"{link.where.host} is {product!r}, which is no evidence of grade {access.grade}",
                hint=f"say grade: {Grade.SIMULATOR}",
            )
        self._place = vcenter_place.find(link)
        self._store = Datastore(link, self._place)

    def _find(self, name: str) -> Any | None:
        index, folder = self._link.content.searchIndex, self._place.folder
        found = self._link.call(f"look for {name}", lambda: index.FindChild(folder, name))
        return found if isinstance(found, vim.VirtualMachine) else None

    def _guest(self, name: str) -> Any:
        check_name(name)
        found = self._find(name)
        if found is None:
            raise CallerFault(f"there is no guest {name}", hint="look at the inventory")
        return found

    def _state(self, guest: Any) -> GuestState:
        told = self._link.props(guest, "runtime.powerState")
        return STATES.get(told.get("runtime.powerState", ""), GuestState.CRASHED)

    def _devices(self, guest: Any) -> list[Any]:
        told = self._link.props(guest, "config.hardware.device")
        return list(told.get("config.hardware.device", ()))

    def _option(self, guest: Any, key: str) -> str:
        told = self._link.props(guest, "config.extraConfig").get("config.extraConfig", ())
        return next((str(one.value) for one in told if one.key == key), "")

    def _run(self, doing: str, what: Callable[[], Any], feature: Feature) -> Any:
        return self._link.run(doing, what, feature)

    def _reconfigure(
        self,
        name: str,
        changes: list[Any],
        feature: Feature,
        options: Mapping[str, str] | None = None,
    ) -> None:
        told = [vim.option.OptionValue(key=k, value=v) for k, v in (options or {}).items()]
        config = vim.vm.ConfigSpec(deviceChange=changes, extraConfig=told)
        guest = self._guest(name)
        self._run(f"change {name}", lambda: guest.ReconfigVM_Task(config), feature)
