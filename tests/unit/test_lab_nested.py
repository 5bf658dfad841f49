# SPDX-License-Identifier: Apache-2.0
"""Nested nodes: what QEMU is told, what names an image, and what a panic says."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ci.errors import ConfigError, NodeUnavailable
from nodes.images import keys
from nodes.images.machine import Shape
from nodes.lab import nested, nested_image, nested_ready, recipe
from nodes.lab.libvirt_host import PATH_LIMIT, LibvirtHost
from nodes.lab.nested import NestedNode
from nodes.lab.nested_image import NestedImage
from nodes.lab.nested_ready import Build, Saved, leased, panic, remove_older
from nodes.lab.personas import PERSONAS, Neighbour, command, persona

XEN_PANIC = """\
(XEN) Freed 656kB init memory
(XEN) ****************************************
(XEN) Panic on CPU 0:
(XEN) FATAL TRAP: vector = 13 (general protection fault)
(XEN) ****************************************
(XEN) Reboot in five seconds...
"""


def _argv(name: str, **shape: object) -> list[str]:
    kind = PERSONAS[name]
    return command(kind, Shape(memory_mib=kind.memory_mib, **shape), "memory-backend-file,id=ram")  # type: ignore[arg-type]


def _after(argv: list[str], option: str) -> str:
    return argv[argv.index(option) + 1]


@pytest.mark.parametrize("name", PERSONAS)
def test_every_persona_has_a_processor_that_emulation_bears(name: str):
    features = _after(_argv(name), "-cpu").split(",")
    assert {"+svm", "+npt", "-monitor", "-smap", "-rdtscp"} <= set(features)


@pytest.mark.parametrize("name", PERSONAS)
def test_a_node_reaches_nothing_and_is_reached_on_loopback_only(name: str):
    network = _after(_argv(name), "-netdev")
    assert "restrict=on" in network
    assert "hostfwd=tcp:127.0.0.1:0-:22" in network


def test_xen_boots_with_linux_and_its_first_stage_as_modules():
    argv = _argv("xen")
    assert _after(argv, "-kernel") == "xen"
    linux, stage = _after(argv, "-initrd").split(",")
    assert linux.startswith("vmlinuz ")
    assert "node.persona=xen" in linux
    assert stage == "initrd"
    assert "dom0_mem=640M,max:640M" in _after(argv, "-append")


def test_linux_personas_boot_the_kernel_itself():
    argv = _argv("kvm")
    assert _after(argv, "-kernel") == "vmlinuz"
    assert "node.persona=kvm" in _after(argv, "-append")


def test_a_panic_ends_qemu_instead_of_booting_for_ever():
    assert "-no-reboot" in _argv("xen")
    assert "panic=-1" in _after(_argv("kvm"), "-append")


def test_hypervisors_have_urls_and_plain_has_none():
    assert persona("xen").hypervisors("127.0.0.1", 22022) == (
        "xl+ssh://root@127.0.0.1:22022",
        "xen+ssh://root@127.0.0.1:22022/system",
    )
    assert persona("plain").hypervisors("127.0.0.1", 22022) == ()


def test_an_unknown_persona_names_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        persona("esx")
    assert "xen, kvm" in caught.value.hint


@pytest.mark.parametrize(
    ("console", "words"),
    [
        (XEN_PANIC, "Panic on CPU 0: FATAL TRAP: vector = 13 (general protection fault)"),
        (
            "[1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\n[1.1] CPU: 0",
            "Kernel panic - not syncing: VFS: Unable to mount root fs",
        ),
        (
            "(XEN) Hardware Dom0 crashed: rebooting machine in 5 seconds.\n",
            "Hardware Dom0 crashed: rebooting machine in 5 seconds.",
        ),
        ("login:", ""),
    ],
)
def test_what_a_kernel_said_when_it_gave_up(console: str, words: str):
    assert panic(console).startswith(words)
    assert bool(panic(console)) is bool(words)


def test_a_node_that_panicked_says_so(tmp_path: Path):
    (tmp_path / "console.log").write_text(XEN_PANIC)

    def gone() -> None:
        raise NodeUnavailable("the node's QEMU ended with status 0")

    with pytest.raises(NodeUnavailable, match=r"panicked: Panic on CPU 0: FATAL TRAP") as caught:
        nested_ready.with_panic(tmp_path, gone)
    assert str(tmp_path / "console.log") in caught.value.hint


def test_a_node_that_is_not_up_says_how_to_bring_it_up(tmp_path: Path):
    node = NestedNode(tmp_path, persona("xen"))
    assert not node.is_running()
    with pytest.raises(NodeUnavailable, match="does not run") as caught:
        node.endpoint()
    assert caught.value.hint == "hypervouch lab up xen"


@pytest.mark.parametrize("text", ["", "{}", '{"pid": "x"}', "[1]", '{"persona": "xen"}'])
def test_a_spoilt_record_is_a_node_that_is_not_up(tmp_path: Path, text: str):
    (tmp_path / "node.json").write_text(text)
    assert NestedNode(tmp_path, persona("xen")).record() is None


NEAR = Neighbour(
    name="kvm2",
    address="10.78.0.2",
    other="10.78.0.1",
    peer=Path("/lab/kvm"),
    shared=Path("/lab/kvm-shared"),
)


def test_only_a_node_with_a_neighbour_has_a_wire_and_a_shared_folder():
    kind = PERSONAS["kvm"]
    shape = Shape(memory_mib=kind.memory_mib)
    alone, linked = command(kind, shape, ""), command(kind, shape, "", linked=True)
    assert linked[: len(alone)] == alone
    more = " ".join(linked[len(alone) :])
    assert "remote.path=peer.sock" in more
    assert "mount_tag=shared" in more
    # What its root writes must never be root's, or a device, on this machine.
    assert "security_model=mapped" in more


def test_a_node_is_told_its_keys_its_name_and_its_address():
    fresh = keys.generate()
    word, epoch, _random, _host, _client, name, address, last = nested.personal(
        fresh, PERSONAS["kvm"], NEAR, 1234.0
    ).split()
    assert (word, epoch, last) == (b"go", b"1234", b"end")
    assert (name, address) == (b"kvm2", b"10.78.0.2")
    alone = nested.personal(fresh, PERSONAS["kvm"], None, 1234.0).split()
    assert alone[-3:] == [b"kvm", b"-", b"end"]


def test_a_neighbour_is_entered_with_the_same_key_and_keeps_its_own_host_key():
    one, other = keys.generate(), keys.generate()
    both = keys.with_client(other, one.client_private)
    assert (both.client_private, both.client_public) == (one.client_private, one.client_public)
    assert both.host_public == other.host_public
    with pytest.raises(ValueError):  # noqa: PT011 - whatever the library says
        keys.with_client(other, b"no key")


def _saved(base: Path, name: str) -> Path:
    folder = base / name
    folder.mkdir()
    (folder / "memory").write_text("RAM")
    return folder


def test_of_each_kind_of_node_only_the_newest_snapshot_stays(tmp_path: Path):
    old, older = _saved(tmp_path, "ready-kvm-000"), _saved(tmp_path, "ready-kvm-111")
    now = _saved(tmp_path, "ready-kvm-222")
    others = [_saved(tmp_path, f"ready-{kind}-333") for kind in ("xen", "kvm_linked")]
    assert remove_older(now) == (old, older)
    assert sorted(tmp_path.iterdir()) == sorted([now, *others])
    assert remove_older(now) == ()


def test_images_that_nobody_uses_go_and_those_in_use_stay(tmp_path: Path):
    now = 1_800_000_000.0
    ages = {"nested-now": 99, "nested-old": 31, "nested-other": 29, "dbfac54a5939": 99}
    for name, days in ages.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
        os.utime(tmp_path / name / "manifest.json", times=(now - days * 86400,) * 2)
    assert nested_image.remove_unused(tmp_path, "nested-now", now) == (tmp_path / "nested-old",)
    assert {path.name for path in tmp_path.iterdir()} == {*ages} - {"nested-old"}


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """A build whose snapshots are taken without QEMU."""
    made = Build(
        base=NestedImage(folder=tmp_path, fingerprint="nested-0", facts={}),
        kind=PERSONAS["kvm"],
        shape=Shape(),
    )
    monkeypatch.setattr(Build, "saved", lambda _: Saved(folder=tmp_path / "ready-kvm-now"))

    def take(_build: Build, work: Path, _deadline: float) -> None:
        (work / "memory").write_text("RAM")

    monkeypatch.setattr(nested_ready, "_take", take)
    return made


def test_a_snapshot_is_taken_once_and_takes_the_place_of_an_older_one(build: Build):
    old = _saved(build.base.folder, "ready-kvm-old")
    said: list[str] = []
    for _ in range(2):
        with leased(build, timeout_s=1.0, say=said.append) as saved:
            assert saved.ram.memory.read_text() == "RAM"
            assert not old.exists()
    assert len(said) == 1


def test_a_snapshot_that_a_start_holds_is_not_removed(build: Build):
    newer = build.base.folder / "ready-kvm-newer"
    with leased(build, timeout_s=1.0, say=str) as saved:
        newer.mkdir()
        assert remove_older(newer) == ()
        assert saved.ram.memory.exists()
    assert remove_older(newer) == (saved.folder,)
    assert not saved.folder.exists()


def test_one_that_was_removed_is_taken_again(build: Build):
    with leased(build, timeout_s=1.0, say=str) as saved:
        pass
    remove_older(build.base.folder / "ready-kvm-newer")
    assert not saved.folder.exists()
    with leased(build, timeout_s=1.0, say=str) as again:
        assert again.ram.memory.exists()


def test_the_fingerprint_follows_whatever_makes_the_image():
    base = recipe.standard()
    assert base.fingerprint == recipe.standard().fingerprint
    changed = [
        replace(base, packages=(*base.packages, "sl")),
        replace(base, modules=(*base.modules, "xfs")),
        replace(base, dropped=base.dropped[1:]),
        replace(base, guest_files={**base.guest_files, "node-init": b"#!/bin/sh\n"}),
    ]
    prints = {base.fingerprint, *(one.fingerprint for one in changed)}
    assert len(prints) == 1 + len(changed)


def test_a_libvirt_host_refuses_a_folder_whose_sockets_would_not_fit(tmp_path: Path):
    folder = tmp_path / ("x" * PATH_LIMIT)
    with pytest.raises(ConfigError, match="too long") as caught:
        LibvirtHost(folder, "a")
    assert str(PATH_LIMIT) in caught.value.hint


def test_a_libvirt_host_is_named_by_its_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nodes.lab.libvirt_host.PATH_LIMIT", 500)
    host = LibvirtHost(tmp_path / "h", "a")
    assert host.uri("lxc") == f"lxc:///system?socket={tmp_path.resolve()}/h/run/libvirt-sock"
    assert not host.is_running()
    host.stop()  # of what was never there
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"name": "a"}'])
def test_a_spoilt_note_is_a_host_that_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
):
    monkeypatch.setattr("nodes.lab.libvirt_host.PATH_LIMIT", 500)
    (tmp_path / "host.json").write_text(text)
    assert not LibvirtHost(tmp_path, "a").is_running()
