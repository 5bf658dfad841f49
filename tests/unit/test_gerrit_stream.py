# SPDX-License-Identifier: Apache-2.0
"""The stream's own rules, on a connection that exists only in memory."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from ci.errors import HypervouchBug, HypervouchError, ReviewServerError
from ci.gerrit import ssh, stream
from ci.gerrit.ssh import AccessError
from ci.gerrit.stream import COMMAND, EventStream
from tests.kit.fake_rest import settings


class FakeSide:
    """Client, transport and channel in one: what the server says is given beforehand.

    Args:
        chunks: Bytes, or an error to raise; afterwards the stream ends.
        exit_status: As the server reports it; -1 for a connection that just broke.
        stderr: What the server says there.
        refused: The command ends before the subscription stands.
        wait: The stream stays open until it is closed.
    """

    def __init__(
        self,
        *chunks: bytes | Exception,
        exit_status: int = -1,
        stderr: bytes = b"",
        refused: bool = False,
        wait: bool = False,
    ) -> None:
        self._chunks: Iterator[bytes | Exception] = iter(chunks)
        self._stderr = stderr
        self._wait = wait
        self._closed = threading.Event()
        self.exit_status = exit_status
        self.status_event = threading.Event()
        self.command = ""
        if refused:
            self.status_event.set()

    def get_transport(self) -> "FakeSide":
        return self

    def open_session(self, timeout: float) -> "FakeSide":
        return self

    def exec_command(self, command: str) -> None:
        self.command = command

    def settimeout(self, timeout: float) -> None:
        pass

    def recv(self, size: int) -> bytes:
        chunk = next(self._chunks, b"")
        if isinstance(chunk, Exception):
            raise chunk
        if not chunk and self._wait:
            self._closed.wait(5)
        if not chunk:
            self.status_event.set()
        return chunk

    def recv_stderr_ready(self) -> bool:
        return bool(self._stderr)

    def recv_stderr(self, size: int) -> bytes:
        said, self._stderr = self._stderr, b""
        return said

    def close(self) -> None:
        self._closed.set()
        self.status_event.set()


Play = Callable[..., tuple[list[Any], HypervouchError | None]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Run a stream on a fake side: what was handed over, and how it ended."""

    def run(
        side: FakeSide | Exception, on_lines: Callable[[Sequence[bytes]], None] | None = None
    ) -> tuple[list[Any], HypervouchError | None]:
        def connect(_: ssh.PinnedConnection) -> FakeSide:
            if isinstance(side, Exception):
                raise side
            return side

        monkeypatch.setattr(ssh.PinnedConnection, "connect", connect)
        heard: list[Any] = []
        events = EventStream(
            settings(), on_lines or heard.extend, lambda: heard.append("connected"), settle_s=0
        )
        try:
            events.run_once()
        except HypervouchError as error:
            return heard, error
        return heard, None

    return run


def test_subscribes_narrowly_and_hands_over_lines_in_order(play: Play) -> None:
    side = FakeSide(b'{"a":1}\n{"b"', b":2}\r\n\n  \n{", b'"c":3}\nhalf')
    heard, error = play(side)
    assert heard == ["connected", b'{"a":1}', b'{"b":2}\r', b'{"c":3}']
    assert side.command == COMMAND
    assert COMMAND == (
        "gerrit stream-events -s patchset-created -s comment-added -s change-abandoned"
        " -s change-restored -s change-merged -s change-deleted -s wip-state-changed"
        " -s private-state-changed -s topic-changed -s hashtags-changed -s vote-deleted"
        " -s reviewer-deleted -s ref-updated"
    )
    assert isinstance(error, ReviewServerError)
    assert error.retryable


def test_events_that_the_server_dropped_are_caught_up_in_their_place(play: Play) -> None:
    dropped = b'{"type":"dropped-output","eventCreatedOn":1}'
    quoted = b'{"type":"comment-added","comment":"dropped-output"}'
    odd = [quoted, b"dropped-output", b"[" * 4000 + b"dropped-output"]
    heard, _ = play(FakeSide(b"\n".join([b"{}", dropped, *odd, b""])))
    assert heard == ["connected", b"{}", "connected", *odd]


def test_a_missing_capability_names_its_remedy(play: Play) -> None:
    heard, error = play(
        FakeSide(refused=True, exit_status=1, stderr=b"fatal: stream events not permitted\n")
    )
    assert heard == []
    assert isinstance(error, AccessError)
    assert "Stream Events" in error.hint


def test_another_refusal_is_told_with_what_the_server_said(play: Play) -> None:
    _, error = play(FakeSide(refused=True, exit_status=127, stderr=b"no\x1b such\ncommand\xff"))
    assert isinstance(error, ReviewServerError)
    assert not isinstance(error, AccessError)
    assert "exit status 127" in error.message
    assert error.message.isprintable()


def test_a_line_without_end_is_cut_and_the_next_is_whole(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_LINE_BYTES", 10)
    heard, _ = play(FakeSide(*[b"x" * 8] * 20, b"\nfine\n"))
    assert heard == ["connected", b"x" * 11, b"fine"]


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), EOFError()])
def test_a_line_that_breaks_is_retryable(play: Play, error: Exception) -> None:
    heard, ended = play(FakeSide(b"{}\n", error))
    assert heard == ["connected", b"{}"]
    assert isinstance(ended, ReviewServerError)
    assert ended.retryable


def test_an_error_nobody_foresaw_ends_it_as_a_bug(play: Play) -> None:
    _, error = play(FakeSide(b"{}\n", ZeroDivisionError("odd")))
    assert isinstance(error, HypervouchBug)
    assert "odd" in error.message


def test_what_connect_raises_comes_out(play: Play) -> None:
    assert str(play(AccessError("no key"))[1]) == "no key"


def test_what_the_handler_raises_comes_out_and_closes_the_connection(play: Play) -> None:
    def full(_: Sequence[bytes]) -> None:
        raise HypervouchError("disk full")

    side = FakeSide(b"{}\n", wait=True)
    heard, error = play(side, full)
    assert heard == ["connected"]
    assert str(error) == "disk full"
    assert side.status_event.is_set()


def test_a_quiet_server_must_answer_now_and_then(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def prove(transport: object) -> None:
        asked.append(transport)
        if len(asked) > 1:
            raise EOFError

    monkeypatch.setattr(stream, "_prove_alive", prove)
    quiet = [TimeoutError()] * settings().keepalive_s
    heard, error = play(FakeSide(*quiet, b"{}\n", *quiet))
    assert heard == ["connected", b"{}"]
    assert len(asked) == 2
    assert isinstance(error, ReviewServerError)


def test_stop_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    events = EventStream(settings(), lambda _: None, lambda: None)
    events.stop()
    events.run_once()


def test_stop_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    side = FakeSide(b"{}\n", wait=True)
    monkeypatch.setattr(ssh.PinnedConnection, "connect", lambda _: side)
    heard = threading.Event()
    events = EventStream(settings(), lambda _: heard.set(), lambda: None, settle_s=0)
    runner = threading.Thread(target=events.run_once)
    runner.start()
    assert heard.wait(5)
    events.stop()
    runner.join(5)
    assert not runner.is_alive()
