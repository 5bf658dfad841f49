# SPDX-License-Identifier: Apache-2.0
"""The contract of `nodes.providers.base`, kept by every provider, and preflight on its nodes."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ci.errors import HypervouchBug, NodeUnavailable
from ci.model.node import Endpoint, Transport
from ci.model.result import Grade
from nodes.health import preflight
from nodes.images import keys, machine
from nodes.images.build import missing_tools
from nodes.login import log_in
from nodes.providers.base import Provider
from nodes.providers.dummy import DummyOptions, DummyProvider
from nodes.providers.local import LocalOptions, LocalProvider
from nodes.providers.qemu import QemuOptions, QemuProvider
from nodes.providers.static import StaticOptions, StaticProvider
from tests.kit import sshd
from tests.kit.require import require

pytestmark = pytest.mark.timeout(300)
DISPOSABLE = {"qemu", "local", "dummy"}


def require_qemu() -> None:
    missing = missing_tools()
    require("qemu", present=not missing, why=f"apt-get install {' '.join(missing)}")


def static_provider(home: Path) -> StaticProvider:
    return StaticProvider(
        StaticOptions.model_validate(
            {
                "name": "static",
                "slots": 2,
                "host": "127.0.0.1",
                "port": int((home / "port").read_text()),
                "user": (home / "user").read_text(),
                "key-file": home / "client",
                "known-hosts": home / "known_hosts",
                "workdir": f"{home}/work",
            }
        ),
        home / "state",
    )


@pytest.fixture(params=["dummy", "local", "static", "qemu"])
def provider(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Provider]:
    name = request.param
    made: Provider
    if name == "dummy":
        made = DummyProvider(DummyOptions(), tmp_path)
    elif name == "local":
        made = LocalProvider(LocalOptions(slots=2), tmp_path)
    elif name == "qemu":
        require_qemu()
        made = QemuProvider(QemuOptions(), tmp_path)
    else:
        yield from served_by_sshd(tmp_path)
        return
    made.prepare()
    yield made
    for node in made.node_names():
        made.stop(node)


def served_by_sshd(home: Path) -> Iterator[Provider]:
    try:
        with sshd.running(home) as server:
            (home / "port").write_text(str(server.port))
            (home / "user").write_text(server.endpoint(home).user)
            made = static_provider(home)
            made.prepare()
            yield made
    except sshd.SshdMissing as missing:
        require("sshd", present=False, why=str(missing))


def test_names_are_stable_and_distinct(provider: Provider):
    names = provider.node_names()
    assert names == provider.node_names()
    assert len(set(names)) == len(names) == 2
    assert all(name.startswith(f"{provider.name}-") for name in names)


def test_a_started_node_passes_preflight_and_stop_may_be_repeated(provider: Provider):
    node = provider.node_names()[0]
    provider.stop(node)
    provider.prepare()
    endpoint = provider.start(node, "build-1")
    facts = preflight(endpoint)
    assert facts or endpoint.transport is Transport.DUMMY
    assert endpoint.workdir.startswith("/")
    # What nobody declared is graded none: only a provider that makes its machines knows better.
    declared_by_operator = provider.name in {"local", "static"}
    assert (endpoint.grade is Grade.NONE) == declared_by_operator
    provider.stop(node)
    provider.stop(node)
    assert provider.leaked(frozenset()) == ()


def test_a_node_that_nobody_holds_is_leaked_until_it_is_stopped(provider: Provider):
    node, other = provider.node_names()
    provider.start(node, "build-1")
    assert provider.leaked(frozenset({node, other})) == ()
    expected = (node,) if provider.name in DISPOSABLE else ()
    assert provider.leaked(frozenset()) == expected
    assert provider.leaked(frozenset({other})) == expected
    provider.stop(node)
    assert provider.leaked(frozenset()) == ()


def test_a_start_throws_away_what_the_last_holder_left(provider: Provider):
    node = provider.node_names()[0]
    first = provider.start(node, "build-1")
    second = provider.start(node, "build-2")
    if provider.name not in DISPOSABLE:
        assert first == second, "a machine of one's own keeps what is on it"
    elif first.transport is Transport.SSH:
        with pytest.raises(NodeUnavailable):
            log_in(first, 5)
        assert first.port != second.port or first.facts != second.facts
    elif first.transport is Transport.LOCAL:
        assert list(Path(second.workdir).iterdir()) == []


def test_two_nodes_do_not_share_a_workdir_or_a_machine(provider: Provider):
    first, second = (provider.start(node, "build") for node in provider.node_names())
    place: Callable[[Endpoint], object] = lambda end: (end.host, end.port, end.workdir)  # noqa: E731
    assert place(first) != place(second)


def test_a_dummy_fails_as_often_as_it_is_told_to(tmp_path: Path):
    made = DummyProvider(DummyOptions(fail_starts=2), tmp_path)
    for _ in range(2):
        with pytest.raises(NodeUnavailable, match="told to fail"):
            made.start("dummy-1", "b")
    assert made.start("dummy-1", "b").grade is Grade.EMULATOR
    made.die("dummy-1")
    assert not made.alive("dummy-1")
    with pytest.raises(HypervouchBug):
        made.start("dummy-9", "b")


def test_a_static_node_that_is_down_is_unavailable(tmp_path: Path):
    options = {"host": "127.0.0.1", "port": 1, "key-file": "k", "known-hosts": "h"}
    made = StaticProvider(StaticOptions.model_validate(options), tmp_path)
    with pytest.raises(NodeUnavailable, match=r"127\.0\.0\.1:1 does not answer"):
        made.start("static-1", "b")


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[QemuProvider]:
    require_qemu()
    made = QemuProvider(QemuOptions(slots=1), tmp_path)
    made.prepare()
    yield made
    made.stop("qemu-1")


def said(endpoint: Endpoint, command: str) -> str:
    with log_in(endpoint, 15) as client:
        _, output, _ = client.exec_command(command, timeout=30)
        return output.read().decode()


def test_a_restored_node_has_its_own_clock_keys_and_random_state(qemu: QemuProvider):
    seen = []
    for _ in range(2):
        endpoint = qemu.start("qemu-1", "b")
        assert endpoint.facts["boot"] == "restored"
        assert endpoint.known_hosts is not None
        now, random = said(endpoint, "date +%s; head -c 16 /dev/urandom | od -An -tx1").split(
            "\n", 1
        )
        assert abs(int(now) - time.time()) < 5
        seen.append((random, endpoint.known_hosts.read_text().split()[-1]))
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]


def test_a_node_says_what_it_is_and_has_what_suites_need(qemu: QemuProvider):
    endpoint = qemu.start("qemu-1", "b")
    assert (endpoint.hypervisor, endpoint.grade) == ("qemu:///tcg", Grade.NESTED)
    assert said(endpoint, "cat /etc/hypervouch-node").startswith("image=" + endpoint.facts["image"])
    programs = "bash python3 qemu-system-x86_64 qemu-img setsid sh tar pytest ps df"
    assert (
        said(endpoint, f"for p in {programs}; do command -v $p >/dev/null || echo $p; done") == ""
    )


def test_a_node_reaches_no_service_of_this_machine(qemu: QemuProvider):
    endpoint = qemu.start("qemu-1", "b")
    probe = (
        "import socket\n"
        f"s = socket.socket(); s.settimeout(3); print(s.connect_ex(('10.0.2.2', {endpoint.port})))"
    )
    assert said(endpoint, f'python3 -c "{probe}"').strip() != "0"


def test_a_host_key_that_is_not_the_pinned_one_is_refused(qemu: QemuProvider, tmp_path: Path):
    endpoint = qemu.start("qemu-1", "b")
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    _, known_hosts = keys.generate().write(elsewhere, endpoint.host, endpoint.port)
    with pytest.raises(NodeUnavailable, match="does not match"):
        preflight(replace(endpoint, known_hosts=known_hosts))


def test_preflight_names_what_fails(qemu: QemuProvider):
    endpoint = qemu.start("qemu-1", "b")
    said(endpoint, "date -u -s @1000000000")
    with pytest.raises(NodeUnavailable, match="clock is -"):
        preflight(endpoint)
    with pytest.raises(NodeUnavailable, match="workdir /proc/nowhere is not writable"):
        preflight(replace(endpoint, workdir="/proc/nowhere"))


def test_a_damaged_snapshot_costs_time_and_not_the_node(qemu: QemuProvider, tmp_path: Path):
    snapshot = qemu._ready
    assert snapshot is not None
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name in ("disk.qcow2", "memory"):
        (damaged / name).symlink_to(snapshot.folder / name)
    (damaged / "state").write_bytes(b"not a migration stream")
    qemu._ready = replace(snapshot, folder=damaged)
    assert qemu.start("qemu-1", "b").facts["boot"] == "cold"


def test_an_owner_that_was_killed_leaves_a_node_that_the_next_one_ends(qemu: QemuProvider):
    qemu.start("qemu-1", "b")
    heir = QemuProvider(QemuOptions(slots=1), qemu._state)
    running = list(machine.running_in(qemu._folder("qemu-1")))
    assert len(running) == 1
    assert heir.leaked(frozenset()) == ("qemu-1",)
    heir.stop("qemu-1")
    assert heir.leaked(frozenset()) == ()
    assert list(machine.running_in(qemu._folder("qemu-1"))) == []


def test_a_node_that_dies_is_noticed_and_can_be_started_again(qemu: QemuProvider):
    endpoint = qemu.start("qemu-1", "b")
    pid, _ = next(machine.running_in(qemu._folder("qemu-1")))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(NodeUnavailable):
        preflight(endpoint)
    assert preflight(qemu.start("qemu-1", "c"))["kernel"]


def test_a_machine_that_cannot_start_says_why(tmp_path: Path):
    require_qemu()
    with pytest.raises(NodeUnavailable, match=r"No such file"):
        machine.Machine(
            tmp_path,
            [machine.BINARY, "-drive", "file=absent.qcow2", "-display", "none"],
            time.monotonic() + 10,
        )
