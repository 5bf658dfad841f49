# SPDX-License-Identifier: Apache-2.0
"""The only caller of `subprocess`: argument lists, deadlines, whole process groups."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

from ci.errors import HypervouchError

CHECK_EVERY_S = 0.5
_check: ContextVar[Callable[[], None] | None] = ContextVar("check", default=None)


class CommandFailed(HypervouchError):
    """A command could not be started, ended with a status, or passed its deadline.

    Attributes:
        status: Exit status; None where the command never ran or was killed.
        stderr: What it said, decoded, at most the last 4,000 characters.
    """

    def __init__(self, message: str, *, status: int | None, stderr: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.stderr = stderr[-4000:]


@dataclass(frozen=True, kw_only=True)
class Completed:
    """What a finished command left: exit status and both streams, undecoded."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def complaint(self) -> str:
        """The last non-empty line of standard error, for messages."""
        lines = [s.strip() for s in self.stderr.decode("utf-8", "replace").splitlines()]
        return next((s for s in reversed(lines) if s), "it said nothing")


def run(
    argv: Sequence[str],
    *,
    timeout_s: float = 60.0,
    stdin: bytes | IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    ok: Sequence[int] = (0,),
    keep_open: Sequence[int] = (),
) -> Completed:
    """Run a command to its end in a process group of its own.

    Args:
        argv: Program and arguments; never a shell string.
        timeout_s: Seconds before the whole process group is killed.
        stdin: Bytes to feed, or an open file; nothing by default.
        stdout: An open file that takes the output instead of `Completed.stdout`.
        cwd: Where it runs.
        env: Variables added to ours.
        check: Raise when the exit status is not among `ok`.
        ok: Exit statuses that count as success.
        keep_open: File descriptors it inherits, for instance a lock that must outlive us.

    Raises:
        CommandFailed: The program is missing, passed its deadline, or failed.
    """
    feed = stdin if isinstance(stdin, bytes) else None
    handle: int | IO[bytes] = subprocess.DEVNULL
    if feed is not None:
        handle = subprocess.PIPE
    elif stdin is not None and not isinstance(stdin, bytes):
        handle = stdin
    process = _start(
        argv,
        stdin=handle,
        stdout=stdout or subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={**os.environ, **env} if env is not None else None,
        pass_fds=keep_open,
    )
    done = _finish(process, argv, feed, timeout_s)
    if check and done.status not in ok:
        raise CommandFailed(
            f"{Path(argv[0]).name} failed with status {done.status}: {done.complaint}",
            status=done.status,
            stderr=done.stderr.decode("utf-8", "replace"),
        )
    return done


def _start(argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own.

    Raises:
        CommandFailed: The program is missing or cannot be started.
    """
    name = Path(argv[0]).name
    try:
        return subprocess.Popen(list(argv), start_new_session=True, **options)
    except FileNotFoundError as missing:
        raise CommandFailed(
            f"{name} is not installed", status=None, stderr="", hint=f"install {name}"
        ) from missing
    except OSError as error:
        raise CommandFailed(f"{name} did not start: {error}", status=None, stderr="") from error


@contextlib.contextmanager
def interruptible(check: Callable[[], None]) -> Iterator[None]:
    """Let `check` end the commands that this thread runs within the block, by raising.

    It is called about twice a second while one runs; what it raises comes out of `run`, after
    the command's whole group was killed.
    """
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def _communicate(
    process: subprocess.Popen[bytes], feed: bytes | None, timeout_s: float
) -> tuple[bytes, bytes]:
    check = _check.get()
    ends = time.monotonic() + timeout_s
    while check is not None and time.monotonic() + CHECK_EVERY_S < ends:
        try:
            return process.communicate(feed, timeout=CHECK_EVERY_S)
        except subprocess.TimeoutExpired:
            feed = None  # it was taken by the first call
            check()
    return process.communicate(feed, timeout=max(0.0, ends - time.monotonic()))


def _finish(
    process: subprocess.Popen[bytes], argv: Sequence[str], feed: bytes | None, timeout_s: float
) -> Completed:
    """Wait for a command's end; whatever cuts that short kills its whole group."""
    try:
        out, err = _communicate(process, feed, timeout_s)
    except subprocess.TimeoutExpired as late:
        kill_group(process.pid)
        _, err = process.communicate()
        raise CommandFailed(
            f"{Path(argv[0]).name} did not end within {timeout_s:g} s",
            status=None,
            stderr=err.decode("utf-8", "replace"),
        ) from late
    except BaseException:
        kill_group(process.pid)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        raise
    return Completed(
        argv=tuple(argv), status=process.returncode, stdout=out or b"", stderr=err or b""
    )


def spawn(
    argv: Sequence[str],
    *,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: IO[bytes] | int = subprocess.DEVNULL,
    stderr: IO[bytes] | int = subprocess.STDOUT,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command that outlives this call, in a process group of its own.

    Pass `stdout=proc.PIPE` to read its output. `env` replaces the environment when given.

    Raises:
        CommandFailed: The program is missing or cannot be started.
    """
    return _start(
        argv,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        env=dict(env) if env is not None else None,
    )


PIPE = subprocess.PIPE
TimeoutExpired = subprocess.TimeoutExpired
Process: TypeAlias = subprocess.Popen[bytes]


def kill_group(pid: int, signum: signal.Signals = signal.SIGKILL) -> None:
    """Signal the process group led by `pid`; one that is gone is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signum)


def is_running(pid: int, born: str) -> bool:
    """Whether that very process still lives: pid and start tick both match."""
    return start_tick(pid) == born


def start_tick(pid: int) -> str | None:
    """A process's start tick from /proc, which no later holder of the same pid shares."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def wait_until(deadline: float, *, every_s: float = 0.05) -> Iterator[None]:
    """Yield until `time.monotonic()` passes `deadline`, pausing between turns."""
    while time.monotonic() < deadline:
        yield
        time.sleep(every_s)
