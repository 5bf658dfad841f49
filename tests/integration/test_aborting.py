# SPDX-License-Identifier: Apache-2.0
"""A request that was given up is taken back: the peer gets a reset, not the rest of it later."""

import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from ci.gerrit.rest import GerritRest, NoAnswer
from tests.kit.fake_rest import settings

REVISION = "1" * 40


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(10)
        yield made


def rest_of(listener: socket.socket) -> GerritRest:
    return GerritRest(settings(f"http://127.0.0.1:{listener.getsockname()[1]}"), "secret")


def drain(peer: socket.socket) -> None:
    while peer.recv(1 << 16):
        pass


def test_a_post_that_is_given_up_ends_in_a_reset(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci.gerrit.rest.TIMEOUT", httpx.Timeout(0.5))
    with rest_of(listener) as rest:
        with pytest.raises(NoAnswer) as caught:
            rest.review("hv/demo", 7, REVISION, {"message": "x" * (8 << 20)})
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(10)
            with pytest.raises(ConnectionResetError):
                drain(peer)
    assert caught.value.sent
    assert caught.value.slow


def test_a_request_that_is_answered_ends_gently(listener: socket.socket) -> None:
    ends: list[bytes] = []

    def answer() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(10)
            peer.recv(1 << 16)
            peer.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n)]}\'\n"3.10"\n')
            ends.append(peer.recv(1))

    thread = threading.Thread(target=answer)
    thread.start()
    with rest_of(listener) as rest:
        assert rest.version() == "3.10"
    thread.join(10)
    assert ends == [b""]


def test_nobody_there_means_nothing_was_sent(listener: socket.socket) -> None:
    rest = rest_of(listener)
    listener.close()
    with rest, pytest.raises(NoAnswer) as caught:
        rest.version()
    assert (caught.value.sent, caught.value.slow) == (False, False)
