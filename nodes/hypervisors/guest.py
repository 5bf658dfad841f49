# SPDX-License-Identifier: Apache-2.0
"""What happens inside a guest, told by its serial agent (`nodes/images/guest/tiny-agent`).

A command goes out as `#ID command`, its answer comes back as one line `@@ {"re": "ID", ...}`.
Serial lines lose and mix bytes: an answer that does not come whole is asked for again under
the same ID, which the agent answers again without doing anything twice. Whatever else a guest
writes is noise: it is read, and only the last few lines are kept.
"""

import json
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from nodes.hypervisors.base import Console
from nodes.hypervisors.faults import NodeFault, TransientFault

Answer = dict[str, Any]

MAX_LINE = 64 * 1024
_MARK = b"@@ "
_PANIC = b"Kernel panic - not syncing"
_MARKS_TRIED = 8
_KEPT_LINES, _KEPT_WIDTH, _KEPT_EVENTS = 12, 200, 256
_ASK_AGAIN_S = 4.0
_LOOK_S = 0.5


class AnswerLines:
    """Cuts a serial line's bytes into answers; keeps no more than a line and a few last ones.

    Attributes:
        panicked: Whether the guest's kernel said that it gave up.
    """

    def __init__(self) -> None:
        self.panicked = False
        self._open = bytearray()
        self._spoilt = False
        self._last: deque[bytes] = deque(maxlen=_KEPT_LINES)

    def feed(self, data: bytes) -> Iterator[Answer]:
        """The answers that these bytes complete, in order."""
        *whole, rest = data.split(b"\n")
        for piece in whole:
            self._add(piece)
            line = bytes(self._open).strip()
            self._open.clear()
            spoilt, self._spoilt = self._spoilt, False
            if not line:
                continue
            self._last.append(line[:_KEPT_WIDTH])
            answer = None if spoilt else parse(line)
            if answer is not None:
                yield answer
            elif _PANIC in line:
                self.panicked = True
        self._add(rest)

    def last(self) -> str:
        """The last lines, printable, for an error's text."""
        lines = [*self._last, bytes(self._open[:_KEPT_WIDTH])]
        texts = (line.decode("utf-8", "replace").strip() for line in lines)
        shown = ("".join(c if c.isprintable() else " " for c in text) for text in texts)
        return " | ".join(text for text in shown if text)

    def _add(self, piece: bytes) -> None:
        room = MAX_LINE - len(self._open)
        self._open += piece[:room]
        # Too long to be an answer: what is left of it is noise.
        self._spoilt = self._spoilt or len(piece) > room


def parse(line: bytes) -> Answer | None:
    """The answer in one line, whatever stands before it; None where there is none."""
    begin = -1
    for _ in range(_MARKS_TRIED):
        begin = line.find(_MARK, begin + 1)
        if begin < 0:
            return None
        try:
            answer = json.loads(line[begin + len(_MARK) :])
        except (ValueError, RecursionError):
            continue
        if isinstance(answer, dict):
            return answer
    return None


class GuestAgent:
    """The agent of one guest, over its console. Not thread-safe, as the console is not.

    Whatever waits for a guest raises NodeFault once its kernel has panicked: that is nobody's
    answer to a feature.

    Args:
        console: The guest's serial line.
        name: Of the guest, for errors.
        reopen: Gives the line anew when it ended, as it does where a guest boots anew.
        now: Monotonic seconds.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        console: Console,
        name: str = "the guest",
        *,
        reopen: Callable[[], Console] | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._console = console
        self._name = name
        self._reopen = reopen
        self._now = now
        self._sleep = sleep
        self._lines = AnswerLines()
        self._events: deque[Answer] = deque(maxlen=_KEPT_EVENTS)
        self._session = secrets.token_hex(4)
        self._asked = 0

    def ask(self, command: str, timeout_s: float = 60.0) -> Answer:
        """Have the agent do one command.

        Args:
            command: `ping`, `info`, `counter`, `disks`, `nics`, `mem`, `cpus`, `hold N`,
                `write DEV TEXT`, `read DEV LEN`, `md5 DEV`, `configdrive`, `flood LINES`,
                `exec COMMAND`, `poweroff`, `reboot`.
            timeout_s: Seconds until an answer has to be there; it is asked for again and again.

        Raises:
            TransientFault: No answer came, or the line ended for good.
            ValueError: The command has more than one line.
        """
        if not command.isprintable():
            raise ValueError(f"one printable line, not {command!r}")
        word = command.partition(" ")[0]
        self._asked += 1
        ask_id = f"{self._session}{self._asked}"
        line = f"#{ask_id} {command}\n".encode()
        deadline = self._now() + timeout_s
        again = self._now()
        while True:
            if self._now() >= again:
                again = self._now() + _ASK_AGAIN_S
                self._write(line, deadline)
            for answer in self._read(deadline):
                if answer["re"] == ask_id:
                    return answer
            if self._now() >= deadline:
                raise self._silent(f"did not answer {word!r} in {timeout_s:g} s")

    def wait_for_event(self, event: str, timeout_s: float = 60.0) -> Answer:
        """Wait until the guest tells of `boot`, `power-button` or `reboot`.

        Only what is told from the opening of the console on is heard.

        Raises:
            TransientFault: It did not.
        """
        deadline = self._now() + timeout_s
        while True:
            for heard in tuple(self._events):
                if heard.get("event") == event:
                    self._events.remove(heard)
                    return heard
            if self._now() >= deadline:
                raise self._silent(f"did not tell of {event!r} in {timeout_s:g} s")
            self._read(deadline)

    def ready(self, timeout_s: float = 120.0) -> Answer:
        """Wait until the agent answers, however far the guest's boot is; gives its `info`.

        Raises:
            TransientFault: It never did.
        """
        deadline = self._now() + timeout_s
        self.ask("ping", timeout_s)
        return self.ask("info", max(_LOOK_S, deadline - self._now()))

    def ticks(self, during_s: float) -> int:
        """Count the ticks of `hold` that are heard in so many seconds from now on."""
        self.forget()
        deadline = self._now() + during_s
        while self._now() < deadline:
            self._read(deadline)
        return sum("tick" in heard for heard in self._events)

    def forget(self) -> None:
        """Drop what was told and not yet asked for."""
        deadline = self._now() + _LOOK_S
        while self._now() < deadline and (data := self._receive(0.0)):
            for _ in self._lines.feed(data):
                pass
        self._events.clear()

    def last_lines(self) -> str:
        """The last lines of the console, for a report."""
        return self._lines.last()

    def close(self) -> None:
        """Let go of the line; repeatable."""
        self._console.close()

    def _read(self, deadline: float) -> list[Answer]:
        """Answers that came within a moment; events are put aside."""
        wait_s = max(0.0, min(_LOOK_S, deadline - self._now()))
        heard = list(self._lines.feed(self._receive(wait_s, deadline)))
        self._events += (one for one in heard if "re" not in one)
        if self._lines.panicked:
            self._lines.panicked = False
            raise NodeFault(
                f"the kernel of guest {self._name} panicked: {self._lines.last()}",
                hint="look at the guest's console, and whether the node has memory to spare",
            )
        return [one for one in heard if "re" in one]

    def _receive(self, wait_s: float, deadline: float = 0.0) -> bytes:
        try:
            return self._console.read(wait_s)
        except (EOFError, OSError) as error:
            self._open_again(error, deadline)
            return b"\n"

    def _write(self, line: bytes, deadline: float) -> None:
        try:
            self._console.write(line)
        except (EOFError, OSError) as error:
            self._open_again(error, deadline)

    def _open_again(self, error: Exception, deadline: float) -> None:
        """Take the line anew, where that is to be had and there is time left."""
        if self._reopen is None or self._now() >= deadline:
            raise self._silent("closed its console") from error
        self._sleep(min(_LOOK_S, deadline - self._now()))
        self._console.close()
        self._console = self._reopen()

    def _silent(self, what: str) -> TransientFault:
        heard = self._lines.last() or "nothing"
        return TransientFault(
            f"guest {self._name} {what}; its console ends with: {heard}",
            hint="look at the guest's console and at the load of the node",
            retryable=True,
        )
