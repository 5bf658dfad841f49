# SPDX-License-Identifier: Apache-2.0
"""What the contract of runners leaves to OpenSSH on Windows: the shell, the grade, dead holders.

The server is a real OpenSSH of POSIX, what it runs our emulator: nothing of Windows shows here.
"""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ci.errors import ConfigError, NodeUnavailable
from ci.model.node import Endpoint
from ci.model.result import Grade
from tests.kit import winssh
from tests.kit.require import require
from tests.kit.sessions import connect, is_alive
from tests.kit.sshd import SshdMissing


@pytest.fixture(scope="module")
def openssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[winssh.WinSsh]:
    try:
        with winssh.running(tmp_path_factory.mktemp("winssh")) as server:
            yield server
    except SshdMissing as missing:
        require("sshd", present=False, why=str(missing))


@pytest.fixture
def endpoint(openssh: winssh.WinSsh, tmp_path: Path) -> Iterator[Endpoint]:
    yield openssh.endpoint(tmp_path / "node")
    openssh.misbehave()


@pytest.mark.parametrize("grade", [Grade.NONE, Grade.BARE])
def test_our_emulator_is_never_taken_for_a_windows(endpoint: Endpoint, grade: Grade) -> None:
    with pytest.raises(ConfigError, match="our emulator of Windows' OpenSSH"):
        connect(replace(endpoint, grade=grade))


def test_another_shell_than_cmd_is_refused(openssh: winssh.WinSsh, endpoint: Endpoint) -> None:
    openssh.misbehave("other-shell")
    with pytest.raises(NodeUnavailable, match=r"not cmd\.exe: it said 'hypervouch-%OS%'") as error:
        connect(endpoint)
    assert "DefaultShell" in error.value.hint


def test_what_the_shells_before_the_jobs_own_complain_of_is_in_the_log(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    node = connect(endpoint)
    node.put()
    (tmp_path / "file").write_text("")
    node.directory = str(tmp_path / "file")
    assert node.run("echo never") == 1
    assert bytes(node.output) == b"The directory name is invalid.\r\n"
    node.end()


@pytest.mark.parametrize("fault", ["deaf", "broken"])
def test_what_cannot_be_ended_is_told_and_the_tree_stays(
    openssh: winssh.WinSsh, endpoint: Endpoint, tmp_path: Path, fault: str
) -> None:
    first, second = connect(endpoint), connect(endpoint)
    first.put({"kept.txt": b"kept"})
    pid_file = tmp_path / "pid"
    # Its connection breaks, as a holder's that dies: nothing ends by that.
    command = f"echo $$ >{pid_file}; exec sleep 300"
    said: list[object] = []

    def hold() -> None:
        try:
            said.append(first.run(command))
        except NodeUnavailable as error:
            said.append(error)

    runs = threading.Thread(target=hold)
    runs.start()
    while not (pid_file.exists() and pid_file.read_text().strip()):
        runs.join(0.05)
        assert runs.is_alive()
    first.session.close()
    runs.join(60)
    pid = int(pid_file.read_text())
    try:
        assert isinstance(said[0], NodeUnavailable)
        assert is_alive(pid)
        openssh.misbehave(fault)
        named = rf"cannot end it: {pid} \(sleep\)" if fault == "deaf" else "failed with status 1"
        with pytest.raises(NodeUnavailable, match=named):
            second.put({"new.txt": b"new"})
        assert (Path(second.directory) / "kept.txt").exists()
        openssh.misbehave()
        second.put({"new.txt": b"new"})
        assert not is_alive(pid)
        assert not (Path(second.directory) / "kept.txt").exists()
    finally:
        if is_alive(pid):
            os.kill(pid, 9)
        second.end()
