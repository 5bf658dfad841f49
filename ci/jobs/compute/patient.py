# SPDX-License-Identifier: Apache-2.0
"""A hypervisor whose calls are made again when nobody is to blame."""

import time
from collections.abc import Callable
from typing import Any, cast

from nodes.hypervisors.base import Hypervisor
from nodes.hypervisors.faults import TransientFault

TRIES = 3
PAUSE_S = 2.0


class Patient:
    """Stands in front of a Hypervisor; a call that met a TransientFault is made anew, twice."""

    def __init__(self, inner: Hypervisor, sleep: Callable[[float], None] | None = None) -> None:
        self.plain = inner
        self._sleep = sleep or time.sleep

    def __getattr__(self, name: str) -> Any:
        """The inner one's; its calls with patience."""
        found = getattr(self.plain, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            # Adapters know their own kind: another host is handed over as it is.
            plain = [one.plain if isinstance(one, Patient) else one for one in args]
            for tries_left in range(TRIES - 1, -1, -1):
                try:
                    return found(*plain, **kwargs)
                except TransientFault:
                    if not tries_left:
                        raise
                    self._sleep(PAUSE_S)
            return None

        return call


def patient(inner: Hypervisor) -> Hypervisor:
    """The same hypervisor, with patience."""
    return cast("Hypervisor", Patient(inner))
