# SPDX-License-Identifier: Apache-2.0
"""Runs plans on a node over SSH: pinned host key, one connection, a channel per command."""

import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import paramiko

from ci.cancel import CancelToken, Deadline
from ci.errors import CollectError, ConfigError, HypervouchError, NodeUnavailable, RunTimeout
from ci.model.node import Endpoint
from ci.runners import scripts, stop
from ci.runners.archive import MAX_FILES, Intake, unpack
from ci.runners.base import Sink
from ci.runners.stop import Grace, Stopped, Tell

CONNECT_S = 15.0
KEEPALIVE_S = 15
# Sent bytes that nobody acknowledges for this long mean that the machine is gone.
UNACKNOWLEDGED_S = 45
# A channel that does not open, or a transfer that stands still, for this long is lost.
CHANNEL_S = 10.0
STALLED_S = 30.0
# Beyond the times of the signals: for the node's answer that all is gone.
CONFIRM_S = 5.0
# How long output is awaited after the command ended while a leftover holds its streams.
DRAIN_S = 0.25
_POLL_S = 0.1
_TURN_S = 1.0
_CHUNK = 128 * 1024
# With these the cipher authenticates too: no second pass over every packet in Python.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr")


class SshRunner:
    """Opens sessions over SSH. Thread-safe: it holds no state."""

    def connect(
        self,
        endpoint: Endpoint,
        deadline: Deadline,
        *,
        grace: Grace = Grace(),  # noqa: B008 it is frozen
        tell: Tell = stop.quiet,
    ) -> "SshSession":
        """Log in with the endpoint's key; its host key must be in `known_hosts`.

        Raises:
            NodeUnavailable: Refused, unreachable, or an unknown host key.
            ConfigError: The endpoint names no key or no known hosts.
        """
        if endpoint.key_file is None or endpoint.known_hosts is None:
            raise ConfigError(
                f"node {endpoint.host} has no key-file or no known-hosts",
                hint="set both on its provider",
            )
        where = f"{endpoint.user}@{endpoint.host}:{endpoint.port}"
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        limit = max(0.1, min(CONNECT_S, deadline.left_s))
        try:
            client.load_host_keys(str(endpoint.known_hosts))
            client.connect(
                endpoint.host,
                port=endpoint.port,
                username=endpoint.user,
                key_filename=str(endpoint.key_file),
                timeout=limit,
                banner_timeout=limit,
                auth_timeout=limit,
                allow_agent=False,
                look_for_keys=False,
                transport_factory=_transport,  # type: ignore[arg-type]
            )
        except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
            client.close()
            raise _refused(where, error) from error
        transport = client.get_transport()
        if transport is None:
            raise NodeUnavailable(f"node {where} closed the connection at once")
        transport.set_keepalive(KEEPALIVE_S)
        if deadline.passed:  # or cancelled, while we logged in
            client.close()
            raise deadline.error()
        family = scripts.family(endpoint.workdir)
        return SshSession(client, transport, where, family, grace=grace, tell=tell)


class _PromptSocket(socket.socket):
    """A socket that acknowledges whatever it read at once.

    After the login the daemon says something unasked and then, by Nagle's rule, keeps its
    next answer back until that is acknowledged: 40 ms if it is left to the kernel. The
    kernel forgets the option, so it is renewed.
    """

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Read, then acknowledge."""
        chunk = super().recv(bufsize, flags)
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return chunk


def _transport(sock: socket.socket, **options: object) -> paramiko.Transport:
    """A transport whose socket notices a dead peer and that prefers the fast ciphers."""
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_S * 1000)
        timeout = sock.gettimeout()
        sock = _PromptSocket(fileno=sock.detach())
        sock.settimeout(timeout)
    transport = paramiko.Transport(sock, **options)  # type: ignore[arg-type]
    security = transport.get_security_options()
    offered = tuple(security.ciphers)
    fast = tuple(name for name in _CIPHERS if name in offered)
    security.ciphers = fast + tuple(name for name in offered if name not in fast)
    return transport


def _refused(where: str, error: Exception) -> NodeUnavailable:
    if isinstance(error, paramiko.BadHostKeyException):
        text, hint = "shows another host key than the pinned one", "check the node, then re-pin it"
    elif "not found in known_hosts" in str(error):
        text, hint = "has a host key that is not pinned", "add it to the node's known-hosts file"
    elif isinstance(error, paramiko.AuthenticationException):
        text, hint = "refuses our key", "add the public key to the node's authorized_keys"
    elif isinstance(error, FileNotFoundError):
        text, hint = f"cannot be tried: {error}", "check key-file and known-hosts"
    else:
        text, hint = f"does not answer: {str(error) or type(error).__name__}", "check that it is up"
    return NodeUnavailable(f"node {where} {text}", hint=hint)


class SshSession:
    """One connection to a node. `kill` may be called from any thread."""

    def __init__(
        self,
        client: paramiko.SSHClient,
        transport: paramiko.Transport,
        where: str,
        family: str,
        *,
        grace: Grace,
        tell: Tell,
    ) -> None:
        self._client = client
        self._grace = grace
        self._tell = tell
        self._transport = transport
        self._where = where
        self._family = family
        self._token = f"{family}-{secrets.token_hex(16)}"
        self._number = 0
        self._begun = False
        self._runs = False
        self._ending = threading.Lock()

    def put_tree(self, tar: IO[bytes], directory: str, deadline: Deadline) -> None:
        """End what an earlier holder left, then unpack a tar stream into `directory`."""
        script = scripts.put(directory, family=self._family, token=self._token).encode()
        channel = self._open(scripts.put_entry(len(script)))
        self._begun = True
        try:
            channel.sendall(script)
            said = self._send(channel, tar, deadline)
            channel.shutdown_write()
            status = self._read(channel, said.append, lambda: _check(deadline))
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._lost("while the tree was sent", error) from error
        finally:
            channel.close()
        text = b"".join(said).decode("utf-8", "replace").strip()
        if status == scripts.LEFTOVERS:
            raise scripts.left_behind(f"node {self._where}", text)
        if status:
            raise NodeUnavailable(
                f"node {self._where} could not unpack the tree: "
                f"{''.join(text.splitlines()[-1:]) or status}",
                hint="check its free disk and that it has tar",
            )

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
        self._number += 1
        script = scripts.run(
            command, directory=directory, env=env, token=self._token, number=self._number
        )

        def watch() -> None:
            cancel.check()
            _check(deadline)

        channel = self._open(scripts.ENTRY)
        self._begun = self._runs = True
        ear = _Ear(channel, sink)
        try:
            channel.sendall(script.encode())
            channel.shutdown_write()
            return self._read(channel, sink, watch)
        except (OSError, EOFError, paramiko.SSHException) as error:
            if self._transport.is_active():
                self._end(self._grace)
            raise self._lost("while a command ran", error) from error
        except HypervouchError as cause:
            # What it says while it is ended still belongs to the log.
            if self._end(self._grace, ear):
                ear.drain()
            elif isinstance(cause, RunTimeout):
                raise self._lost("and could not be told to stop", cause) from cause
            raise
        except BaseException:
            self._end(self._grace)
            raise
        finally:
            self._runs = False
            channel.close()

    def fetch(
        self,
        patterns: Sequence[str],
        *,
        directory: str,
        target: Path,
        limit_bytes: int,
        deadline: Deadline | None = None,
    ) -> tuple[Path, ...]:
        """Bring home the files that match; see the contract in `ci.runners.base`."""
        intake = Intake(target, patterns, limit_bytes)
        try:
            channel = self._open(scripts.ENTRY)
        except NodeUnavailable as error:
            raise CollectError(error.message, hint=error.hint, retryable=True) from error
        try:
            channel.sendall(
                scripts.fetch(patterns, directory=directory, limit_bytes=limit_bytes).encode()
            )
            channel.shutdown_write()
            stream = _Incoming(channel, deadline)
            for name in stream.names():
                path = name.removeprefix("./")
                if intake.wants(path):
                    intake.refuse(path, f"is larger than {limit_bytes} bytes")
            unpack(stream, intake)  # type: ignore[arg-type]
            if _status(channel) == scripts.NO_DIRECTORY:
                intake.refuse(directory, "is not there")
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise CollectError(
                self._lost("while files were fetched", error).message, retryable=True
            ) from error
        finally:
            channel.close()
        return intake.finish()

    def kill(self, deadline: Deadline | None = None) -> bool:
        """End all that this session started; a node that cannot be asked is disconnected."""
        if not self._begun:
            return True
        grace = self._grace if self._runs else self._grace.for_leftovers
        return self._end(grace if deadline is None else grace.within(deadline.left_s))

    def close(self) -> None:
        """Disconnect; repeatable."""
        self._client.close()

    def _open(self, command: str) -> paramiko.Channel:
        try:
            channel = self._transport.open_session(timeout=CHANNEL_S)
            channel.settimeout(CHANNEL_S)
            channel.exec_command(command)
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._lost("before a command could start", error) from error
        return channel

    def _send(self, channel: paramiko.Channel, tar: IO[bytes], deadline: Deadline) -> list[bytes]:
        """Send a stream; returns what the other side said meanwhile."""
        channel.settimeout(_POLL_S)
        channel.set_combine_stderr(True)
        said: list[bytes] = []
        while chunk := tar.read(_CHUNK):
            left = memoryview(chunk)
            while left:
                _check(deadline)
                if channel.recv_ready():
                    said.append(channel.recv(_CHUNK))
                try:
                    sent = channel.send(left)  # type: ignore[arg-type]
                except TimeoutError:
                    continue
                if not sent or channel.exit_status_ready():
                    return said
                left = left[sent:]
        return said

    def _read(self, channel: paramiko.Channel, sink: Sink, watch: Callable[[], None]) -> int:
        """Pass output on until the command ended; returns its exit status."""
        channel.settimeout(_POLL_S)
        watched = time.monotonic()
        quiet_since: float | None = None
        while True:
            try:
                chunk = channel.recv(_CHUNK)
                if not chunk:
                    break
                sink(chunk)
                quiet_since = None
            except TimeoutError:
                # A process left behind may hold the streams open for ever.
                if channel.exit_status_ready():
                    quiet_since = quiet_since or time.monotonic()
                    if time.monotonic() - quiet_since >= DRAIN_S:
                        break
            if time.monotonic() - watched >= _POLL_S:
                watch()
                watched = time.monotonic()
        while not channel.status_event.wait(_POLL_S):
            watch()
        return _status(channel)

    def _end(self, grace: Grace, ear: "_Ear | None" = None) -> bool:
        """End what runs, by a second channel; False (and disconnected) where that failed."""
        with self._ending:
            done = self._stopped(grace, ear)
            if not done.confirmed:
                self._client.close()
        done.tell(self._tell)
        return done.confirmed

    def _stopped(self, grace: Grace, ear: "_Ear | None") -> Stopped:
        """Run the script that ends what we started; say what it said."""
        try:
            channel = self._open(scripts.ENTRY)
        except NodeUnavailable as error:
            return Stopped(confirmed=False, why=error.message)
        try:
            channel.settimeout(CHANNEL_S)
            channel.sendall(scripts.end(self._token, grace).encode())
            channel.shutdown_write()
            ends = time.monotonic() + grace.total_s + CONFIRM_S
            while not channel.status_event.wait(_POLL_S):
                if ear:
                    ear.listen()
                if time.monotonic() >= ends:
                    why = (
                        f"node {self._where} did not answer within {grace.total_s + CONFIRM_S:g} s"
                    )
                    return Stopped(confirmed=False, why=why)
            steps, left = stop.read(_rest(channel))
            gone = channel.exit_status == 0
            why = "" if gone else f"the connection to node {self._where} broke"
            return Stopped(steps=steps, left=left, confirmed=gone, why=why)
        except (OSError, EOFError, paramiko.SSHException) as error:
            return Stopped(confirmed=False, why=self._lost("meanwhile", error).message)
        finally:
            channel.close()

    def _lost(self, when: str, error: Exception) -> NodeUnavailable:
        what = str(error) or type(error).__name__
        return NodeUnavailable(
            f"the connection to node {self._where} broke {when}: {what}",
            hint="check that the node is up",
            retryable=True,
        )


class _Ear:
    """Takes what a command says while it is ended; a sink that fails hears no more."""

    def __init__(self, channel: paramiko.Channel, sink: Sink) -> None:
        self._channel = channel
        self._sink: Sink | None = sink

    def listen(self) -> None:
        """Take what is there; a full window would hold the command up."""
        while self._sink is not None and self._channel.recv_ready():
            self._pass_on(self._sink)

    def drain(self) -> None:
        """Take what still comes; bounded by a second."""
        ends = time.monotonic() + 1.0
        while self._sink is not None and time.monotonic() < ends:
            self._pass_on(self._sink)

    def _pass_on(self, sink: Sink) -> None:
        try:
            chunk = self._channel.recv(_CHUNK)
            if chunk:
                sink(chunk)
        except (OSError, HypervouchError):
            chunk = b""
        if not chunk:
            self._sink = None


def _rest(channel: paramiko.Channel) -> str:
    """What a script that has ended said; its channel's window holds far more."""
    said = bytearray()
    while len(said) < _CHUNK and (chunk := channel.recv(_CHUNK)):
        said += chunk
    return said.decode("utf-8", "replace")


def _check(deadline: Deadline) -> None:
    if deadline.passed:
        raise deadline.error()


def _status(channel: paramiko.Channel) -> int:
    """The exit status of a command whose output has ended."""
    if not channel.status_event.wait(CHANNEL_S) or channel.exit_status < 0:
        raise EOFError("it ended without an exit status")
    return channel.exit_status


class _Incoming:
    """A channel as a file that tarfile can read; a standstill is an error."""

    def __init__(self, channel: paramiko.Channel, deadline: Deadline | None) -> None:
        self._channel = channel
        self._deadline = deadline
        self._buffer = bytearray()

    def names(self) -> list[str]:
        """The NUL-terminated names before the archive, up to an empty one."""
        names: list[str] = []
        while True:
            while (end := self._buffer.find(0)) < 0:
                if len(self._buffer) > _CHUNK or not self._more():
                    return names
            name = bytes(self._buffer[:end]).decode("utf-8", "surrogateescape")
            del self._buffer[: end + 1]
            if not name:
                return names
            if len(names) < MAX_FILES:
                names.append(name)

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""
        while len(self._buffer) < size and self._more():
            pass
        chunk = bytes(self._buffer[:size])
        del self._buffer[:size]
        return chunk

    def _more(self) -> bool:
        stalled = time.monotonic() + STALLED_S
        while True:
            left_s = STALLED_S if self._deadline is None else self._deadline.left_s
            if left_s <= 0 and self._deadline is not None:
                raise TimeoutError(self._deadline.error().message)
            # In turns: a deadline may be brought forward while nothing comes.
            self._channel.settimeout(max(0.01, min(_TURN_S, left_s)))
            try:
                chunk = self._channel.recv(_CHUNK)
            except TimeoutError:
                if time.monotonic() >= stalled:
                    raise
                continue
            self._buffer += chunk
            return bool(chunk)
