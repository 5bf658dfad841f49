# SPDX-License-Identifier: Apache-2.0
"""What a holder that died left running on a node that stays is ended by the next holder.

On Windows there are no records on the node, so the tests of records are not for it: over WinRM it
is the server that knows what belongs to a shell, over SSH the list of processes shows the marks.
What they say of those they cannot end is with their own tests.
"""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ci.errors import NodeUnavailable
from ci.model.node import WINDOWS, Endpoint, Transport
from ci.runners import scripts, stop
from ci.runners.stop import Grace
from tests.kit import winrs, winssh
from tests.kit.require import require
from tests.kit.sessions import Holder, Node, connect, is_alive
from tests.kit.sshd import Sshd, SshdMissing, running

# How processes may try to slip away: a child, a session of its own, a double fork into one,
# and one that stays in its session but drops the environment.
SUITE = (
    "sh hold child & setsid sh hold escaped & (setsid sh hold daemon &) &"
    " env -i PATH=$PATH sh hold bare & sh litter & wait"
)
NAMES = {"child", "escaped", "daemon", "bare", "litter"}


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    try:
        with running(tmp_path_factory.mktemp("sshd")) as daemon:
            yield daemon
    except SshdMissing as missing:
        require("sshd", present=False, why=str(missing))


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[winrs.Winrs]:
    with winrs.running(tmp_path_factory.mktemp("winrs")) as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def openssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[winssh.WinSsh]:
    try:
        with winssh.running(tmp_path_factory.mktemp("winssh")) as server:
            yield server
    except SshdMissing as missing:
        require("sshd", present=False, why=str(missing))


on_every = pytest.mark.parametrize(
    "endpoint", ["local", "ssh", "busybox", "winrm", "windows-ssh"], indirect=True
)


@pytest.fixture(params=["local", "ssh", "busybox"])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Endpoint]:
    workdir = tmp_path / "state" / "node"
    if request.param == "local":
        yield Endpoint(transport=Transport.LOCAL, workdir=str(workdir))
    elif request.param == "winrm":
        stand_in: winrs.Winrs = request.getfixturevalue("windows")
        yield stand_in.endpoint(workdir)
    elif request.param == "windows-ssh":
        server: winssh.WinSsh = request.getfixturevalue("openssh")
        yield server.endpoint(workdir)
    elif request.param == "ssh":
        daemon: Sshd = request.getfixturevalue("sshd")
        yield daemon.endpoint(workdir)
    else:
        tool = shutil.which("busybox")
        if tool is None:
            pytest.skip("busybox (apt-get install busybox)")
        tools = tmp_path / "bin"
        tools.mkdir()
        subprocess.run([tool, "--install", "-s", str(tools)], check=True)
        with running(tmp_path / "sshd", path=str(tools)) as small:
            yield small.endpoint(workdir)


@pytest.fixture
def abandoned(endpoint: Endpoint, tmp_path: Path) -> Iterator[dict[str, int]]:
    """Pids of a suite whose holder was killed while it ran."""
    folder = tmp_path / "pids"
    folder.mkdir()
    files = {
        "hold": f"echo $$ >{folder}/$1; exec sleep 120",
        "litter": f"echo $$ >{folder}/litter; trap '' INT\n"
        f"while :; do mkdir -p {endpoint.workdir}/checkout"
        f" && echo >{endpoint.workdir}/checkout/litter.txt; sleep 0.01; done 2>/dev/null",
    }
    holder = Holder(endpoint, files, SUITE)
    pids = holder.await_pids(folder, NAMES)
    holder.die()
    yield pids
    for pid in pids.values():
        if is_alive(pid):
            os.kill(pid, 9)


@pytest.fixture
def next_holder(endpoint: Endpoint) -> Iterator[Node]:
    node = connect(endpoint)
    yield node
    node.end()


def records_of(endpoint: Endpoint) -> list[Path]:
    return list(Path("/tmp").glob(f".hypervouch-{scripts.family(endpoint.workdir)}-*"))


@on_every
def test_a_dead_holders_suite_is_gone_before_the_next_tree(
    abandoned: dict[str, int], endpoint: Endpoint, next_holder: Node, tmp_path: Path
) -> None:
    assert [name for name, pid in abandoned.items() if not is_alive(pid)] == []
    assert bool(records_of(endpoint)) is (endpoint.transport not in WINDOWS)
    next_holder.put({"new.txt": b"new"})
    assert [name for name, pid in abandoned.items() if is_alive(pid)] == []
    assert records_of(endpoint) == []
    assert next_holder.run("sleep 0.1; ls") == 0
    assert bytes(next_holder.output) == b"new.txt\n"
    assert next_holder.fetch("**", to=tmp_path / "got") == ["new.txt"]


@on_every
def test_a_session_in_another_directory_is_left_alone(
    abandoned: dict[str, int], endpoint: Endpoint, next_holder: Node, tmp_path: Path
) -> None:
    neighbour = connect(replace(endpoint, workdir=f"{endpoint.workdir}2"))
    neighbour.put()
    pid_file = tmp_path / "neighbour"
    command = f"setsid sh -c 'echo $$ >{pid_file}; exec sleep 120' & wait"
    runs = threading.Thread(target=neighbour.run, args=(command,))
    runs.start()
    try:
        ends = time.monotonic() + 30
        while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < ends:
            time.sleep(0.05)
        neighbours = int(pid_file.read_text())
        next_holder.put()
        assert [name for name, pid in abandoned.items() if is_alive(pid)] == []
        assert is_alive(neighbours)
    finally:
        neighbour.session.kill()
        runs.join()
        neighbour.end()
    assert not is_alive(neighbours)


@on_every
def test_a_session_that_ended_well_leaves_nothing(endpoint: Endpoint, next_holder: Node) -> None:
    next_holder.put()
    assert next_holder.run("sleep 60 & true") == 0
    assert next_holder.run("true") == 0
    next_holder.end()
    assert records_of(endpoint) == []


def test_what_cannot_be_ended_is_named(
    abandoned: dict[str, int],
    endpoint: Endpoint,
    next_holder: Node,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(pid: int, signum: int) -> None:
        raise PermissionError

    kept = Path(endpoint.workdir) / "checkout" / "hold"
    with monkeypatch.context() as patched:
        patched.setattr(stop, "LEFTOVERS", Grace(interrupt_s=0, terminate_s=1, kill_s=1))
        patched.setattr("ci.runners.owned.os.kill", refuse)
        patched.setattr(scripts, "_PIDS", f"kill() {{ return 1; }}\n{scripts._PIDS}")
        with pytest.raises(NodeUnavailable, match="earlier build left and cannot end") as error:
            next_holder.put({"new.txt": b"new"})
    named = [name for name, pid in abandoned.items() if f"{pid} (s" in error.value.message]
    assert len(named) >= 3
    assert "more" in error.value.message
    assert error.value.hint
    assert kept.exists()
    next_holder.put({"new.txt": b"new"})
    assert not kept.exists()


@pytest.mark.parametrize("what", ["other-birth", "other-boot", "link", "words"])
def test_a_record_that_does_not_fit_harms_nobody(
    endpoint: Endpoint, next_holder: Node, tmp_path: Path, what: str
) -> None:
    bystander = subprocess.Popen(["sleep", "120"], start_new_session=True)
    fields = Path(f"/proc/{bystander.pid}/stat").read_text().rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    born = int(fields[19]) - (what == "other-birth")
    content = f"{bystander.pid} {born} {'0' if what == 'other-boot' else boot}\n"
    record = Path(scripts.record(f"{scripts.family(endpoint.workdir)}-0", 1))
    if what == "link":
        (tmp_path / "elsewhere").write_text(content)
        record.symlink_to(tmp_path / "elsewhere")
    else:
        record.write_text(f"-1 {bystander.pid} x\n" if what == "words" else content)
    try:
        next_holder.put()
        assert is_alive(bystander.pid)
        assert not record.is_symlink()
        assert not record.exists()
    finally:
        record.unlink(missing_ok=True)
        bystander.kill()
        bystander.wait()
