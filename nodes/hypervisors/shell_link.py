# SPDX-License-Identifier: Apache-2.0
"""Commands, files and lines on a host over SSH; every argument is quoted, none is pasted.

One connection is shared by all threads, each command has a channel of its own. A connection that
broke is made anew by the next command.
"""

import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import paramiko

from ci.errors import NodeUnavailable
from ci.model.node import Endpoint, Transport
from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault
from nodes.hypervisors.tunnel import Tunnels
from nodes.login import log_in

CONNECT_S = 30.0
KEEP_ALIVE_S = 15
OUTPUT_LIMIT = 8 << 20
_CHUNK = 1 << 16
_TURN_S = 0.02
_SAID_LINES, _SAID_CHARS = 4, 500


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a host is.

    Attributes:
        host: Name or address.
        port: TCP port.
        user: Login.
        options: What a URL says of it after the question mark.
    """

    host: str
    port: int
    user: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What a command on the host left."""

    status: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """Its output."""
        return self.out.decode("utf-8", "replace")

    @property
    def complaint(self) -> str:
        """The last lines of what it said to standard error, for messages."""
        lines = [line.strip() for line in self.err.decode("utf-8", "replace").splitlines()]
        said = [line for line in lines if line][-_SAID_LINES:]
        return " | ".join(said)[-_SAID_CHARS:] or "it said nothing"


class ShellLink:
    """The host's shell; safe from any thread.

    Attributes:
        where: The host.
        timeout_s: Seconds that a command may take.
        tunnels: To ports of the host's own loopback.
    """

    def __init__(self, where: Address, access: Access) -> None:
        """Connect and log in.

        Raises:
            CallerFault: There is no key or no pinned host key.
            TransientFault: It does not answer.
            NodeFault: It refuses us, or showed another host key.
        """
        if access.key_file is None or access.known_hosts is None:
            raise CallerFault(
                "a hypervisor over SSH needs a key-file and a known-hosts file", hint="set both"
            )
        self.where = where
        self.timeout_s = access.timeout_s
        self._endpoint = Endpoint(
            transport=Transport.SSH,
            host=where.host,
            port=where.port,
            user=where.user,
            key_file=access.key_file,
            known_hosts=access.known_hosts,
        )
        self._lock = threading.Lock()
        self._client: paramiko.SSHClient | None = None
        self.tunnels = Tunnels(self._transport)
        self._transport()

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 0.0,
        feed: bytes = b"",
        check: bool = True,
    ) -> Answered:
        """Run a command to its end.

        Args:
            argv: Program and arguments.
            timeout_s: Seconds it may take; the connection's own by default.
            feed: What it reads.
            check: Raise where it ends with a status other than 0.

        Raises:
            TransientFault: The connection broke, or it did not end in time.
            NodeFault: It failed.
        """
        deadline = time.monotonic() + (timeout_s or self.timeout_s)
        channel = self._open(argv)
        try:
            answered = _finish(channel, feed, deadline)
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._broken(error) from error
        finally:
            channel.close()
        if answered is None:
            raise TransientFault(
                f"{' '.join(argv[:2])} did not end in time on {self.where.host}",
                hint="look whether the host is overloaded",
                retryable=True,
            )
        if check and answered.status:
            words = " ".join(argv[:2])
            raise NodeFault(f"{words} failed on {self.where.host}: {answered.complaint}")
        return answered

    def line(self, argv: Sequence[str]) -> "SshConsole":
        """A command whose input and output are a guest's serial line.

        It gets a terminal: without one xenconsole does not read, and outlives its connection.
        """
        return SshConsole(self._open(argv, terminal=True))

    def put(self, content: bytes | Path, target: str) -> None:
        """Write a file on the host: made beside its place, then renamed into it."""
        beside = f"{target}.part"
        try:
            with self._transport_sftp() as files:
                if isinstance(content, Path):
                    files.put(str(content), beside)
                else:
                    with files.open(beside, "wb") as handle:
                        handle.write(content)
                files.posix_rename(beside, target)
        except (EOFError, paramiko.SSHException, ConnectionError) as error:
            raise self._broken(error) from error
        except OSError as error:
            raise NodeFault(f"cannot write {target} on {self.where.host}: {error}") from error

    def close(self) -> None:
        """Let go of the connection; repeatable, never raises."""
        self.tunnels.close()
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _transport_sftp(self) -> paramiko.SFTPClient:
        files = paramiko.SFTPClient.from_transport(self._transport())
        if files is None:
            raise paramiko.SSHException("no SFTP channel")
        channel = files.get_channel()
        if channel is not None:
            channel.settimeout(self.timeout_s)
        return files

    def _open(self, argv: Sequence[str], *, terminal: bool = False) -> paramiko.Channel:
        """Start a command; a connection that turns out to be dead is made anew once."""
        for last in (False, True):
            transport = self._transport()
            try:
                channel = transport.open_session(timeout=CONNECT_S)
                break
            except (OSError, EOFError, paramiko.SSHException) as error:
                transport.close()
                if last:
                    raise self._broken(error) from error
        try:
            channel.settimeout(CONNECT_S)
            if terminal:
                channel.get_pty("dumb")
            channel.exec_command(shlex.join(argv))
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._broken(error) from error
        return channel

    def _transport(self) -> paramiko.Transport:
        with self._lock:
            transport = self._client.get_transport() if self._client else None
            if transport is not None and transport.is_active():
                return transport
            if self._client is not None:
                self._client.close()
            self._client = self._connect()
            transport = self._client.get_transport()
            if transport is None:
                raise TransientFault(f"{self.where.host} closed the connection", retryable=True)
            transport.set_keepalive(KEEP_ALIVE_S)
            return transport

    def _connect(self) -> paramiko.SSHClient:
        try:
            return log_in(self._endpoint, CONNECT_S)
        except NodeUnavailable as error:
            refused = (paramiko.BadHostKeyException, paramiko.AuthenticationException)
            unknown = "not found in known_hosts" in error.message
            kind = NodeFault if unknown or isinstance(error.__cause__, refused) else TransientFault
            raise kind(error.message, hint=error.hint, retryable=kind is TransientFault) from error

    def _broken(self, error: BaseException) -> TransientFault:
        return TransientFault(
            f"the connection to {self.where.host} broke: {str(error) or type(error).__name__}",
            retryable=True,
        )


class SshConsole:
    """A guest's serial line over a channel; see `nodes.hypervisors.base.Console`."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def write(self, data: bytes) -> None:
        """Send bytes to the guest."""
        try:
            self._channel.settimeout(CONNECT_S)
            self._channel.sendall(data)
        except OSError as error:
            raise EOFError("the console is over") from error

    def read(self, timeout_s: float) -> bytes:
        """Whatever came within `timeout_s`; raises EOFError once it is over."""
        self._channel.settimeout(max(timeout_s, 0.001))
        try:
            data = self._channel.recv(_CHUNK)
        except TimeoutError:
            return b""
        except OSError as error:
            raise EOFError("the console is over") from error
        if not data:
            raise EOFError("the console is over")
        return data

    def close(self) -> None:
        """Let go of it; repeatable."""
        self._channel.close()


def _finish(channel: paramiko.Channel, feed: bytes, deadline: float) -> Answered | None:
    """Feed a command and read both its streams to the end; None when that takes too long."""
    if feed:
        channel.sendall(feed)
    channel.shutdown_write()
    out, err = bytearray(), bytearray()
    while time.monotonic() < deadline:
        over = channel.exit_status_ready()
        # What is too much is read and dropped: else the command would wait for us.
        while channel.recv_ready():
            out += channel.recv(_CHUNK)[: OUTPUT_LIMIT - len(out)]
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(_CHUNK)[: OUTPUT_LIMIT - len(err)]
        if over:
            # What a daemon it left behind may still say is not waited for.
            return Answered(status=channel.recv_exit_status(), out=bytes(out), err=bytes(err))
        if channel.closed:
            raise EOFError("the connection ended before the command did")
        time.sleep(_TURN_S)
    return None
