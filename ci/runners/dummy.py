# SPDX-License-Identifier: Apache-2.0
"""A node that exists in memory only, steered by the text of its commands.

A command is a list of words separated by `;`, carried out in order:

- `echo TEXT`, `flood BYTES`: write output;
- `sleep SECONDS`: wait, looking at deadline and cancel; `hang`: wait for ever;
- `exit STATUS`: end here; without it the status is 0;
- `write PATH TEXT`: make a file below the directory;
- `write-junit PATH [pass=N] [skip=N] [fail=NAME] [error=NAME]`: make a JUnit file;
- `follow PATH`: carry out the lines of a file of the tree: so a patch decides;
- `die`: the connection breaks;
- `ignore INT`, `ignore INT TERM`: these signals do not end it from here on;
- `last SECONDS TEXT`: interrupted from here on, it says TEXT after so long, and ends;
- `mute`: from here on the node cannot be told to end anything.

`true`, `false` and `:` mean what they do in a shell; any other word ends with status 127. The
endpoint's facts steer the rest: `dummy: refuse` (connect fails), `dummy: full` (the tree does
not fit). Where they lead to a machine (`nodes.pretended`), that writes down when a suite ran,
and one that was stopped or taken over ends the suite and refuses everything else. A caller that
breaks the lifecycle of `ci.runners.base` gets a HypervouchBug.
"""

import io
import signal
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO
from xml.sax.saxutils import quoteattr

from ci.cancel import CancelToken, Deadline
from ci.errors import CollectError, HypervouchBug, HypervouchError, NodeUnavailable, RunTimeout
from ci.model.node import Endpoint
from ci.runners.archive import Intake
from ci.runners.base import Sink
from ci.runners.scripts import checked_directory, exports
from ci.runners.stop import Grace, Step, Stopped, Tell, quiet
from nodes.pretended import Held, Machine

KILLED = 130
NOT_FOUND = 127
_TURN_S = 0.02
_FLOOD = b"0123456789abcdef" * 4 + b"\n"


class DummyRunner:
    """Opens sessions on nodes that exist in memory."""

    def connect(
        self,
        endpoint: Endpoint,
        deadline: Deadline,
        *,
        grace: Grace = Grace(),  # noqa: B008 it is frozen
        tell: Tell = quiet,
    ) -> "DummySession":
        """A session, unless the endpoint's facts say `dummy: refuse`."""
        if deadline.passed:
            raise deadline.error()
        if endpoint.facts.get("dummy") == "refuse":
            raise NodeUnavailable(
                "the dummy node refuses us", hint="take `refuse` out of its facts"
            )
        return DummySession(
            full=endpoint.facts.get("dummy") == "full",
            machine=Machine.of(endpoint.facts),
            grace=grace,
            tell=tell,
        )


class DummySession:
    """Files and commands in memory, and a keen eye on the order of calls."""

    def __init__(
        self,
        *,
        full: bool,
        machine: Held | None = None,
        grace: Grace = Grace(),  # noqa: B008 it is frozen
        tell: Tell = quiet,
    ) -> None:
        self._full = full
        self._grace = grace
        self._tell = tell
        self._ignored: frozenset[str] = frozenset()
        self._last: tuple[float, str] | None = None
        self._mute = False
        self._machine = machine
        self._files: dict[str, bytes] = {}
        self._put = False
        self._closed = False
        self._dead = False
        self._busy = threading.Lock()
        self._killed = threading.Event()

    def put_tree(self, tar: IO[bytes], directory: str, deadline: Deadline) -> None:
        """Remember the files of the stream."""
        self._expect_open("put_tree")
        if deadline.passed:
            raise deadline.error()
        if self._full:
            raise NodeUnavailable("the dummy node could not unpack the tree: no space left")
        base = checked_directory(directory).rstrip("/")
        gone = [path for path in self._files if path.startswith(f"{base}/")]
        for path in gone:
            del self._files[path]
        with tarfile.open(fileobj=tar, mode="r|") as entries:
            for entry in entries:
                content = entries.extractfile(entry) if entry.isreg() else None
                if content is not None:
                    self._files[f"{base}/{entry.name.removeprefix('./')}"] = content.read()
        self._put = True

    def run(
        self,
        command: str,
        *,
        directory: str,
        env: Mapping[str, str],
        sink: Sink,
        deadline: Deadline,
        cancel: CancelToken,
    ) -> int:
        """Carry out the words of `command`; see the module's text."""
        self._expect_open("run")
        if not self._put:
            raise HypervouchBug("run() came before put_tree()")
        if not self._busy.acquire(blocking=False):
            raise HypervouchBug("run() was called while another run() was busy")
        try:
            cancel.check()
            exports(env)
            self._killed.clear()
            self._ignored, self._last = frozenset(), None
            watch = _Watch(deadline, cancel, self._killed, self._expect_machine)
            with self._machine or nullcontext():
                return self._whole(command, directory, sink, watch, cancel)
        finally:
            self._busy.release()

    def _whole(
        self, command: str, directory: str, sink: Sink, watch: "_Watch", cancel: CancelToken
    ) -> int:
        """The suite with its end: while it is being ended it still runs."""
        try:
            status = self._steps(command.split(";"), directory, sink, watch)
            self._expect_machine()
        except HypervouchError as cause:
            if isinstance(cause, RunTimeout) or cause is cancel.cause:
                self._end(sink, cause)
            raise
        return status

    def fetch(
        self,
        patterns: Sequence[str],
        *,
        directory: str,
        target: Path,
        limit_bytes: int,
        deadline: Deadline | None = None,
    ) -> tuple[Path, ...]:
        """Write the remembered files that match below `target`."""
        if self._closed:
            raise HypervouchBug("fetch() came after close()")
        gone = self._dead or (self._machine is not None and not self._machine.mine)
        if gone or (deadline is not None and deadline.passed):
            raise CollectError("the dummy node went away", retryable=True)
        intake = Intake(target, patterns, limit_bytes)
        base = directory.rstrip("/") + "/"
        for path, content in list(self._files.items()):
            name = path.removeprefix(base)
            if path.startswith(base) and intake.wants(name):
                intake.take(name, len(content), io.BytesIO(content))
        return intake.finish()

    def kill(self, deadline: Deadline | None = None) -> bool:  # noqa: ARG002 it takes no time
        """End the running command."""
        self._killed.set()
        return not (self._mute or self._dead)

    def close(self) -> None:
        """Forget the node; repeatable."""
        self._closed = True

    def _end(self, sink: Sink, cause: HypervouchError) -> None:
        """End the command as a signal after the other would."""
        done = Stopped(confirmed=False, why="the dummy node answers nobody")
        if not self._mute:
            done = Stopped(steps=tuple(self._signalled(sink)))
        done.tell(self._tell)
        if self._mute and isinstance(cause, RunTimeout):
            raise NodeUnavailable("the dummy node could not be told to stop", retryable=True)

    def _signalled(self, sink: Sink) -> Iterator[Step]:
        for signum, seconds in self._grace.steps:
            took_s, ends = 0.0, signum.name[3:] not in self._ignored
            if signum is signal.SIGINT and self._last:
                took_s = self._last[0]
                ends = took_s <= seconds
            if not ends:
                took_s = seconds
            threading.Event().wait(took_s)
            if ends and self._last and signum is signal.SIGINT:
                sink(self._last[1].encode() + b"\n")
            yield Step(signal=signum.name, sent=1, left=int(not ends), took_s=took_s)
            if ends:
                return

    def _expect_open(self, call: str) -> None:
        if self._closed:
            raise HypervouchBug(f"{call}() came after close()")
        if self._dead:
            raise NodeUnavailable("the dummy node is dead", retryable=True)
        self._expect_machine()

    def _expect_machine(self) -> None:
        if self._machine is not None and not self._machine.mine:
            self._dead = True
            raise NodeUnavailable("the dummy node was reset under its holder", retryable=True)

    def _steps(self, steps: Sequence[str], directory: str, sink: Sink, watch: "_Watch") -> int:
        for step in steps:
            verb, _, rest = step.strip().partition(" ")
            if verb == "follow":
                lines = self._files.get(f"{directory.rstrip('/')}/{rest}", b"").decode()
                return self._steps(lines.splitlines(), directory, sink, watch)
            if verb == "exit":
                return int(rest or 0)
            if verb == "false":
                return 1
            if verb in {"sleep", "hang"}:
                if not watch.wait(float(rest) if verb == "sleep" else float("inf")):
                    return KILLED
            elif not self._step(verb, rest, directory, sink):
                return NOT_FOUND
        return 0

    def _step(self, verb: str, rest: str, directory: str, sink: Sink) -> bool:
        """Carry out one word that takes no time; False for one that is unknown."""
        if verb == "echo":
            sink(rest.strip("'\"").encode() + b"\n")
        elif verb == "flood":
            size = int(rest)
            sink((_FLOOD * (size // len(_FLOOD) + 1))[:size])
        elif verb == "ignore":
            self._ignored = frozenset(rest.split()) - {"KILL"}
        elif verb == "last":
            seconds, _, text = rest.partition(" ")
            self._last = float(seconds), text
        elif verb == "mute":
            self._mute = True
        elif verb == "die":
            self._dead = True
            raise NodeUnavailable("the connection to the dummy node broke", retryable=True)
        elif verb in {"write", "write-junit"}:
            path, _, text = rest.partition(" ")
            content = text if verb == "write" else junit_text(text.split())
            self._files[f"{directory.rstrip('/')}/{path}"] = content.encode()
        elif verb not in {"", "true", ":"}:
            sink(f"dummy: {verb}: not found\n".encode())
            return False
        return True


class _Watch:
    """Waits that a deadline, a cancel, a kill or the machine's end ends."""

    def __init__(
        self,
        deadline: Deadline,
        cancel: CancelToken,
        killed: threading.Event,
        look: Callable[[], None],
    ) -> None:
        self._deadline = deadline
        self._cancel = cancel
        self._killed = killed
        self._look = look

    def wait(self, seconds: float) -> bool:
        """Wait that long; False when killed."""
        left_s = seconds
        while left_s > 0:
            self._cancel.check()
            self._look()
            if self._deadline.passed:
                raise self._deadline.error()
            if self._killed.wait(min(_TURN_S, left_s)):
                return False
            left_s -= _TURN_S
        return True


def junit_text(words: Sequence[str]) -> str:
    """A JUnit document from words such as `pass=3`, `skip=1`, `fail=test_resume`."""
    cases: list[str] = []
    for word in words:
        kind, _, value = word.partition("=")
        if kind in {"pass", "skip"}:
            inner = '<skipped message="not here"/>' if kind == "skip" else ""
            cases += [_case(f"test_{kind}_{n + 1}", inner) for n in range(int(value))]
        elif kind in {"fail", "error"}:
            tag = "failure" if kind == "fail" else "error"
            cases.append(_case(value, f'<{tag} message="{kind} on purpose">details</{tag}>'))
        else:
            raise HypervouchBug(f"write-junit does not know {word!r}")
    return f'<testsuite name="dummy">{"".join(cases)}</testsuite>'


def _case(name: str, inner: str) -> str:
    return f'<testcase classname="dummy" name={quoteattr(name)} time="0.01">{inner}</testcase>'
