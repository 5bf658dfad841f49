# SPDX-License-Identifier: Apache-2.0
"""What the base image is made of: fingerprint, package list, first-stage archive."""

import gzip
from dataclasses import replace

import pytest

from nodes.images import initramfs, recipe
from nodes.images.packages import Package, parse_uris


def module(*depends: str) -> bytes:
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(depends).encode() + b"\0retpoline=Y\0"


def members(packed: bytes) -> dict[str, tuple[int, bytes]]:
    found, at = {}, 0
    while True:
        fields = [int(packed[at + 6 + 8 * k : at + 14 + 8 * k], 16) for k in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = packed[at + 110 : at + 110 + name_size - 1].decode()
        start = at + -(-(110 + name_size) // 4) * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, packed[start : start + size])
        at = start + -(-size // 4) * 4


def test_the_fingerprint_changes_with_any_part_and_only_then():
    base = recipe.standard()
    others = [
        replace(base, packages=(*base.packages, "git")),
        replace(base, modules=base.modules[:-1]),
        replace(base, dropped=()),
        replace(base, guest_files={**base.guest_files, "stage1": b"other"}),
    ]
    prints = {base.fingerprint, *(other.fingerprint for other in others)}
    assert len(prints) == 5
    assert recipe.standard().fingerprint == base.fingerprint
    assert len(base.fingerprint) == 12


def test_guest_files_are_scripts_with_a_licence():
    for name, content in recipe.standard().guest_files.items():
        assert b"SPDX-License-Identifier: Apache-2.0" in content, name


def test_apt_uris_are_read_with_and_without_a_hash():
    text = (
        "Reading package lists...\n"
        "'http://m/a/libc6_2.36-9_amd64.deb' libc6_2.36-9_amd64.deb 2759320 SHA256:00ff\n"
        "'http://m/q/qemu_1%253a7.2_amd64.deb' qemu_1%3a7.2_amd64.deb 12 \n"
        "'http://m/x' x\n"
    )
    assert parse_uris(text) == (
        Package(file_name="libc6_2.36-9_amd64.deb", size_bytes=2759320),
        Package(file_name="qemu_1%3a7.2_amd64.deb", size_bytes=12),
    )
    assert parse_uris(text)[1].name == "qemu"
    assert parse_uris(text)[1].version == "1:7.2"


def test_modules_come_after_what_they_depend_on():
    modules = {
        "virtio_net": module("net_failover", "virtio"),
        "net_failover": module("failover"),
        "failover": module(),
        "virtio": module("virtio_ring"),
        "virtio_ring": module(),
    }
    order = list(initramfs.load_order(["virtio_net", "ext4", "virtio"], modules.get))
    assert sorted(order) == sorted(modules)
    for name in order:
        for needed in initramfs.dependencies(modules[name]):
            assert order.index(needed) < order.index(name)


def test_hyphens_in_a_dependency_are_found_by_underscore():
    modules = {"a": module("b-c"), "b_c": module()}
    assert list(initramfs.load_order(["a"], modules.get)) == ["b_c", "a"]


@pytest.mark.parametrize("content", [b"", b"no modinfo", b"\0depends=\0"])
def test_a_module_without_dependencies_has_none(content: bytes):
    assert initramfs.dependencies(content) == ()


def test_the_first_stage_holds_what_it_loads_and_belongs_to_root():
    packed = initramfs.first_stage(b"#!script\n", b"busy", {"b": b"one", "a": b"three"})
    assert packed == initramfs.first_stage(b"#!script\n", b"busy", {"b": b"one", "a": b"three"})
    found = members(gzip.decompress(packed))
    assert found["init"] == (0o100755, b"#!script\n")
    assert found["bin/busybox"][1] == b"busy"
    assert found["modules/order"][1] == b"b.ko\na.ko\n"
    assert found["modules/a.ko"][1] == b"three"
    assert found["dev"][0] == 0o040755
    assert found["dev/console"][0] == 0o020600
