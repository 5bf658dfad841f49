# SPDX-License-Identifier: Apache-2.0
"""`gerrit stream-events` as lines handed over in order, for as long as the connection lives.

Built on gerritlib's watcher thread, with what makes it lose events replaced: it polls, then
reads one line, while the rest of a burst waits unseen in a buffer until more bytes come.

Here one thread only reads, so that the server's own queue (128 events, then it drops some)
never fills while a slow caller works; the caller's thread takes what waits, in order.
"""

import json
import threading
from collections.abc import Callable, Iterator, Sequence

import gerritlib.gerrit
import paramiko

from ci.errors import HypervouchBug, HypervouchError, ReviewServerError
from ci.gerrit.fields import clean_line
from ci.gerrit.lines import Handover, LineBuffer
from ci.gerrit.parse import MAX_LINE_BYTES, REF_UPDATED, REVIEWER_DELETED
from ci.gerrit.ssh import CONNECT_TIMEOUT_S, AccessError, PinnedConnection
from ci.layout import Connection
from ci.model.event import EventKind

TYPES = (*(kind.value for kind in EventKind), REVIEWER_DELETED, REF_UPDATED)
COMMAND = "gerrit stream-events " + " ".join(f"-s {name}" for name in TYPES)
SETTLE_S = 0.3
"""Gerrit accepts the command a moment before it listens; measured in
tests/integration/test_gerrit_stream.py, and covered by the overlap of catch-up besides."""
LOOK_AROUND_S = 1.0
STATUS_WAIT_S = 5.0
ANSWER_TIMEOUT_S = 15.0
JOIN_S = 2.0
CHUNK_BYTES = 65_536
MAX_WAITING_BYTES = 64 * 2**20
STDERR_BYTES = 4_096
DROPPED = "dropped-output"
CONNECTED = b""
"""Handed over when the subscription stands; no line is empty."""
LINE_OVERHEAD_BYTES = 100
MOST_LINES = 500
"""Handed over at once, when so many wait."""


class EventStream:
    """One subscription at a time to the events that we act on.

    Args:
        settings: The connection.
        on_lines: Called with the lines that wait, in order, without their line ends, in the
            thread that called `run_once`. A line above MAX_LINE_BYTES comes cut just above
            that limit. What it raises ends `run_once`; lines not yet handed over are then
            lost to the stream and found by the next catch-up.
        on_connected: Called in the same thread when the subscription stands and before the
            first line: what is caught up now has no gap to what the stream tells. Called
            again when the server says that it dropped events. Events that come meanwhile
            wait.
        settle_s: Seconds between the server's acceptance and `on_connected`.
    """

    def __init__(
        self,
        settings: Connection,
        on_lines: Callable[[Sequence[bytes]], None],
        on_connected: Callable[[], None],
        *,
        settle_s: float = SETTLE_S,
    ) -> None:
        self._settings = settings
        self._on_lines = on_lines
        self._on_connected = on_connected
        self._settle_s = settle_s
        self._lock = threading.Lock()
        self._stopped = False
        self._watcher: _Watcher | None = None

    def run_once(self) -> None:
        """Connect and hand over events until the stream ends or `stop` is called.

        Returns only after `stop`; may then not be called again. After an error it may, and
        the caller backs off first.

        Raises:
            AccessError: An operator has to act: host key, key, account, capability.
            ReviewServerError: The stream ended or never began; retryable.
        """
        watcher = _Watcher(self._settings, self._settle_s)
        with self._lock:
            if self._stopped:
                return
            self._watcher = watcher
        watcher.start()
        try:
            self._hand_over(watcher)
        finally:
            watcher.stop()
            watcher.join(JOIN_S)
        if not self._stopped:
            raise watcher.failure or ReviewServerError(
                f"{self._settings.server} ended the event stream", retryable=True
            )

    def stop(self) -> None:
        """End `run_once`, soon and from any thread. Repeatable."""
        with self._lock:
            self._stopped = True
            watcher = self._watcher
        if watcher is not None:
            watcher.stop()

    def _hand_over(self, watcher: "_Watcher") -> None:
        while not self._stopped:
            waiting = watcher.items.take(MOST_LINES)
            if not waiting:
                return
            lines: list[bytes] = []
            for line in waiting:
                if line != CONNECTED and not _says_dropped(line):
                    lines.append(line)
                    continue
                # What is caught up now must not overtake the lines before it.
                if lines:
                    self._on_lines(lines)
                    lines = []
                self._on_connected()
            if lines:
                self._on_lines(lines)


def _says_dropped(line: bytes) -> bool:
    if len(line) > STDERR_BYTES or DROPPED.encode() not in line:
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("type") == DROPPED


def _prove_alive(transport: paramiko.Transport) -> None:
    """Ask the server for something that it must answer.

    A stream may be quiet for hours, and paramiko's keepalives want no reply: without this, a
    server that hangs, or a firewall that forgot us, looks like a quiet night.

    Raises:
        SSHException: No answer in time.
    """
    transport.open_session(timeout=ANSWER_TIMEOUT_S).close()


class _Watcher(gerritlib.gerrit.GerritWatcher):  # type: ignore[misc]
    """The reading thread: one connection, one subscription, then it ends.

    Attributes:
        items: What it read, closed when it ends.
        failure: Why it ended, if not by `stop`.
    """

    def __init__(self, settings: Connection, settle_s: float) -> None:
        connection = PinnedConnection(settings)
        super().__init__(
            None,
            username=settings.user,
            hostname=settings.server,
            port=settings.port,
            keyfile=str(settings.key_file),
            keep_alive=settings.keepalive_s,
            connection_attempts=1,
            retry_delay=0,
        )
        self.connection = connection
        self.name = f"gerrit-stream-{settings.name}"
        self.daemon = True
        self.items: Handover[bytes] = Handover(MAX_WAITING_BYTES)
        self.failure: HypervouchError | None = None
        self._settings = settings
        self._settle_s = settle_s
        self._ended = threading.Event()
        self._client: paramiko.SSHClient | None = None

    def run(self) -> None:
        """Read until the end; never raises, `failure` tells."""
        try:
            self._run()
        except HypervouchError as error:
            self.failure = error
        except (OSError, EOFError, paramiko.SSHException) as error:
            self.failure = ReviewServerError(
                f"the event stream of {self._settings.server} broke: {error}", retryable=True
            )
        except Exception as error:  # noqa: BLE001  # the thread's edge: run_once raises it
            self.failure = HypervouchBug(f"reading the event stream: {error!r}")
        finally:
            self.state = gerritlib.gerrit.DEAD
            self.items.close()

    def stop(self) -> None:
        """Close the connection; the thread ends. Repeatable, from any thread."""
        self._ended.set()
        client = self._client
        if client is not None:
            client.close()
        self.items.close()

    def _run(self) -> None:
        self.state = gerritlib.gerrit.CONNECTING
        client = self.connection.connect()
        self._client = client
        self.state = gerritlib.gerrit.CONNECTED
        try:
            if not self._ended.is_set():
                self._consume(client)
        finally:
            client.close()

    def _consume(self, client: paramiko.SSHClient) -> None:
        """Subscribe, report that, and read."""
        transport = client.get_transport()
        if transport is None:
            raise paramiko.SSHException("the connection ended at once")
        channel = transport.open_session(timeout=CONNECT_TIMEOUT_S)
        channel.exec_command(COMMAND)
        if not channel.status_event.wait(self._settle_s):
            self.state = gerritlib.gerrit.CONSUMING
            self._put(CONNECTED)
            for line in self._listen(channel):
                if line.strip():
                    self._put(line)
        if self._ended.is_set():
            return
        channel.status_event.wait(STATUS_WAIT_S)
        raise self._why(channel)

    def _listen(self, channel: paramiko.Channel) -> Iterator[bytes]:
        """Whole lines until the stream ends. A last one without its end is not handed over."""
        buffer = LineBuffer(MAX_LINE_BYTES)
        channel.settimeout(LOOK_AROUND_S)
        quiet_s = 0.0
        while not self._ended.is_set():
            try:
                data = channel.recv(CHUNK_BYTES)
            except TimeoutError:
                quiet_s += LOOK_AROUND_S
                if quiet_s >= self._settings.keepalive_s:
                    _prove_alive(channel.get_transport())
                    quiet_s = 0.0
                continue
            if not data:
                return
            quiet_s = 0.0
            yield from buffer.feed(data)

    def _why(self, channel: paramiko.Channel) -> ReviewServerError:
        said = b""
        while channel.recv_stderr_ready() and len(said) < STDERR_BYTES:
            said += channel.recv_stderr(STDERR_BYTES)
        text = clean_line(said[:STDERR_BYTES].decode("utf-8", "replace"))
        settings = self._settings
        if "not permitted" in text:
            return AccessError(
                f"{settings.user} may not read the event stream of {settings.server}: {text}",
                hint="ask a Gerrit administrator to give the account's group the global"
                " capability 'Stream Events' (All-Projects, Access, Global Capabilities)",
            )
        status = f", exit status {channel.exit_status}" if channel.exit_status > 0 else ""
        return ReviewServerError(
            f"the event stream of {settings.server} ended{status}{': ' if text else ''}{text}",
            hint="" if channel.exit_status <= 0 else "the server may be stopping",
            retryable=True,
        )

    def _put(self, line: bytes) -> None:
        self.items.put(line, LINE_OVERHEAD_BYTES + len(line))
