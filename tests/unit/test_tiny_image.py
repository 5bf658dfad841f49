# SPDX-License-Identifier: Apache-2.0
"""The tiny guest's files: what is in them, and that another mark is another guest."""

import gzip
import io
import tarfile
from importlib.resources import files
from pathlib import Path

import pytest

from ci.errors import ConfigError
from nodes.hypervisors.base import GuestImage
from nodes.images import initramfs, tiny
from nodes.images.initramfs import Entry


@pytest.fixture
def image(tmp_path: Path) -> GuestImage:
    """The guest's own files around a busybox that is none."""
    system = list(tiny._system(b"busybox"))
    (tmp_path / "initrd").write_bytes(gzip.compress(initramfs.archive(system)))
    (tmp_path / "root.tar").write_bytes(tiny._tar(system))
    return GuestImage(initrd=tmp_path / "initrd", root=tmp_path / "root.tar")


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        names = archive.getnames()
        assert len(names) == len(set(names)), "Docker refuses a path that comes twice"
        return {one.name: one for one in archive}


def test_a_container_has_an_init_a_shell_and_an_agent(image: GuestImage) -> None:
    assert image.root is not None
    found = members(image.root)
    assert found["bin/sh"].linkname == "busybox"
    for name in ("bin/busybox", "sbin/init", "sbin/tiny-agent", "usr/sbin/chpasswd"):
        assert found[name].mode == 0o755
    assert found["etc/shadow"].mode == 0o600
    assert {one.uid for one in found.values()} == {0}


def test_there_is_no_secret_in_it(image: GuestImage) -> None:
    assert image.root is not None
    with tarfile.open(image.root) as archive:
        shadow = archive.extractfile("etc/shadow")
        assert shadow is not None
        assert shadow.read().startswith(b"root:*:")


def test_folders_come_before_what_is_in_them(image: GuestImage) -> None:
    assert image.root is not None
    seen = {""}
    for name in members(image.root):
        assert name.rpartition("/")[0] in seen
        seen.add(name)


def test_a_mark_is_seen_in_both_forms_and_leaves_the_original(
    image: GuestImage, tmp_path: Path
) -> None:
    assert image.root is not None
    assert image.initrd is not None
    before = image.initrd.read_bytes(), image.root.read_bytes()
    folder = tmp_path / "other"
    folder.mkdir()
    other = tiny.marked(image, "other", folder)
    assert (image.initrd.read_bytes(), image.root.read_bytes()) == before
    assert other.root is not None
    assert other.initrd is not None
    members(other.root)
    with tarfile.open(other.root) as archive:
        mark = archive.extractfile("etc/image")
        assert mark is not None
        assert mark.read() == b"other\n"
    # The kernel reads archives one after the other, as gzip does with its members.
    whole = gzip.GzipFile(fileobj=io.BytesIO(other.initrd.read_bytes())).read()
    assert whole.startswith(gzip.decompress(before[0]))
    assert whole.endswith(
        initramfs.archive([Entry(path="etc/image", mode=0o100644, content=b"other\n")])
    )


def test_each_architecture_has_a_guest_of_its_own() -> None:
    prints = {tiny.fingerprint(arch) for arch in tiny.ARCHITECTURES}
    assert len(prints) == len(tiny.ARCHITECTURES)
    assert all(len(one) == 12 for one in prints)


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tiny guest for vax"):
        tiny.tiny(tmp_path, "vax")


def test_the_agent_answers_every_command_that_the_client_names() -> None:
    script = (files("nodes.images") / "guest" / "tiny-agent").read_text()
    for verb in ("ping", "info", "counter", "cpus", "mem", "disks", "nics", "md5", "write"):
        assert f"    {verb})" in script
    for verb in ("read", "hold", "flood", "configdrive", "exec", "poweroff | reboot"):
        assert f"    {verb})" in script
