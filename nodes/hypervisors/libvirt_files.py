# SPDX-License-Identifier: Apache-2.0
"""What a guest's files are made of: images looked at and converted, config drives, injection.

All of it happens on this machine; the results go to the hypervisor's host through libvirt.
"""

import base64
import functools
import gzip
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath

from ci import proc
from ci.model.feature import Feature
from nodes.hypervisors.base import DiskFormat, GuestImage
from nodes.hypervisors.faults import CallerFault, NodeFault, Unsupported
from nodes.images.initramfs import Entry, archive

CONVERT_S = 600.0
META_DATA = "openstack/latest/meta_data.json"
_ISO_TOOLS = ("genisoimage", "mkisofs", "xorrisofs")
_FOLDER, _FILE = 0o040755, 0o100644


def image_format(path: Path) -> str:
    """What qemu-img takes a disk image for; one that has not changed is looked at once.

    Raises:
        CallerFault: It cannot be read, or stands on another file.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise CallerFault(f"cannot read the disk image {path.name}: {error.strerror}") from error
    return _format(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))


@functools.lru_cache(maxsize=64)
def _format(path: Path, stamp: tuple[int, ...]) -> str:
    """The same, which takes a process; `stamp` is another one once the file has changed."""
    del stamp
    try:
        done = proc.run(["qemu-img", "info", "--output=json", str(path)], timeout_s=CONVERT_S)
    except proc.CommandFailed as error:
        raise CallerFault(f"cannot read the disk image {path.name}: {error}") from error
    told = json.loads(done.stdout)
    if told.get("backing-filename"):
        raise CallerFault(
            f"the disk image {path.name} stands on another file, {told['backing-filename']}",
            hint="flatten it: qemu-img convert -O qcow2",
        )
    return str(told["format"])


def as_qcow2(image: GuestImage) -> AbstractContextManager[Path]:
    """An image's disk in qcow2, see `converted`."""
    return converted(image, DiskFormat.QCOW2)


def as_raw(image: GuestImage) -> AbstractContextManager[Path]:
    """An image's disk byte by byte, see `converted`."""
    return converted(image, DiskFormat.RAW)


@contextmanager
def converted(image: GuestImage, wanted: DiskFormat) -> Iterator[Path]:
    """An image's disk in a format; a converted one lives as long as the block.

    Raises:
        CallerFault: There is no disk, or it has another format than the image says.
        NodeFault: It cannot be converted.
    """
    disk = image.disk
    if disk is None or not disk.is_file():
        raise CallerFault(f"the disk image {disk} is not there")
    found = image_format(disk)
    if found != image.disk_format.value:
        raise CallerFault(
            f"the disk image {disk.name} is {found}, the image says {image.disk_format}",
            hint="set the format that it has",
        )
    if image.disk_format is wanted:
        yield disk
        return
    with tempfile.TemporaryDirectory(prefix="hv-image-") as folder:
        made = Path(folder) / f"disk.{wanted}"
        form = ["-f", found, "-O", wanted.value]
        try:
            proc.run(["qemu-img", "convert", *form, str(disk), str(made)], timeout_s=CONVERT_S)
        except proc.CommandFailed as error:
            raise NodeFault(f"cannot convert {disk.name} to {wanted}: {error}") from error
        yield made


def first_bytes(disk: bytes, form: DiskFormat, count: int) -> bytes:
    """The first bytes that a guest would see on a disk, given its whole file.

    Raises:
        NodeFault: It is broken.
    """
    with tempfile.TemporaryDirectory(prefix="hv-volume-") as folder:
        source, target = Path(folder) / "source", Path(folder) / "target"
        source.write_bytes(disk)
        sizes = ["bs=512", f"count={-(-count // 512)}"]
        argv = ["qemu-img", "dd", "-f", form.value, "-O", "raw", *sizes]
        try:
            proc.run([*argv, f"if={source}", f"of={target}"], timeout_s=CONVERT_S)
        except proc.CommandFailed as error:
            raise NodeFault(f"cannot read a volume: {error}") from error
        return target.read_bytes()[:count]


def config_drive(files: Mapping[str, bytes]) -> bytes:
    """An ISO image with the label `config-2`.

    Raises:
        CallerFault: No tool for it is installed, or a path leads out of it.
    """
    with tempfile.TemporaryDirectory(prefix="hv-config-") as folder:
        root, image = Path(folder) / "root", Path(folder) / "config.iso"
        root.mkdir()
        for name, content in files.items():
            path = root / _inside(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        argv = ["-quiet", "-J", "-R", "-V", "config-2", "-o", str(image), str(root)]
        for tool in _ISO_TOOLS:
            try:
                proc.run([tool, *argv])
            except proc.CommandFailed as error:
                if error.status is None:
                    continue
                raise NodeFault(f"cannot make a config drive: {error}") from error
            return image.read_bytes()
    raise CallerFault("no tool makes ISO images here", hint="apt-get install genisoimage")


def with_tags(files: Mapping[str, bytes], devices: list[dict[str, object]]) -> dict[str, bytes]:
    """A config drive that also tells of tagged devices, as Nova's metadata does.

    Source: Nova's doc/source/user/metadata.rst, `devices` of meta_data.json.

    Raises:
        CallerFault: Its meta_data.json is no JSON object.
    """
    told = dict(files)
    try:
        meta = json.loads(told.get(META_DATA, b"{}"))
    except ValueError as error:
        raise CallerFault(f"{META_DATA} of the config drive is no JSON: {error}") from error
    if not isinstance(meta, dict):
        raise CallerFault(f"{META_DATA} of the config drive is no JSON object")
    told[META_DATA] = json.dumps(meta | {"devices": devices}).encode()
    return told


def pack_drive(files: Mapping[str, bytes], tags: Mapping[str, str]) -> bytes:
    """What a config drive was made of, to make it anew."""
    packed = {name: base64.b64encode(content).decode() for name, content in files.items()}
    return json.dumps({"files": packed, "tags": dict(tags)}).encode()


def unpack_drive(packed: bytes) -> tuple[dict[str, bytes], dict[str, str]]:
    """Files and tags of a config drive; nothing where nothing was kept."""
    told = json.loads(packed or b'{"files": {}, "tags": {}}')
    files = {name: base64.b64decode(content) for name, content in told["files"].items()}
    return files, told["tags"]


def injected(initrd: bytes, files: Mapping[str, bytes]) -> bytes:
    """An initial RAM disk with more files: the kernel unpacks one archive after the other.

    Raises:
        CallerFault: A path leads out of the root.
    """
    if not files:
        return initrd
    entries: dict[str, Entry] = {}
    for name, content in files.items():
        path = _inside(name)
        for folder in reversed(path.parents[:-1]):
            entries.setdefault(str(folder), Entry(path=str(folder), mode=_FOLDER))
        entries[str(path)] = Entry(path=str(path), mode=_FILE, content=content)
    padding = bytes(-len(initrd) % 4)
    return initrd + padding + gzip.compress(archive(entries.values()), mtime=0)


def refuse_injection(image: GuestImage, files: Mapping[str, bytes]) -> None:
    """Say that files cannot be put into a disk image.

    Raises:
        Unsupported: There are files, and the image is a disk.
    """
    if files and image.initrd is None:
        raise Unsupported(
            Feature.GUEST_SETUP_INJECT_FILE,
            "files are put into an initial RAM disk only: this adapter does not open disk images",
        )


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name.lstrip("/"))
    if ".." in path.parts or not path.parts:
        raise CallerFault(f"{name!r} is no path below the root")
    return path
