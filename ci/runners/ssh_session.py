# SPDX-License-Identifier: Apache-2.0
"""What sessions over SSH have in common, whichever shell answers: run, end, kill, close.

A command has a channel of its own. It is ended by a script on a second one, which says what each
signal did in the lines that `ci.runners.stop.read` understands.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping

import paramiko

from ci.cancel import CancelToken, Deadline
from ci.errors import HypervouchError, NodeUnavailable, RunTimeout
from ci.runners import ssh_channel, stop
from ci.runners.base import Sink
from ci.runners.ssh_channel import Ear
from ci.runners.ssh_link import Link
from ci.runners.stop import Grace, Stopped, Tell

# Beyond the times of the signals: for the node's answer that all is gone.
CONFIRM_S = 5.0


class ChannelSession(ABC):
    """One connection to a node. `kill` may be called from any thread."""

    def __init__(self, link: Link, *, grace: Grace, tell: Tell) -> None:
        self._link = link
        self._grace = grace
        self._tell = tell
        self._begun = False
        self._runs = False
        self._ending = threading.Lock()

    @abstractmethod
    def _launch(
        self, command: str, directory: str, env: Mapping[str, str]
    ) -> tuple[paramiko.Channel, bytes]:
        """Start a job's command; what its standard input is still to get stands beside it."""

    @abstractmethod
    def _ender(self, grace: Grace) -> tuple[str, bytes]:
        """What ends all that this session started, and its standard input."""

    @property
    def _confirm_s(self) -> float:
        return CONFIRM_S

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
        """Run a command; see the contract in `ci.runners.base`."""
        cancel.check()

        def watch() -> None:
            cancel.check()
            ssh_channel.check(deadline)

        channel, script = self._launch(command, directory, env)
        self._begun = self._runs = True
        ear = Ear(channel, sink)
        try:
            channel.sendall(script)
            channel.shutdown_write()
            return ssh_channel.read(channel, sink, watch)
        except ssh_channel.ON_THE_WAY as error:
            if self._link.is_active:
                self._end(self._grace)
            raise self._link.lost("while a command ran", error) from error
        except HypervouchError as cause:
            # What it says while it is ended still belongs to the log.
            if self._end(self._grace, ear):
                ear.drain()
            elif isinstance(cause, RunTimeout):
                raise self._link.lost("and could not be told to stop", cause) from cause
            raise
        except BaseException:
            self._end(self._grace)
            raise
        finally:
            self._runs = False
            channel.close()

    def kill(self, deadline: Deadline | None = None) -> bool:
        """End all that this session started; a node that cannot be asked is disconnected."""
        if not self._begun:
            return True
        grace = self._grace if self._runs else self._grace.for_leftovers
        return self._end(grace if deadline is None else grace.within(deadline.left_s))

    def close(self) -> None:
        """Disconnect; repeatable."""
        self._link.close()

    def _end(self, grace: Grace, ear: Ear | None = None) -> bool:
        """End what runs, by a second channel; False (and disconnected) where that failed."""
        with self._ending:
            done = self._stopped(*self._ender(grace), grace.total_s + self._confirm_s, ear)
            if not done.confirmed:
                self._link.close()
        done.tell(self._tell)
        return done.confirmed

    def _stopped(self, command: str, script: bytes, within_s: float, ear: Ear | None) -> Stopped:
        """Run the script that ends what was started; say what it said."""
        try:
            channel = self._link.open(command)
        except NodeUnavailable as error:
            return Stopped(confirmed=False, why=error.message)
        try:
            channel.settimeout(ssh_channel.CHANNEL_S)
            channel.sendall(script)
            channel.shutdown_write()
            ends = time.monotonic() + within_s
            while not channel.status_event.wait(ssh_channel.POLL_S):
                if ear:
                    ear.listen()
                if time.monotonic() >= ends:
                    why = f"node {self._link.where} did not answer within {within_s:g} s"
                    return Stopped(confirmed=False, why=why)
            steps, left = stop.read(ssh_channel.rest(channel))
            gone = channel.exit_status == 0
            why = "" if gone else self._why(channel.exit_status)
            return Stopped(steps=steps, left=left, confirmed=gone, why=why)
        except ssh_channel.ON_THE_WAY as error:
            return Stopped(confirmed=False, why=self._link.lost("meanwhile", error).message)
        finally:
            channel.close()

    def _why(self, status: int) -> str:
        if status < 0:
            return f"the connection to node {self._link.where} broke"
        return f"what ends it on node {self._link.where} failed with status {status}"
