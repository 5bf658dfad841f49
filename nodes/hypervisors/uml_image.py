# SPDX-License-Identifier: Apache-2.0
"""What a User Mode Linux guest boots: the image's initial RAM disk, our additions after it.

The kernel unpacks any number of archives one after another, so that files are injected and
User Mode Linux's own drivers are added without unpacking anything.
"""

from collections.abc import Mapping
from pathlib import Path

from nodes.hypervisors import local
from nodes.hypervisors.base import GuestImage
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.libvirt_files import injected
from nodes.images.initramfs import load_order

# gzip, newc, xz, zstd, lz4
_MAGICS = (b"\x1f\x8b", b"070701", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18")
_DRIVERS = ("isofs",)
_MODULES = Path("/usr/lib/uml/modules")


def check(image: GuestImage, types: frozenset[str], modes: frozenset[str]) -> Path:
    """The initial RAM disk of an image that fits.

    Raises:
        CallerFault: It has none, or is for another machine or hypervisor.
    """
    local.check_properties(image, types, modes)
    local.refuse_disk(image, "User Mode Linux")
    if image.arch != "x86_64":
        raise CallerFault(f"User Mode Linux boots x86_64 here, not {image.arch}")
    return local.need_file(image.initrd, "initial RAM disk", dict.fromkeys(_MAGICS, 0))


def write_initrd(target: Path, image: GuestImage, release: str, files: Mapping[str, bytes]) -> None:
    """Write the image's initial RAM disk with drivers of a kernel release and files after it.

    Raises:
        OSError: There is no space.
        CallerFault: The path of a file leads out of the root.
    """
    base = image.initrd.read_bytes() if image.initrd else b""
    drivers = _drivers(_MODULES / release, release)
    target.write_bytes(injected(base, {**drivers, **files}))


def _drivers(folder: Path, release: str) -> dict[str, bytes]:
    """The drivers where the guest's init looks for them, instead of another kernel's."""
    paths = {path.stem.replace("-", "_"): path for path in folder.rglob("*.ko")}

    def read(name: str) -> bytes | None:
        return paths[name].read_bytes() if name in paths else None

    modules = load_order(_DRIVERS, read)
    order = "".join(f"{name}.ko\n" for name in modules).encode()
    lists = {"modules/order": order, "modules/kernel": f"{release}\n".encode()}
    return {f"modules/{name}.ko": content for name, content in modules.items()} | lists
