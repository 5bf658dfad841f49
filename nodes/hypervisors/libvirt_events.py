# SPDX-License-Identifier: Apache-2.0
"""libvirt's event loop, one thread a process, and waiting for what a guest does.

An event only wakes who waits; whether the thing has happened is asked of libvirt itself, so a
lost or a doubled event does no harm. A slow turn of the clock looks as well, for the few
effects without an event.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import libvirt

LOOK_AGAIN_S = 0.25
"""Between two looks where no event came."""

REBOOT = "reboot"
_KINDS = {
    "lifecycle": libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    REBOOT: libvirt.VIR_DOMAIN_EVENT_ID_REBOOT,
    "device-removed": libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
    "removal-failed": libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED,
    "block-job": libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
    "agent": libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
}


class _Loop:
    """Whether the event loop runs in this process."""

    lock = threading.Lock()
    thread: threading.Thread | None = None


def run_loop() -> None:
    """Start the event loop once, before the first connection is opened; repeatable."""
    with _Loop.lock:
        if _Loop.thread is not None:
            return
        libvirt.virEventRegisterDefaultImpl()
        # Without this, libvirt prints every error that it also raises.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        # A wait that nothing ends would keep timers of other threads from being seen.
        libvirt.virEventAddTimeout(1000, lambda _timer, _context: None, None)
        _Loop.thread = threading.Thread(target=_turn, name="libvirt-events", daemon=True)
        _Loop.thread.start()


def _turn() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


class Watch:
    """Events of all domains of one connection; may be used from any thread."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self._changed = threading.Condition()
        self._seen: Counter[tuple[str, str]] = Counter()
        self._registered: list[int] = []
        for kind, number in _KINDS.items():
            try:
                self._registered.append(conn.domainEventRegisterAny(None, number, self._take, kind))
            except libvirt.libvirtError:
                continue  # this driver has no such event: the clock has to do

    def _take(self, _conn: Any, domain: Any, *rest: Any) -> None:
        """Called by the event loop's thread; must not call libvirt."""
        with self._changed:
            self._seen[str(rest[-1]), str(domain.name())] += 1
            self._changed.notify_all()

    def count(self, kind: str, name: str) -> int:
        """How many events of a kind there were for a guest."""
        with self._changed:
            return self._seen[kind, name]

    def wake(self) -> None:
        """Let everybody who waits look again."""
        with self._changed:
            self._changed.notify_all()

    def wait(
        self, happened: Callable[[], bool], timeout_s: float, *, look_s: float = LOOK_AGAIN_S
    ) -> bool:
        """Wait until `happened()`; false when it did not in time.

        Args:
            happened: Asks libvirt; called from this thread.
            timeout_s: Seconds.
            look_s: Seconds after which it is asked although no event came.
        """
        ends = time.monotonic() + timeout_s
        while True:
            with self._changed:
                before = self._seen.total()
            if happened():
                return True
            left = ends - time.monotonic()
            if left <= 0:
                return False
            with self._changed:
                if self._seen.total() == before:
                    self._changed.wait(min(left, look_s))

    def close(self) -> None:
        """Want no more events; repeatable."""
        registered, self._registered = self._registered, []
        for number in registered:
            try:
                self._conn.domainEventDeregisterAny(number)
            except libvirt.libvirtError:
                return  # the connection is gone, and they with it
