# SPDX-License-Identifier: Apache-2.0
"""What the demo's lab shows while it waits: child processes, heard line by line.

On a terminal the newest line and how long it stands already; elsewhere each line, and a sign of
life where nothing was said for long.
"""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ci import proc

GRACE_S = 60.0
SILENCE_S = 30.0
WIDEST = 200
_TEST = re.compile(
    r"\s*(?P<turn>\d+/\d+)  (?P<word>works|fails|unsupported|not tried)\s+(?P<rest>.*)"
)
_TROUBLE = re.compile(r"(?:not tried|  fix|hypervouch): (.*)")
_WHO = re.compile(r".*, evidence \w+: ")


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a line of the suite is for the demo's screen.

    Attributes:
        text: To be shown; empty for what only the log keeps.
        lasting: Whether it stays on a terminal.
        trouble: Why the suite could not go on, where it is that.
    """

    text: str = ""
    lasting: bool = False
    trouble: str = ""


def meaning(line: str) -> Meaning:
    """Sort a line of `hypervouch suite compute`."""
    if found := _TEST.match(line):
        text = f"{found['turn']} {found['word']}: {found['rest']}"
        return Meaning(text=text, lasting=found["word"] in {"fails", "not tried"})
    if found := _TROUBLE.match(line):
        return Meaning(trouble=found[1])
    if _WHO.match(line):
        return Meaning(text=line, lasting=True)
    return Meaning()


class Lines:
    """The lines of one lab node."""

    def __init__(self, console: Console, name: str, log: Path) -> None:
        """Nothing is shown yet.

        Args:
            console: Where to.
            name: Begins each line.
            log: Takes whatever the children say, whole.
        """
        self._console = console
        self._name = name
        self._log = log
        self._last = ("", time.monotonic())
        self._live = Progress(
            SpinnerColumn(),
            TextColumn("lab {task.fields[node]}: {task.description}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._live.add_task("", node=name)

    def __enter__(self) -> Self:
        """Begin to show."""
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """What only passed by is gone."""
        self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._note(text)
        # Through the live part, which moves down for it.
        self._live.console.print(
            f"lab {self._name}: {text[:WIDEST]}", highlight=False, markup=False, soft_wrap=True
        )

    def step(self, text: str) -> None:
        """What is being done now."""
        if not self._console.is_terminal:
            self.say(text)
            return
        self._note(text)
        width = max(20, self._console.width - len(self._name) - 20)
        self._live.reset(self._task, description=text[:width])

    def keep(self, line: str) -> None:
        """Into the log."""
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")

    def alive(self) -> None:
        """Where no terminal counts the seconds: say what is waited for, now and then."""
        text, at = self._last
        silent = time.monotonic() - at
        if not self._console.is_terminal and silent >= SILENCE_S:
            waited = text.partition(" (still, ")[0]
            self.say(f"{waited} (still, {silent:.0f} s since the last word)")

    def _note(self, text: str) -> None:
        self._last = (text, time.monotonic())


def child(
    words: Sequence[str],
    hear: Callable[[str], None],
    lines: Lines,
    asked: threading.Event,
    limit_s: float,
) -> int:
    """Run a verb of ours as a child; whatever happens, nothing of it is left.

    Args:
        words: The verb and its arguments.
        hear: Takes each line it says.
        lines: For its log, and for signs of life.
        asked: Set when the user wants an end.
        limit_s: Seconds it may take.

    Returns:
        Its exit status; negative where it was ended.
    """
    process = proc.spawn(
        [sys.executable, "-m", "ci.cli", *words],
        stdout=proc.PIPE,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )
    assert process.stdout is not None  # noqa: S101 it was asked for
    reader = threading.Thread(target=_read, args=(process.stdout, hear, lines), daemon=True)
    reader.start()
    try:
        for _ in proc.wait_until(time.monotonic() + limit_s, every_s=0.2):
            if process.poll() is not None or asked.is_set():
                break
            lines.alive()
    finally:
        _end(process)
        reader.join(timeout=5)
        process.stdout.close()
    return process.returncode


def _end(process: proc.Process) -> None:
    """Interrupt it, so that it cleans up; then no more questions."""
    if process.poll() is None:
        proc.kill_group(process.pid, signal.SIGINT)
        with suppress(proc.TimeoutExpired):
            process.wait(GRACE_S)
    # A daemon that `lab up` started has a group of its own, and is meant to stay.
    proc.kill_group(process.pid)
    process.wait()


def _read(stream: IO[bytes], hear: Callable[[str], None], lines: Lines) -> None:
    for raw in stream:
        line = raw.decode("utf-8", "replace").rstrip()
        lines.keep(line)
        if line:
            hear(line)
