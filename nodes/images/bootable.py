# SPDX-License-Identifier: Apache-2.0
"""A disk that UEFI boots, made of a kernel and an initial RAM disk; nothing is mounted for it.

Hypervisors that know neither kernel nor RAM disk (vCenter, Hyper-V, XenServer, a bare machine)
boot the tiny guest from it: one EFI system partition with one file, systemd's boot stub around
kernel, RAM disk and command line.

Source: the Unified Kernel Image specification of the UAPI group, its sections' names.
"""

import hashlib
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from ci import proc
from ci.errors import ConfigError
from nodes.hypervisors.base import DiskFormat, GuestImage
from nodes.images import tree
from nodes.images.build import Progress, default_cache, locked
from nodes.images.packages import PackageSource

# The agent is on the first serial line. The second, where a log is kept, gets the kernel's words
# as an early console that stays: of two ordinary ones, Linux takes only the first. There the tiny
# guest also writes what its agent says.
ARGUMENTS = (
    "earlycon=uart8250,io,0x2f8,115200 keep_bootcon console=tty0 console=ttyS0,115200 "
    "tiny.log=ttyS1"
)
FIRMWARE, UEFI = "hw_firmware_type", "uefi"  # Glance's property of such an image
_TOOLS = {
    "objcopy": "binutils",
    "mformat": "mtools",
    "mmd": "mtools",
    "mcopy": "mtools",
    "sfdisk": "fdisk",
}
_STUBS = {
    "x86_64": ("linuxx64.efi.stub", "BOOTX64.EFI"),
    "aarch64": ("linuxaa64.efi.stub", "BOOTAA64.EFI"),
}
_PACKAGE = "systemd-boot-efi"
_MIB = 1 << 20
_SECTOR = 512
_START = _MIB // _SECTOR
_SPARE = 4 * _MIB
_LEAST = 40 * _MIB  # FAT32 takes so many clusters
_SECTION_ALIGN = 1 << 20
_FIRST_SECTION = 0x100_0000  # past all of the stub's own
_REVISION = 1


def missing_tools() -> tuple[str, ...]:
    """Debian packages that it needs and this machine has not."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    lacks = (package for tool, package in _TOOLS.items() if not shutil.which(tool, path=path))
    return tuple(dict.fromkeys(lacks))


def bootable(
    image: GuestImage,
    cache: Path | None = None,
    arguments: str = "",
    progress: Progress | None = None,
) -> GuestImage:
    """The same guest with a raw disk besides, marked as booting by UEFI; cached or built.

    Args:
        image: With kernel and initial RAM disk, as `nodes.images.tiny` gives it.
        cache: Cache folder; the user's own by default.
        arguments: For the kernel, after those of the consoles.
        progress: Told one short sentence before each stage.

    Raises:
        ConfigError: The image or a tool is missing, or packages cannot be fetched.
    """
    if image.kernel is None or image.initrd is None or image.arch not in _STUBS:
        raise ConfigError(f"no UEFI disk can be made of an image for {image.arch} without a kernel")
    if lacks := missing_tools():
        raise ConfigError(
            "tools that make a disk are missing", hint=f"apt-get install {' '.join(lacks)}"
        )
    say = progress or (lambda _sentence: None)
    cache = cache or default_cache()
    line = f"{ARGUMENTS} {arguments}".strip()
    digest = hashlib.sha256(f"bootable {_REVISION} {line}".encode())
    for part in (image.kernel, image.initrd):
        digest.update(hashlib.sha256(part.read_bytes()).digest())
    disk = cache / "images" / f"bootable-{digest.hexdigest()[:12]}.raw"
    if not disk.is_file():
        disk.parent.mkdir(parents=True, exist_ok=True)
        with locked(cache / "images" / ".bootable.lock", lambda: say("waiting for a builder")):
            if not disk.is_file():
                _build(image, line, disk, cache, say)
    told = {**image.properties, FIRMWARE: UEFI}
    return replace(image, disk=disk, disk_format=DiskFormat.RAW, properties=told)


def _build(image: GuestImage, line: str, disk: Path, cache: Path, say: Progress) -> None:
    stub_name, program_name = _STUBS[image.arch]
    with tempfile.TemporaryDirectory(prefix=".bootable-", dir=disk.parent) as folder:
        work = Path(folder)
        say("fetching systemd's boot stub")
        store = cache / "packages"
        with locked(store / ".lock"):
            tree.unpack(
                (p for p in PackageSource(store).fetch([_PACKAGE]) if p.name.startswith(_PACKAGE)),
                work / "tree",
            )
        say("writing a disk that UEFI boots")
        stub = work / "tree/usr/lib/systemd/boot/efi" / stub_name
        program = _unified(stub, image, line, work)
        _write(program, program_name, work / "disk")
        (work / "disk").rename(disk)


def _unified(stub: Path, image: GuestImage, line: str, work: Path) -> Path:
    """Stub, command line, kernel and RAM disk in one program."""
    (work / "line").write_text(line)
    parts = {".cmdline": work / "line", ".linux": image.kernel, ".initrd": image.initrd}
    argv, address = ["objcopy"], _FIRST_SECTION
    for name, path in parts.items():
        argv += ["--add-section", f"{name}={path}", "--change-section-vma", f"{name}={address:#x}"]
        size = path.stat().st_size if path else 0
        address += -(-size // _SECTION_ALIGN) * _SECTION_ALIGN + _SECTION_ALIGN
    program = work / "program.efi"
    proc.run([*argv, str(stub), str(program)], timeout_s=120)
    return program


def _write(program: Path, name: str, disk: Path) -> None:
    """A GPT with one EFI system partition that holds the program."""
    wanted = max(program.stat().st_size + _SPARE, _LEAST)
    sectors = -(-wanted // _MIB) * _MIB // _SECTOR
    with disk.open("wb") as file:
        file.truncate((sectors + 2 * _START) * _SECTOR)
    with tempfile.NamedTemporaryFile("w", suffix=".sfdisk") as script:
        script.write(f"label: gpt\nstart={_START}, size={sectors}, type=uefi\n")
        script.flush()
        path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        shell = 'exec sfdisk --quiet "$1" <"$2"'
        proc.run(["sh", "-c", shell, "sh", str(disk), script.name], env={"PATH": path})
    inside = f"{disk}@@{_START * _SECTOR}"
    proc.run(["mformat", "-i", inside, "-T", str(sectors), "-F", "-v", "TINY", "::"])
    proc.run(["mmd", "-i", inside, "::/EFI", "::/EFI/BOOT"])
    proc.run(["mcopy", "-i", inside, str(program), f"::/EFI/BOOT/{name}"])
