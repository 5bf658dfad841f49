# SPDX-License-Identifier: Apache-2.0
"""Network cards of a XenServer pool's machines."""

from nodes.hypervisors.base import Nic
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.xenserver_link import Record, XapiLink
from nodes.hypervisors.xenserver_machines import card

CARDS = 7
"""So many a machine may have."""


class Cards:
    """What is plugged into machines, all on one network.

    Attributes:
        network: Its reference.
    """

    def __init__(self, link: XapiLink, network: str) -> None:
        self._link = link
        self.network = network

    def addresses(self, machine: Record) -> frozenset[str]:
        """Hardware addresses of a machine's cards, lower case."""
        cards = [self._link.record("VIF", one) for one in machine["VIFs"]]
        return frozenset(str(one["MAC"]).lower() for one in cards)

    def make(self, doing: str, vm: str, nic: Nic, place: int) -> str:
        """Give a machine a card; a running one has it once it is plugged in."""
        record = card(vm, nic, self.network, place)
        return str(self._link.call(doing, "VIF.create", record))

    def free_place(self, vm: str) -> int:
        """The first free place.

        Raises:
            CallerFault: There is none left.
        """
        cards = self._link.record("VM", vm)["VIFs"]
        taken = {self._link.record("VIF", one)["device"] for one in cards}
        place = next((at for at in range(CARDS) if str(at) not in taken), None)
        if place is None:
            raise CallerFault(f"the guest has {CARDS} cards, no more are possible")
        return place

    def find(self, vm: str, nic: Nic) -> tuple[str, bool] | None:
        """The card with an address, and whether it is plugged in."""
        for one in self._link.record("VM", vm)["VIFs"]:
            told = self._link.record("VIF", one)
            if told["MAC"].lower() == nic.mac.lower():
                return str(one), bool(told["currently_attached"])
        return None
