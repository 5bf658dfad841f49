# SPDX-License-Identifier: Apache-2.0
"""One contract for all runners: in memory, on this machine, over SSH to a real sshd, and Windows.

The counterparts of WinRM and of OpenSSH on Windows are emulators: they run POSIX command lines
where Windows runs its own.
"""

import io
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci.cancel import CancelToken
from ci.errors import (
    BuildCanceled,
    CollectError,
    ConfigError,
    HypervouchBug,
    HypervouchError,
    NodeUnavailable,
    RunTimeout,
    StorageError,
)
from ci.model.node import Endpoint, Transport
from ci.runners.scripts import family
from ci.runners.table import runner_for
from tests.kit import winrs, winssh
from tests.kit.require import require
from tests.kit.sessions import GRACE, Node, is_alive, tar_of, within
from tests.kit.sshd import Sshd, SshdMissing, running

REAL = ("local", "ssh", "winrm", "windows-ssh")
EVERY = ("dummy", *REAL)


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


@pytest.fixture
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Endpoint:
    kind: str = request.param
    if kind == "winrm":
        stand_in: winrs.Winrs = request.getfixturevalue("windows")
        return stand_in.endpoint(tmp_path / "node")
    if kind == "windows-ssh":
        server: winssh.WinSsh = request.getfixturevalue("openssh")
        return server.endpoint(tmp_path / "node")
    if kind == "ssh":
        daemon: Sshd = request.getfixturevalue("sshd")
        return daemon.endpoint(tmp_path / "node")
    return Endpoint(transport=Transport(kind), workdir=str(tmp_path / "node"))


@pytest.fixture
def node(endpoint: Endpoint) -> Iterator[Node]:
    session = runner_for(endpoint.transport).connect(endpoint, within(), grace=GRACE)
    try:
        yield Node(session, endpoint.workdir)
    finally:
        session.kill()
        session.close()
        session.close()


def later(seconds: float, call: Any) -> threading.Timer:
    timer = threading.Timer(seconds, call)
    timer.start()
    return timer


on_every = pytest.mark.parametrize("endpoint", EVERY, indirect=True)
on_real = pytest.mark.parametrize("endpoint", REAL, indirect=True)
# What `ChannelSession` does for a node over SSH is the same for OpenSSH on Windows.
on_others = pytest.mark.parametrize("endpoint", REAL[:3], indirect=True)
on_remote = pytest.mark.parametrize("endpoint", ["ssh", "winrm"], indirect=True)
on_ssh = pytest.mark.parametrize("endpoint", ["ssh"], indirect=True)


@on_every
def test_output_and_exit_status(node: Node) -> None:
    node.put()
    assert node.run("true") == 0
    assert node.run("echo hello; exit 3") == 3
    assert bytes(node.output) == b"hello\n"


@on_every
def test_fetches_what_matches(node: Node, tmp_path: Path) -> None:
    node.put({"r/a.xml": b"<a/>", "r/b.txt": b"b", "r/deep/c.xml": b"<c/>", "d.xml": b"d"})
    assert node.fetch("r/*.xml", to=tmp_path / "one") == ["r/a.xml"]
    assert (tmp_path / "one/r/a.xml").read_bytes() == b"<a/>"
    assert node.fetch("**/*.xml", to=tmp_path / "two") == ["d.xml", "r/a.xml", "r/deep/c.xml"]
    assert node.fetch("r/", to=tmp_path / "all") == ["r/a.xml", "r/b.txt", "r/deep/c.xml"]
    assert node.fetch("nothing/*", to=tmp_path / "none") == []


@on_every
def test_the_limit_leaves_files_behind_and_names_them(node: Node, tmp_path: Path) -> None:
    node.put({"a.log": b"a" * 400, "b.log": b"b" * 5_000, "c.log": b"c" * 400})
    with pytest.raises(CollectError, match=r"left on the node: 'b\.log'") as error:
        node.fetch("*.log", to=tmp_path / "got", limit_bytes=1_000)
    assert not error.value.retryable
    assert sorted(p.name for p in (tmp_path / "got").iterdir()) == ["a.log", "c.log"]


@pytest.mark.parametrize("endpoint", EVERY[:4], indirect=True)
def test_a_tree_replaces_the_one_before(node: Node, tmp_path: Path) -> None:
    node.put({"old.txt": b"old"})
    node.put({"new.txt": b"new"})
    assert node.fetch("*", to=tmp_path / "got") == ["new.txt"]


@on_every
def test_the_deadline_ends_a_command(node: Node) -> None:
    node.put()
    with pytest.raises(RunTimeout, match=r"did not end within 0\.3 s"):
        node.run("sleep 60", deadline=within(0.3))
    assert node.run("true") == 0


@on_every
def test_a_cancel_ends_a_command_with_its_cause(node: Node) -> None:
    node.put()
    cancel = CancelToken()
    timer = later(0.2, lambda: cancel.cancel(BuildCanceled("superseded")))
    start = time.monotonic()
    with pytest.raises(BuildCanceled, match="superseded"):
        node.run("echo begun; sleep 60", cancel=cancel)
    timer.join()
    assert time.monotonic() - start < 10
    assert bytes(node.output).startswith(b"begun\n")
    with pytest.raises(BuildCanceled):
        node.run("true", cancel=cancel)


@on_every
def test_kill_from_another_thread_ends_run(node: Node, tmp_path: Path) -> None:
    node.put()
    node.session.kill()
    timer = later(0.3, node.session.kill)
    assert node.run("sleep 60") != 0
    timer.join()
    node.session.kill()
    assert node.fetch("*", to=tmp_path / "got") == ["a.txt"]


@on_every
def test_an_invalid_variable_is_refused(node: Node) -> None:
    node.put()
    with pytest.raises(ConfigError):
        node.run("true", env={"A; touch b": "x"})


@pytest.mark.parametrize("endpoint", EVERY[:4], indirect=True)
@pytest.mark.parametrize("directory", ["/", "relative", "/tmp/../etc", "/tmp", ""])
def test_a_directory_that_must_not_be_emptied(node: Node, directory: str) -> None:
    with pytest.raises(ConfigError):
        node.session.put_tree(tar_of({}), directory, within())


@on_real
def test_output_is_merged_in_order_and_stdin_is_closed(node: Node, endpoint: Endpoint) -> None:
    node.put()
    # WinRM has two streams; only that of each is in order.
    pause = "; sleep 0.5" if endpoint.transport is Transport.WINRM else ""
    assert node.run(f"echo a{pause}; echo b >&2{pause}; echo c; cat; pwd") == 0
    assert bytes(node.output).decode().splitlines() == ["a", "b", "c", node.directory]


@on_real
def test_variables_reach_the_command_as_they_are(node: Node, endpoint: Endpoint) -> None:
    node.put()
    value = 'it\'s $HOME `id` "x" 100% %OS% ^& !x!\n\\ ü'
    if endpoint.transport is Transport.WINDOWS_SSH:
        with pytest.raises(ConfigError, match="variable V holds a line break"):
            node.run("true", env={"V": value})
        value = value.replace("\n", "\t")
    assert node.run('printf %s "$V"', env={"V": value}) == 0
    assert bytes(node.output).decode() == value


@on_real
def test_our_own_variables_do_not_leak(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GERRIT_PASSWORD", "s3cret-value")
    node.put()
    assert node.run("env") == 0
    assert b"s3cret-value" not in node.output


@on_others
@pytest.mark.parametrize(("name", "number"), [("KILL", 9), ("TERM", 15), ("SEGV", 11)])
def test_a_signal_is_128_and_its_number(node: Node, name: str, number: int) -> None:
    node.put()
    assert node.run(f"kill -s {name} $$") == 128 + number


@on_others
def test_binary_output_passes_unchanged(node: Node) -> None:
    every_byte = bytes(range(256)) * 8
    node.put({"bytes": every_byte})
    assert node.run("cat bytes") == 0
    assert bytes(node.output) == every_byte


@on_others
def test_twenty_megabytes_pass(node: Node) -> None:
    node.put()
    start = time.monotonic()
    assert node.run("head -c 20000000 /dev/zero") == 0
    assert len(node.output) == 20_000_000
    assert time.monotonic() - start < 10


@on_others
def test_a_slow_sink_does_not_lose_output(node: Node) -> None:
    node.put()

    def slow(chunk: bytes) -> None:
        node.output.extend(chunk)
        time.sleep(0.002)

    assert node.run("head -c 6000000 /dev/zero; echo; echo end", sink=slow) == 0
    assert bytes(node.output[-5:]) == b"\nend\n"


@on_others
def test_a_sink_that_fails_ends_the_command(node: Node, tmp_path: Path) -> None:
    node.put()

    def full(chunk: bytes) -> None:
        raise StorageError("disk full")

    with pytest.raises(StorageError, match="disk full"):
        node.run(f"echo $$ >{tmp_path}/pid; echo x; sleep 60", sink=full)
    assert not is_alive(int((tmp_path / "pid").read_text()))


@on_real
def test_a_cancel_ends_grandchildren_and_those_who_left(node: Node, tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    node.put(
        {
            "hold": f"echo $$ >{tmp_path}/pids/$1; exec sleep 300".encode(),
            "nest": b"sh hold grandchild & wait",
        }
    )
    command = "sh hold child & sh nest & setsid sh hold escaped & trap '' INT; wait"
    cancel = CancelToken()
    timer = later(1.5, lambda: cancel.cancel(BuildCanceled("abandoned")))
    with pytest.raises(BuildCanceled):
        node.run(command, cancel=cancel)
    timer.join()
    pids = {path.name: int(path.read_text()) for path in (tmp_path / "pids").iterdir()}
    assert set(pids) == {"child", "grandchild", "escaped"}
    assert not [name for name, pid in pids.items() if is_alive(pid)]


@on_others
def test_a_command_that_ignores_signals_is_killed(node: Node, tmp_path: Path) -> None:
    node.put()
    command = f"trap '' INT TERM; echo $$ >{tmp_path}/pid; while :; do sleep 1; done"
    with pytest.raises(RunTimeout):
        node.run(command, deadline=within(0.5))
    assert not is_alive(int((tmp_path / "pid").read_text()))


@on_others
def test_an_interrupted_command_may_say_why(node: Node) -> None:
    node.put()
    with pytest.raises(RunTimeout):
        node.run(
            "trap 'echo tidied; exit 1' INT; while :; do sleep 0.1; done", deadline=within(0.5)
        )
    assert bytes(node.output) == b"tidied\n"


@on_real
def test_a_daemon_left_behind_does_not_hold_run_but_kill_finds_it(
    node: Node, endpoint: Endpoint, tmp_path: Path
) -> None:
    node.put()
    up = f"while [ ! -s {tmp_path}/pid ]; do sleep 0.05; done; echo up"
    start = time.monotonic()
    assert node.run(f"setsid sh -c 'echo $$ >{tmp_path}/pid; exec sleep 300' & {up}") == 0
    assert time.monotonic() - start < 8
    pid = int((tmp_path / "pid").read_text())
    # OpenSSH on Windows ends it with the command's cmd.exe.
    assert is_alive(pid) is (endpoint.transport is not Transport.WINDOWS_SSH)
    assert node.run("true") == 0
    node.session.kill()
    assert not is_alive(pid)


@on_real
def test_links_and_special_files_stay_behind(node: Node, tmp_path: Path) -> None:
    node.put()
    node.run(
        "mkdir r; echo ok >r/ok.xml; ln -s /etc/passwd r/link.xml; mkfifo r/fifo.xml;"
        " ln -s / r/root; ln -s /etc r/etc.xml"
    )
    with pytest.raises(CollectError, match="left on the node") as error:
        node.fetch("r/**/*.xml", "r/root/etc/*", to=tmp_path / "got")
    for name in ("link", "fifo", "etc"):
        assert f"r/{name}.xml" in error.value.message
    assert [p.name for p in (tmp_path / "got").rglob("*") if not p.is_dir()] == ["ok.xml"]


@on_real
def test_hostile_names_stay_behind(node: Node, tmp_path: Path) -> None:
    node.put()
    node.run(
        "mkdir r; echo 1 >'r/--checkpoint-action=exec=sh x.log';"
        " echo 1 >\"r/a$(printf '\\n.')b.log\";"
        " echo 1 >\"r/$(printf '\\377').log\"; echo 1 >'r/$(id)`id`;x.log'; echo 1 >r/-x.log;"
        " echo 1 >\"r/$(printf '\\033')[31m.log\""
    )
    with pytest.raises(CollectError, match="not safe") as error:
        node.fetch("r/*.log", to=tmp_path / "got")
    assert error.value.message.isprintable()
    assert error.value.message.isascii()
    assert sorted(p.name for p in (tmp_path / "got" / "r").iterdir()) == [
        "$(id)`id`;x.log",
        "--checkpoint-action=exec=sh x.log",
        "-x.log",
    ]


@on_others
def test_a_huge_sparse_file_costs_nothing(node: Node, tmp_path: Path) -> None:
    node.put()
    node.run("truncate -s 50G bomb.log; echo small >a.log")
    start = time.monotonic()
    with pytest.raises(CollectError, match=r"bomb\.log"):
        node.fetch("*.log", to=tmp_path / "got")
    assert time.monotonic() - start < 5
    assert (tmp_path / "got" / "a.log").read_text() == "small\n"


@on_real
def test_a_directory_that_is_gone(node: Node, tmp_path: Path) -> None:
    node.put()
    node.run(f"cd / && rm -rf {node.directory}")
    with pytest.raises(CollectError, match="is not there"):
        node.fetch("*", to=tmp_path / "got")


@on_real
def test_a_tree_that_is_no_tar(node: Node) -> None:
    with pytest.raises(NodeUnavailable, match="could not unpack the tree"):
        node.session.put_tree(io.BytesIO(b"no tar at all" * 1000), node.directory, within())


@pytest.mark.parametrize("endpoint", EVERY[:4], indirect=True)
def test_a_second_tree_lies_beside_the_first(node: Node, tmp_path: Path) -> None:
    beside = f"{node.directory}-depends"
    node.session.put_tree(tar_of({"acme/os/left": b"of an earlier build\n"}), beside, within())
    node.put({"results/a.xml": b"a\n"})
    node.session.put_tree(tar_of({"acme/os/b.txt": b"b\n"}), beside, within())
    assert node.run("true", env={"HYPERVOUCH_DEPENDS_DIR": beside}) == 0
    assert node.fetch("**", to=tmp_path / "got") == ["results/a.xml"]
    home = tmp_path / "beside"
    found = node.session.fetch(["**"], directory=beside, target=home, limit_bytes=1000)
    assert [str(path) for path in found] == ["acme/os/b.txt"]


@on_others
def test_a_large_tree_arrives_whole(node: Node) -> None:
    content = os.urandom(3_000_000)
    node.put({f"d{n}/file": content for n in range(4)})
    assert node.run("cat d*/file | wc -c") == 0
    assert int(node.output) == 12_000_000


@on_ssh
def test_a_broken_connection_is_the_nodes_fault(node: Node, sshd: Sshd, tmp_path: Path) -> None:
    node.put()

    def cut() -> None:
        for pid in sshd.connections():
            os.kill(pid, 9)

    timer = later(0.5, cut)
    with pytest.raises(NodeUnavailable, match="broke while a command ran"):
        node.run(f"echo $$ >{tmp_path}/pid; exec sleep 300")
    timer.join()
    os.kill(int((tmp_path / "pid").read_text()), 9)
    node.session.kill()
    record = f".hypervouch-{family(str(tmp_path / 'node'))}-*"
    ends = time.monotonic() + 10
    while list(Path("/tmp").glob(record)) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not list(Path("/tmp").glob(record))
    with pytest.raises(NodeUnavailable):
        node.run("true")
    with pytest.raises(NodeUnavailable):
        node.put()
    with pytest.raises(CollectError) as error:
        node.fetch("*", to=tmp_path / "got")
    assert error.value.retryable


@on_ssh
def test_a_node_that_hangs_is_bounded_by_the_deadline(
    node: Node, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci.runners.ssh_channel.CHANNEL_S", 1.0)
    node.put()

    def stop() -> None:
        for pid in sshd.connections():
            os.kill(pid, 19)

    timer = later(0.3, stop)
    start = time.monotonic()
    try:
        with pytest.raises(NodeUnavailable, match="could not be told to stop"):
            node.run("sleep 2", deadline=within(1.0))
    finally:
        timer.join()
        for pid in sshd.connections():
            os.kill(pid, 18)
    assert time.monotonic() - start < 8


@pytest.fixture
def busybox_node(tmp_path: Path) -> Iterator[Node]:
    """A node whose tools are busybox's own."""
    tool = shutil.which("busybox")
    if tool is None:
        pytest.skip("busybox (apt-get install busybox)")
    tools = tmp_path / "bin"
    tools.mkdir()
    subprocess.run([tool, "--install", "-s", str(tools)], check=True)
    try:
        with running(tmp_path / "sshd", path=str(tools)) as daemon:
            endpoint = daemon.endpoint(tmp_path / "node")
            session = runner_for(Transport.SSH).connect(endpoint, within(), grace=GRACE)
            yield Node(session, endpoint.workdir)
            session.close()
    except SshdMissing as missing:
        require("sshd", present=False, why=str(missing))


def test_a_busybox_node_keeps_the_contract(busybox_node: Node, tmp_path: Path) -> None:
    node = busybox_node
    node.put({"r/a.xml": b"<a/>", "r/d/b.xml": b"<b/>", "big.xml": b"x" * 5_000})
    assert node.run("readlink -f $(which tar); exit 3") == 3
    assert b"busybox" in node.output
    assert node.run("kill -s KILL $$") == 137
    with pytest.raises(CollectError, match=r"big\.xml"):
        node.fetch("**/*.xml", to=tmp_path / "got", limit_bytes=1_000)
    assert sorted(p.name for p in (tmp_path / "got").rglob("*.xml")) == ["a.xml", "b.xml"]
    note = f"echo $$ >{tmp_path}/pid-$0; trap '' INT; while :; do sleep 1; done"
    with pytest.raises(RunTimeout):
        node.run(f"setsid sh -c '{note.replace('$0', 'x')}' & {note}", deadline=within(1))
    pids = [int(path.read_text()) for path in tmp_path.glob("pid-*")]
    assert len(pids) == 2
    assert not any(is_alive(pid) for pid in pids)


@on_remote
def test_the_nodes_process_list_shows_no_variable(node: Node) -> None:
    node.put()
    # Some of the processes end while they are looked at.
    node.run("cat /proc/[0-9]*/cmdline", env={"PIN": "top-secret-value"})
    assert b"cat /proc/[0-9]*/cmdline" in node.output, "the list shows not even who reads it"
    assert b"top-secret-value" not in node.output


@on_ssh
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("unknown", "host key that is not pinned"),
        ("other", "another host key"),
        ("stranger", "refuses our key"),
        ("no-key", "cannot be tried"),
        ("port", "does not answer"),
    ],
)
def test_who_is_not_who_they_should_be(
    endpoint: Endpoint, sshd: Sshd, tmp_path: Path, change: str, text: str
) -> None:
    hosts = tmp_path / "hosts"
    key = (sshd.home / "stranger.pub").read_text().split()[:2]
    hosts.write_text(f"[127.0.0.1]:{sshd.port} {' '.join(key)}\n" if change == "other" else "")
    wrong = {
        "unknown": replace(endpoint, known_hosts=hosts),
        "other": replace(endpoint, known_hosts=hosts),
        "stranger": replace(endpoint, key_file=sshd.stranger_key),
        "no-key": replace(endpoint, key_file=tmp_path / "absent"),
        "port": replace(endpoint, port=1),
    }[change]
    with pytest.raises(NodeUnavailable, match=text) as error:
        runner_for(Transport.SSH).connect(wrong, within())
    assert error.value.hint


@on_ssh
def test_an_endpoint_without_a_pinned_key_is_a_mistake(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigError):
        runner_for(Transport.SSH).connect(replace(endpoint, known_hosts=None), within())


@pytest.mark.parametrize("endpoint", ["dummy"], indirect=True)
def test_the_dummy_is_steered_and_watches_the_order(node: Node, tmp_path: Path) -> None:
    with pytest.raises(HypervouchBug, match="before put_tree"):
        node.run("true")
    node.put()
    assert node.run("nonsense") == 127
    assert node.run("write-junit r.xml pass=2 fail=test_resume; exit 1") == 1
    assert node.fetch("*.xml", to=tmp_path / "got") == ["r.xml"]
    node.run("flood 1000000")
    assert len(node.output) > 1_000_000
    with pytest.raises(NodeUnavailable):
        node.run("die")
    with pytest.raises(NodeUnavailable):
        node.run("true")
    node.session.close()
    with pytest.raises(HypervouchBug, match=r"after close\(\)"):
        node.run("true")


@pytest.mark.parametrize("endpoint", ["dummy"], indirect=True)
def test_the_dummy_refuses_on_request(endpoint: Endpoint) -> None:
    runner = runner_for(Transport.DUMMY)
    with pytest.raises(NodeUnavailable):
        runner.connect(replace(endpoint, facts={"dummy": "refuse"}), within())
    full = runner.connect(replace(endpoint, facts={"dummy": "full"}), within())
    with pytest.raises(NodeUnavailable, match="no space"):
        full.put_tree(tar_of({}), endpoint.workdir + "/x", within())


@on_every
def test_a_passed_deadline_is_an_error_at_once(endpoint: Endpoint) -> None:
    with pytest.raises(HypervouchError):
        runner_for(endpoint.transport).connect(endpoint, within(0)).put_tree(
            tar_of({"a": b"a"}), f"{endpoint.workdir}/x", within(0)
        )
