# SPDX-License-Identifier: Apache-2.0
"""Runs plans on this machine: trusted suites only, without isolation."""

import contextlib
import os
import secrets
import select
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from ci import proc
from ci.cancel import CancelToken, Deadline
from ci.errors import HypervouchError, NodeUnavailable, RunTimeout
from ci.model.node import Endpoint
from ci.runners import owned, stop
from ci.runners.archive import Intake, clear, gather
from ci.runners.base import Sink
from ci.runners.scripts import MARK, checked_directory, exports, family, left_behind
from ci.runners.stop import Grace, Tell

DRAIN_S = 0.25
_POLL_MS = 100
_REAP_S = 1.0
_CHUNK = 128 * 1024
# All that a command inherits; our own environment may hold secrets.
_KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "LOGNAME")


class LocalRunner:
    """Opens sessions on this machine. Thread-safe: it holds no state."""

    def connect(
        self,
        endpoint: Endpoint,
        deadline: Deadline,
        *,
        grace: Grace = Grace(),  # noqa: B008 it is frozen
        tell: Tell = stop.quiet,
    ) -> "LocalSession":
        """A session; nothing is started yet.

        Raises:
            RunTimeout: The deadline has passed already.
        """
        if deadline.passed:
            raise deadline.error()
        return LocalSession(endpoint.workdir, grace, tell)


class LocalSession:
    """Process groups on this machine. `kill` may be called from any thread."""

    def __init__(self, workdir: str, grace: Grace, tell: Tell) -> None:
        self._workdir = workdir
        self._grace = grace
        self._tell = tell
        self._token = f"{family(workdir)}-{secrets.token_hex(16)}"
        self._owned = owned.Owned(mark=self._token)
        self._number = 0
        self._runs = False
        self._ending = threading.Lock()

    def put_tree(self, tar: IO[bytes], directory: str, deadline: Deadline) -> None:
        """End what an earlier holder left, then unpack a tar stream into `directory`."""
        where = Path(checked_directory(directory))
        take_over(self._workdir)
        try:
            clear(where)
            where.mkdir(parents=True)
            proc.run(
                ["tar", "-xof", "-"],
                stdin=tar if _is_file(tar) else tar.read(),
                cwd=where,
                env={MARK: self._token},
                timeout_s=max(0.1, deadline.left_s),
            )
        except (OSError, proc.CommandFailed) as error:
            if deadline.passed:
                raise deadline.error() from error
            raise NodeUnavailable(
                f"this machine could not unpack the tree into {where}: {error}",
                hint="check its free disk",
            ) from error

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
        """Run a shell command; see the contract in `ci.runners.base`."""
        cancel.check()
        process = self._start(command, Path(directory), env)
        output = process.stdout
        if output is None:
            raise NodeUnavailable("the command's output could not be opened")
        with output:
            self._runs = True
            try:
                status = _follow(process, output.fileno(), sink, deadline, cancel)
            except BaseException as cause:
                # What it says while it is ended still belongs to the log.
                heard = isinstance(cause, RunTimeout) or cause is cancel.cause
                self._stop(process, _Ear(output.fileno(), sink if heard else None))
                raise
            finally:
                self._runs = False
        owned.forget(self._token, self._number, process.pid)
        # Popen tells death by signal N as -N; a shell as 128 + N.
        return status if status >= 0 else 128 - status

    def fetch(
        self,
        patterns: Sequence[str],
        *,
        directory: str,
        target: Path,
        limit_bytes: int,
        deadline: Deadline | None = None,
    ) -> tuple[Path, ...]:
        """Copy the files that match; see the contract in `ci.runners.base`."""
        del deadline  # A local copy does not hang, and the limit bounds it.
        intake = Intake(target, patterns, limit_bytes)
        source = Path(directory)
        if not source.is_dir():
            intake.refuse(directory, "is not there")
        gather(source, intake)
        return intake.finish()

    def kill(self, deadline: Deadline | None = None) -> bool:
        """End all that this session started; see the contract in `ci.runners.base`."""
        grace = self._grace if self._runs else self._grace.for_leftovers
        return self._end(grace if deadline is None else grace.within(deadline.left_s), None)

    def _stop(self, process: proc.Process, ear: "_Ear") -> None:
        """End the command that runs, and take its last words."""
        self._end(self._grace, ear)
        with contextlib.suppress(proc.TimeoutExpired):
            process.wait(_REAP_S)
        ear.drain()

    def _end(self, grace: Grace, ear: "_Ear | None") -> bool:
        with self._ending:
            if not self._owned.leaders:
                return True
            done = self._owned.end(grace, ear.listen if ear else time.sleep)
        done.tell(self._tell)
        return done.confirmed

    def close(self) -> None:
        """Nothing is held; repeatable."""

    def _start(self, command: str, directory: Path, env: Mapping[str, str]) -> proc.Process:
        exports(env)
        clean = {name: os.environ[name] for name in _KEPT if name in os.environ}
        clean |= {"HOME": self._workdir, "PYTHONSAFEPATH": "1", **env, MARK: self._token}
        if not directory.is_dir():
            raise NodeUnavailable(
                f"{directory} is not there", hint="the tree must be put before a command runs"
            )
        try:
            process = proc.spawn(
                [shutil.which("sh") or "/bin/sh", "-c", command],
                stdout=proc.PIPE,
                cwd=directory,
                env=clean,
            )
        except proc.CommandFailed as error:
            raise NodeUnavailable(error.message, hint="check this machine") from error
        self._note(process)
        return process

    def _note(self, process: proc.Process) -> None:
        """Write down that the command is ours, for us and for who comes after us."""
        self._number += 1
        try:
            born = owned.note(self._token, self._number, process.pid)
        except OSError as error:
            proc.kill_group(process.pid)
            process.wait()
            raise NodeUnavailable(
                f"the command's process cannot be recorded: {error}",
                hint="check that /tmp has room and is writable",
            ) from error
        if not self._owned.leaders:
            self._owned.born = born
        self._owned.leaders.add(process.pid)


def take_over(workdir: str) -> None:
    """End what runs under the marks of a working directory, whoever started it.

    Only for who holds that directory: sessions that are still in use end with the rest.

    Raises:
        NodeUnavailable: Something could not be ended.
    """
    done = owned.of_family(family(workdir)).end(stop.LEFTOVERS)
    if done.left:
        raise left_behind("this machine", "\n".join(done.left))


class _Ear:
    """Takes what a command says while it is ended; a sink that fails hears no more."""

    def __init__(self, handle: int, sink: Sink | None) -> None:
        self._handle = handle
        self._sink = sink

    def listen(self, seconds: float) -> None:
        """Take what comes within that time; a full pipe would hold the command up."""
        ends = time.monotonic() + seconds
        while (left_s := ends - time.monotonic()) > 0:
            if self._sink is None:
                time.sleep(left_s)
            elif select.select([self._handle], [], [], left_s)[0]:
                self._pass_on(self._sink)

    def drain(self) -> None:
        """Take what still comes, for as long as what it left may hold the pipe."""
        ends = time.monotonic() + DRAIN_S
        while self._sink is not None and (left_s := ends - time.monotonic()) > 0:
            if not select.select([self._handle], [], [], left_s)[0]:
                return
            self._pass_on(self._sink)

    def _pass_on(self, sink: Sink) -> None:
        chunk = os.read(self._handle, _CHUNK)
        try:
            if chunk:
                sink(chunk)
        except HypervouchError:
            chunk = b""
        if not chunk:
            self._sink = None


def _is_file(stream: IO[bytes]) -> bool:
    try:
        return stream.fileno() >= 0
    except OSError:
        return False


def _follow(
    process: proc.Process,
    handle: int,
    sink: Sink,
    deadline: Deadline,
    cancel: CancelToken,
) -> int:
    """Pass output on until the command ended; returns its exit status as Popen tells it."""
    watched = time.monotonic()
    poll = select.poll()
    poll.register(handle, select.POLLIN | select.POLLHUP)
    ended = os.pidfd_open(process.pid)
    try:
        poll.register(ended, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll(_POLL_MS)]
            if handle in ready:
                chunk = os.read(handle, _CHUNK)
                if not chunk:
                    break
                sink(chunk)
            elif ended in ready:
                _drain(handle, sink)
                break
            if time.monotonic() - watched >= _POLL_MS / 1000:
                watched = time.monotonic()
                _watch(deadline, cancel)
        # The streams may be closed long before the command ends.
        while not select.select([ended], [], [], _POLL_MS / 1000)[0]:
            _watch(deadline, cancel)
        return process.wait()
    finally:
        os.close(ended)


def _drain(handle: int, sink: Sink) -> None:
    """The command has ended but a process it left holds the pipe: take what still comes."""
    ends = time.monotonic() + DRAIN_S
    while (left_s := ends - time.monotonic()) > 0:
        if not select.select([handle], [], [], left_s)[0]:
            return
        chunk = os.read(handle, _CHUNK)
        if not chunk:
            return
        sink(chunk)


def _watch(deadline: Deadline, cancel: CancelToken) -> None:
    cancel.check()
    if deadline.passed:
        raise deadline.error()
