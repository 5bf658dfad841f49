# SPDX-License-Identifier: Apache-2.0
"""A process that runs an Engine with simple steps, to be killed: `engine_child.py DIR URL PLAN`.

URL is a PostgreSQL database, or `-` for SQLite in DIR. All builds are at their first claim.

Every word of PLAN is one thing to do, in order:

- `submit=ID`: start a build; `reconcile`: submit every build of `builds.txt` that nobody runs;
- `wait=ID`: until the build is reported; `idle=SECONDS`;
- `forget=ID`: drop its record once it ended; `stop`: stop the engine.

The steps write lines to `journal.txt`. A file `hold-STEP-ID` makes the step wait for its
removal; `kill-STEP-ID` ends the process at that step as `kill -9` does, once; `stopping-STEP-ID`
raises what a process that goes down raises, once; `full-STEP-ID` lets the engine's own record of
that step fail, once.
"""

import os
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dbos._sys_db import SystemDatabase

from ci import engine
from ci.engine import Engine
from ci.errors import HypervouchError
from ci.model.build import Claim

ORDER = ("check", "baseline", "repeat")


class Stopping(BaseException):
    """As the worker's own."""


class Steps:
    """Three attempts and a report, each told to the journal."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.fail_next_record = ""

    def attempt(self, build_id: str, claim: int, kind: str) -> str:
        """One attempt; the next kind."""
        done = [line.split()[1] for line in self.journal() if line.split()[0] == build_id]
        left = [one for one in ORDER if one not in done]
        if not left:
            return ""
        self._meet("begin-" + left[0], build_id)
        self._note(f"{build_id} {left[0]}")
        self._meet(left[0], build_id)
        return left[1] if len(left) > 1 else ""

    def report(self, build_id: str, claim: int) -> None:
        """Report once, as the worker does with its rows."""
        self._meet("begin-report", build_id)
        if f"{build_id} reported" not in self.journal():
            self._note(f"{build_id} reported")
        self._meet("report", build_id)

    def journal(self) -> list[str]:
        """Lines so far."""
        file = self._folder / "journal.txt"
        return file.read_text().splitlines() if file.exists() else []

    def _note(self, line: str) -> None:
        with (self._folder / "journal.txt").open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _meet(self, step: str, build_id: str) -> None:
        place = f"{step}-{build_id}"
        hold = self._folder / f"hold-{place}"
        deadline = time.monotonic() + 60
        if hold.exists():
            (self._folder / f"held-{place}").touch()
        while hold.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        if self._once(f"kill-{place}"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._once(f"stopping-{place}"):
            raise Stopping
        if self._once(f"full-{place}"):
            self.fail_next_record = build_id

    def _once(self, name: str) -> bool:
        file = self._folder / name
        if not file.exists():
            return False
        file.unlink()
        return True


def fill_the_disk_on_demand(steps: Steps) -> None:
    """Let every write of the engine about one build fail while the steps say so."""
    for name in ("record_operation_result", "update_workflow_outcome"):
        real = getattr(SystemDatabase, name)

        def refuse(self: Any, *args: Any, _real: Any = real, **kwargs: Any) -> Any:
            if steps.fail_next_record and steps.fail_next_record in repr((args, kwargs)):
                full = sqlite3.OperationalError("database or disk is full")
                raise sa.exc.OperationalError("INSERT", {}, full)
            return _real(self, *args, **kwargs)

        setattr(SystemDatabase, name, refuse)


def main(folder: Path, url: str, plan: list[str]) -> int:
    """Carry out a plan; 0 when it came to its end, 3 for an error of ours."""
    engine.BROKEN_S = 0.5
    name = os.environ.get("EXECUTOR", "one")
    steps = Steps(folder)
    made = Engine(folder, slots=4, executor=name, url="" if url == "-" else url)
    fill_the_disk_on_demand(steps)
    try:
        made.hold()
    except HypervouchError as error:
        _say(f"{type(error).__name__}: {error}")
        return 3
    made.start(steps)
    for word in plan:
        verb, _, rest = word.partition("=")
        _do(made, steps, folder, verb, rest)
    return 0


def _do(made: Engine, steps: Steps, folder: Path, verb: str, rest: str) -> None:
    if verb == "submit":
        made.submit(Claim(rest, 1))
    elif verb == "reconcile":
        known = (folder / "builds.txt").read_text().split()
        unreported = [Claim(i, 1) for i in known if f"{i} reported" not in steps.journal()]
        lost = made.unknown(unreported)
        if lost:
            steps.fail_next_record = ""
        made.forget(lost)
        for claim in lost:
            made.submit(claim)
        _say(f"lost={','.join(claim.build_id for claim in lost)}")
    elif verb == "wait":
        _wait(lambda: f"{rest} reported" in steps.journal())
    elif verb == "idle":
        time.sleep(float(rest))
    elif verb == "forget":
        _wait(lambda: Claim(rest, 1) in made.finished())
        made.forget(made.finished())
        _say(f"finished={','.join(claim.build_id for claim in made.finished())}")
    elif verb == "stop":
        made.stop()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _wait(done: Any) -> None:
    deadline = time.monotonic() + 60
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
