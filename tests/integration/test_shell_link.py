# SPDX-License-Identifier: Apache-2.0
"""A host's shell over a real sshd: commands, files, and tunnels to its own loopback."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from getpass import getuser
from pathlib import Path

import pytest

from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import NodeFault, TransientFault
from nodes.hypervisors.shell_link import Address, ShellLink
from nodes.hypervisors.tunnel import HOST
from tests.kit.require import require
from tests.kit.sshd import Sshd, SshdMissing, running

pytestmark = pytest.mark.integration
GREETING = b"RFB 003.008\n"
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    try:
        with running(tmp_path_factory.mktemp("sshd")) as daemon:
            yield daemon
    except SshdMissing as missing:
        require("sshd", present=False, why=str(missing))


@pytest.fixture
def link(sshd: Sshd, tmp_path: Path) -> Iterator[ShellLink]:
    access = Access(work=tmp_path, key_file=sshd.key_file, known_hosts=sshd.known_hosts)
    where = Address(host=HOST, port=sshd.port, user=getuser())
    with closing(ShellLink(where, access)) as made:
        yield made


@pytest.fixture
def screen() -> Iterator[int]:
    """A port that greets as a screen does, and then says back what it is told."""
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    line, _ = listener.accept()
                except OSError:
                    return
                with line:
                    line.sendall(GREETING)
                    while data := line.recv(1024):
                        line.sendall(data)

        server = threading.Thread(target=serve)
        server.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        server.join(PATIENCE_S)


def dial(port: int) -> socket.socket:
    line = socket.create_connection((HOST, port), timeout=PATIENCE_S)
    line.settimeout(PATIENCE_S)
    return line


def test_a_tunnel_carries_both_ways_and_again(link: ShellLink, screen: int):
    port = link.tunnels.port(HOST, screen)
    assert port not in (screen, 0)
    assert link.tunnels.port(HOST, screen) == port
    for _ in range(2):
        with dial(port) as line:
            assert line.recv(64) == GREETING
            line.sendall(b"hello")
            assert line.recv(64) == b"hello"


def test_a_tunnel_to_nobody_ends_the_line(link: ShellLink):
    with socket.create_server((HOST, 0)) as taken:
        nobody = taken.getsockname()[1]
    with dial(link.tunnels.port(HOST, nobody)) as line:
        assert line.recv(64) == b""


def test_a_closed_link_takes_no_more(link: ShellLink, screen: int):
    port = link.tunnels.port(HOST, screen)
    link.close()
    link.close()
    with pytest.raises(OSError, match="refused"):
        dial(port)


def test_commands_are_told_apart_from_their_words(link: ShellLink, tmp_path: Path):
    assert link.run(["printf", "%s", "a'b $HOME"]).text == "a'b $HOME"
    with pytest.raises(NodeFault, match="no-such-program"):
        link.run(["no-such-program"])
    with pytest.raises(TransientFault, match="in time"):
        link.run(["sleep", "30"], timeout_s=0.2)
    link.put(b"content", str(tmp_path / "file"))
    assert (tmp_path / "file").read_bytes() == b"content"
