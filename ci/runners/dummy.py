# SPDX-License-Identifier: Apache-2.0
"""A node that exists in memory only, steered by the text of its commands.

A command is a list of words separated by `;`, carried out in order:

- `echo TEXT`, `flood BYTES`: write output;
- `sleep SECONDS`: wait, looking at deadline and cancel; `hang`: wait for ever;
- `exit STATUS`: end here; without it the status is 0;
- `write PATH TEXT`: make a file below the directory;
- `write-junit PATH [pass=N] [skip=N] [fail=NAME] [error=NAME]`: make a JUnit file;
- `die`: the connection breaks.

`true`, `false` and `:` mean what they do in a shell; any other word ends with status 127. The
endpoint's facts steer the rest: `dummy: refuse` (connect fails), `dummy: full` (the tree does
not fit). A caller that breaks the lifecycle of `ci.runners.base` gets a HypervouchBug.
"""

import io
import tarfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO
from xml.sax.saxutils import quoteattr

from ci.cancel import CancelToken, Deadline
from ci.errors import CollectError, HypervouchBug, NodeUnavailable
from ci.model.node import Endpoint
from ci.runners.archive import Intake
from ci.runners.base import Sink
from ci.runners.scripts import checked_directory, exports

KILLED = 130
NOT_FOUND = 127
_TURN_S = 0.02
_FLOOD = b"0123456789abcdef" * 4 + b"\n"


class DummyRunner:
    """Opens sessions on nodes that exist in memory."""

    def connect(self, endpoint: Endpoint, deadline: Deadline) -> "DummySession":
        """A session, unless the endpoint's facts say `dummy: refuse`."""
        if deadline.passed:
            raise deadline.error()
        if endpoint.facts.get("dummy") == "refuse":
            raise NodeUnavailable(
                "the dummy node refuses us", hint="take `refuse` out of its facts"
            )
        return DummySession(full=endpoint.facts.get("dummy") == "full")


class DummySession:
    """Files and commands in memory, and a keen eye on the order of calls."""

    def __init__(self, *, full: bool) -> None:
        self._full = full
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
            return self._steps(command, directory, sink, _Watch(deadline, cancel, self._killed))
        finally:
            self._busy.release()

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
        if self._dead or (deadline is not None and deadline.passed):
            raise CollectError("the dummy node went away", retryable=True)
        intake = Intake(target, patterns, limit_bytes)
        base = directory.rstrip("/") + "/"
        for path, content in list(self._files.items()):
            name = path.removeprefix(base)
            if path.startswith(base) and intake.wants(name):
                intake.take(name, len(content), io.BytesIO(content))
        return intake.finish()

    def kill(self) -> None:
        """End the running command."""
        self._killed.set()

    def close(self) -> None:
        """Forget the node; repeatable."""
        self._closed = True

    def _expect_open(self, call: str) -> None:
        if self._closed:
            raise HypervouchBug(f"{call}() came after close()")
        if self._dead:
            raise NodeUnavailable("the dummy node is dead", retryable=True)

    def _steps(self, command: str, directory: str, sink: Sink, watch: "_Watch") -> int:
        for step in command.split(";"):
            verb, _, rest = step.strip().partition(" ")
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
    """Waits that a deadline, a cancel or a kill ends."""

    def __init__(self, deadline: Deadline, cancel: CancelToken, killed: threading.Event) -> None:
        self._deadline = deadline
        self._cancel = cancel
        self._killed = killed

    def wait(self, seconds: float) -> bool:
        """Wait that long; False when killed."""
        left_s = seconds
        while left_s > 0:
            self._cancel.check()
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
