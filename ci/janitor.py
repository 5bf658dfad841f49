# SPDX-License-Identifier: Apache-2.0
"""Clock-driven chores, on APScheduler with its memory store: nothing here is a build."""

import functools
import time
from collections.abc import Callable

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from ci.errors import HypervouchError
from ci.log import get

Chore = Callable[[], object]


class Janitor:
    """Runs chores at their periods, one at a time each.

    A chore that fails says so and comes again at its next turn. A turn that was missed
    because the machine stood still is made up once.

    Args:
        threads: Chores that may run at once: one that waits for a silent server must not keep
            the others from their turns.
    """

    def __init__(self, *, threads: int = 4) -> None:
        self._scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(threads)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
            timezone="UTC",
        )
        self._log = get("chore")

    def every(self, seconds: float, name: str, chore: Chore) -> None:
        """Add a chore before `start`."""
        self._scheduler.add_job(
            functools.partial(self._run, name, chore), "interval", seconds=seconds, id=name
        )

    def start(self) -> None:
        """Begin; returns at once."""
        self._scheduler.start()

    def stop(self) -> None:
        """End; a chore in hand goes on by itself."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def _run(self, name: str, chore: Chore) -> None:
        began = time.monotonic()
        try:
            chore()
        except HypervouchError as error:
            self._log.warning("chore failed", action=name, reason=str(error))
        except Exception:  # noqa: BLE001 - the loop edge: a bug costs one turn
            self._log.exception("a bug in this program", action=name)
        else:
            self._log.debug("chore done", action=name, took_s=round(time.monotonic() - began, 3))
