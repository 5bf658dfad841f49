# SPDX-License-Identifier: Apache-2.0
"""The contract of `nodes.providers.base`, kept by every provider, and preflight on its nodes."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ci.errors import ConfigError, HypervouchBug, NodeUnavailable
from ci.model.node import Endpoint, Transport
from ci.model.result import Grade
from nodes.health import preflight
from nodes.images import keys, machine
from nodes.login import log_in
from nodes.providers.base import Provider
from nodes.providers.container import ContainerOptions, ContainerProvider
from nodes.providers.dummy import DummyOptions, DummyProvider
from nodes.providers.libvirt import LibvirtOptions, LibvirtProvider
from nodes.providers.local import LocalOptions, LocalProvider
from nodes.providers.openstack import OpenstackOptions, OpenstackProvider
from nodes.providers.qemu import QemuOptions, QemuProvider
from nodes.providers.static import StaticOptions, StaticProvider
from tests.kit import openstack_cloud, sshd
from tests.kit.node_sources import require_qemu
from tests.kit.openstack_stand_in import Cloud
from tests.kit.require import require

pytestmark = [
    pytest.mark.timeout(300),
    # Of its own calls to itself.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:openstack\..*"),
    pytest.mark.filterwarnings(r"ignore::PendingDeprecationWarning:openstack\..*"),
]
DISPOSABLE = {"qemu", "local", "dummy", "libvirt", "container", "openstack"}
# The last one is a stand-in for a cloud: see tests/kit/openstack_stand_in.py.
PROVIDERS = ["dummy", "local", "static", "qemu", "libvirt", "container", "openstack"]
if openstack_cloud.asked():  # a real one, whose guests may boot for minutes
    PROVIDERS += [pytest.param("openstack-cloud", marks=pytest.mark.timeout(3600))]


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


@pytest.fixture(params=PROVIDERS)
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
    elif name == "libvirt":
        options = request.getfixturevalue("lab_domains")
        made = LibvirtProvider(LibvirtOptions.model_validate(options), tmp_path)
    elif name == "container":
        options = request.getfixturevalue("docker_daemon")
        made = ContainerProvider(ContainerOptions.model_validate(options), tmp_path)
    elif name == "openstack":
        options = {**request.getfixturevalue("cloud_stand_in").options, "slots": 2}
        made = OpenstackProvider(OpenstackOptions.model_validate(options), tmp_path)
    elif name == "openstack-cloud":
        options = request.getfixturevalue("real_cloud")
        made = OpenstackProvider(OpenstackOptions.model_validate(options), tmp_path)
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
    declared_by_operator = provider.name in {"local", "static", "container"}
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
    if first.transport is Transport.SSH and provider.name in DISPOSABLE:
        assert said(first, 'echo build-1 >"$HOME/left"; cat "$HOME/left"') == "build-1\n"
    second = provider.start(node, "build-2")
    if provider.name not in DISPOSABLE:
        assert first == second, "a machine of one's own keeps what is on it"
    elif first.transport is Transport.SSH:
        assert said(second, 'cat "$HOME/left"') == ""
        if provider.name != "libvirt":  # whose snapshot has an address and keys
            with pytest.raises(NodeUnavailable):
                log_in(first, 5)
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


@pytest.fixture
def cloud(cloud_stand_in: Cloud) -> Iterator[Cloud]:
    yield cloud_stand_in
    cloud_stand_in.broken, cloud_stand_in.quota, cloud_stand_in.unwell = "", 100, 0
    cloud_stand_in.images = ["debian"]


def of_cloud(cloud: Cloud, home: Path, **changes: object) -> OpenstackProvider:
    return OpenstackProvider(
        OpenstackOptions.model_validate({**cloud.options, **changes}), home / "state"
    )


def test_what_nova_cannot_boot_is_told_and_deleted(cloud: Cloud, tmp_path: Path):
    cloud.broken = "No valid host was found."
    with pytest.raises(NodeUnavailable, match="No valid host was found"):
        of_cloud(cloud, tmp_path).start("openstack-1", "b")
    assert not cloud.servers


def test_what_the_cloud_does_not_have_is_the_operators_to_mend(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(ConfigError, match="no flavor huge"):
        of_cloud(cloud, tmp_path, flavor="huge").prepare()
    with pytest.raises(ConfigError, match="Unable to establish connection"):
        of_cloud(cloud, tmp_path, **{"auth-url": "http://127.0.0.1:1/v3"}).prepare()
    monkeypatch.setenv("OS_TEST_PASSWORD", "wrong")
    with pytest.raises(ConfigError, match="requires authentication") as refused:
        of_cloud(cloud, tmp_path).prepare()
    assert "password" in str(refused.value.hint)


def test_two_images_of_one_name_are_the_operators_to_tell_apart(cloud: Cloud, tmp_path: Path):
    cloud.images = ["debian", "debian"]
    with pytest.raises(ConfigError, match="more than one image debian") as twice:
        of_cloud(cloud, tmp_path).prepare()
    assert "id" in str(twice.value.hint)


def test_a_quota_that_is_used_up_is_said_in_the_clouds_words(cloud: Cloud, tmp_path: Path):
    cloud.quota = 0
    with pytest.raises(NodeUnavailable, match="Quota exceeded for instances") as full:
        of_cloud(cloud, tmp_path).start("openstack-1", "b")
    assert full.value.retryable
    assert "http" not in full.value.message
    assert "quota" in str(full.value.hint)


def test_a_token_that_ends_under_way_is_renewed(cloud: Cloud, tmp_path: Path):
    made = of_cloud(cloud, tmp_path)
    with made._cloud() as session:
        assert list(session.compute.servers()) == []
        cloud.tokens.clear()
        assert list(session.compute.servers()) == []


def test_a_moment_without_an_answer_costs_no_server(cloud: Cloud, tmp_path: Path):
    made = of_cloud(cloud, tmp_path)
    with made._cloud() as session:
        assert list(session.compute.servers()) == []
        cloud.unwell = 2
        assert list(session.compute.servers()) == []
    assert cloud.unwell == 0


def test_a_server_that_lets_nobody_in_says_its_last_words(cloud: Cloud, tmp_path: Path):
    made = of_cloud(cloud, tmp_path, port=1, **{"boot-timeout-s": 3})
    with pytest.raises(NodeUnavailable, match=r"cloud-init\[231\]: no datasource"):
        made.start("openstack-1", "b")
    assert made.leaked(frozenset()) == ()


def test_why_it_failed_is_not_hidden_by_a_clean_up_that_fails(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = of_cloud(cloud, tmp_path)
    stopped: list[str] = []

    def stop(node: str) -> None:
        stopped.append(node)
        if len(stopped) > 1:
            raise NodeUnavailable("the cloud is away")

    monkeypatch.setattr(made, "stop", stop)
    cloud.broken = "No valid host was found."
    with pytest.raises(NodeUnavailable, match="No valid host was found"):
        made.start("openstack-1", "b")
    monkeypatch.undo()
    assert made.leaked(frozenset()) == ("openstack-1",)
    made.stop("openstack-1")


def test_servers_of_another_installation_are_left_alone(cloud: Cloud, tmp_path: Path):
    theirs = of_cloud(cloud, tmp_path / "theirs", installation="theirs")
    theirs.start("openstack-1", "b")
    ours = of_cloud(cloud, tmp_path)
    assert ours.leaked(frozenset()) == ()
    ours.stop("openstack-1")
    assert theirs.leaked(frozenset()) == ("openstack-1",)
    theirs.stop("openstack-1")


def test_a_floating_address_goes_with_its_server(cloud: Cloud, tmp_path: Path):
    made = of_cloud(cloud, tmp_path, **{"floating-network": "outside"})
    assert preflight(made.start("openstack-1", "b"))["kernel"]
    assert len(cloud.addresses) == 1
    made.stop("openstack-1")
    assert not cloud.addresses
    assert not cloud.servers


def test_a_domain_without_the_snapshot_is_the_operators_to_mend(
    lab_domains: dict[str, Any], tmp_path: Path
):
    def prepared(**changes: object) -> None:
        options = LibvirtOptions.model_validate({**lab_domains, **changes})
        LibvirtProvider(options, tmp_path).prepare()

    with pytest.raises(ConfigError, match="has no snapshot absent"):
        prepared(snapshot="absent")
    with pytest.raises(ConfigError, match="has 0 domains named ci-"):
        prepared(domains=["ci-*"])
    with pytest.raises(ConfigError, match="libvirt: "):
        prepared(url="qemu:///system?socket=/nowhere/sock")
    prepared(domains=["hv-lab-?"])


def test_a_reverted_domain_has_our_clock_and_a_random_state_of_its_own(
    lab_domains: dict[str, Any], tmp_path: Path
):
    made = LibvirtProvider(LibvirtOptions.model_validate(lab_domains), tmp_path)
    seen = set()
    for _ in range(2):
        endpoint = made.start("libvirt-1", "b")
        assert endpoint.facts["clock-and-random"] == "renewed"
        now, random = said(endpoint, "date +%s; head -c 16 /dev/urandom | od -An -tx1").split(
            "\n", 1
        )
        assert abs(int(now) - time.time()) < 10
        seen.add(random)
    made.stop("libvirt-1")
    assert len(seen) == 2


def test_a_container_whose_image_runs_no_ssh_server_says_its_last_words(
    docker_daemon: dict[str, Any], tmp_path: Path
):
    options = {**docker_daemon, "boot-timeout-s": 3, "command": ["/bin/sh", "-c", "echo no sshd"]}
    made = ContainerProvider(ContainerOptions.model_validate(options), tmp_path)
    made.prepare()
    with pytest.raises(NodeUnavailable, match="no sshd"):
        made.start("container-1", "b")
    assert made.leaked(frozenset()) == ()


def test_a_daemon_that_is_away_is_named(tmp_path: Path):
    options = ContainerOptions(url=f"unix://{tmp_path}/sock")
    with pytest.raises(ConfigError, match="the container daemon"):
        ContainerProvider(options, tmp_path).prepare()


def test_a_spare_is_handed_out_once_with_keys_of_its_own(tmp_path: Path):
    require_qemu()
    made = QemuProvider(QemuOptions(slots=2), tmp_path)
    made.prepare()
    try:
        made.keep_spares(2)
        made.keep_spares(2)
        assert made.leaked(frozenset()) == (), "our own spares are no leaks"
        first, second = (made.start(node, "b") for node in made.node_names())
        assert [first.facts["boot"], second.facts["boot"]] == ["warm", "warm"]
        asked = "head -c 16 /dev/urandom | od -An -tx1"
        assert said(first, asked) != said(second, asked)
        assert first.known_hosts is not None
        assert second.known_hosts is not None
        pinned = {path.read_text().split()[-1] for path in (first.known_hosts, second.known_hosts)}
        assert len(pinned) == 2
        made.stop("qemu-2")
        made.keep_spares(0)
        heir = QemuProvider(QemuOptions(slots=2), tmp_path)
        assert heir.leaked(frozenset({"qemu-1"})) == ("qemu-2",), "a dead owner's spare is one"
        made.end_spares()
        assert heir.leaked(frozenset({"qemu-1"})) == ()
        made.keep_spares(2)
        assert heir.leaked(frozenset({"qemu-1"})) == (), "none is made after the end"
    finally:
        for node in made.node_names():
            made.stop(node)


def test_a_spare_that_died_costs_time_and_not_the_node(tmp_path: Path):
    require_qemu()
    made = QemuProvider(QemuOptions(slots=2), tmp_path)
    made.prepare()
    try:
        made.keep_spares(0)
        (pid, _), *_ = (
            found for n in made.node_names() for found in machine.running_in(tmp_path / n)
        )
        os.kill(pid, signal.SIGKILL)
        assert preflight(made.start("qemu-1", "b"))["kernel"]
    finally:
        for node in made.node_names():
            made.stop(node)
