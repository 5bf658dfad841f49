# SPDX-License-Identifier: Apache-2.0
"""Clock-driven chores, on APScheduler with its memory store: nothing here is a build."""

import functools
import time
from collections.abc import Callable

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from ci.board import HealthBoard, Pulse
from ci.errors import HypervouchError
from ci.log import get
from ci.telemetry import Telemetry

Chore = Callable[[], object]
LONGEST_S = 900.0
"""What a turn may take beside its periods before the chore counts as stuck."""


class Janitor:
    """Runs chores at their periods, one at a time each.

    A chore that fails says so and comes again at its next turn. A turn that was missed
    because the machine stood still is made up once.

    Args:
        threads: Chores that may run at once: one that waits for a silent server must not keep
            the others from their turns.
        telemetry: Where turns are counted.
        board: Shows chores that hang.
    """

    def __init__(
        self,
        *,
        threads: int = 4,
        telemetry: Telemetry | None = None,
        board: HealthBoard | None = None,
    ) -> None:
        self._metrics = (telemetry or Telemetry()).metrics
        self._board = board
        self._pulses: dict[str, Pulse] = {}
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(threads)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone="UTC",
        )
        self._log = get("chore")

    def every(self, seconds: float, name: str, chore: Chore) -> None:
        """Add a chore before `start`."""
        if self._board is not None:
            limit_s = 3 * seconds + LONGEST_S
            self._pulses[name] = self._board.pulse(f"chore {name}", limit_s=limit_s)
        self._scheduler.add_job(
            functools.partial(self._run, name, chore), "interval", seconds=seconds, id=name
        )

    def start(self) -> None:
        """Begin; returns at once."""
        self._scheduler.start()

    def stop(self) -> None:
        """End; a chore in hand goes on by itself."""
        if self._board is not None:
            for pulse in self._pulses.values():
                self._board.drop(pulse.name)
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _run(self, name: str, chore: Chore) -> None:
        began = time.monotonic()
        pulse = self._pulses.get(name)
        if pulse is not None:
            pulse.turn()
        try:
            with self._metrics.chore(name):
                chore()
        except HypervouchError as error:
            self._log.warning("chore failed", action=name, reason=str(error))
        except Exception:  # noqa: BLE001 - the loop edge: a bug costs one turn
            self._log.exception("a bug in this program", action=name)
        else:
            self._log.debug("chore done", action=name, took_s=round(time.monotonic() - began, 3))
