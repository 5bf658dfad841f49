# SPDX-License-Identifier: Apache-2.0
"""What hypervisors on this very machine share: its facts, checks of names, faults of its disk."""

import contextlib
import errno
import hashlib
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from nodes.hypervisors.base import PREFIX, GuestImage, HostStatus
from nodes.hypervisors.faults import CallerFault, NodeFault

_NAME = re.compile(rf"{re.escape(PREFIX)}[A-Za-z0-9-]{{1,{40 - len(PREFIX)}}}")

MOST = (1 << 31) - 1
"""MiB, or processors, that a number of 32 bits with a sign can tell."""


def status() -> HostStatus:
    """This machine, from /proc."""
    hostname = socket.gethostname()
    return HostStatus(
        hostname=hostname,
        address=_address(hostname),
        uptime_s=float(_read("uptime").split()[0]),
        memory_mib=int(_field(_read("meminfo"), "MemTotal").split()[0]) // 1024,
        cpus=os.cpu_count() or 1,
        cpu_traits=tuple(sorted(_field(_read("cpuinfo"), "flags").lower().split())),
    )


def check_name(name: str) -> None:
    """See that a guest or a volume may be called that.

    Raises:
        CallerFault: It may not.
    """
    if not _NAME.fullmatch(name):
        raise CallerFault(
            f"{name!r} is no name of ours",
            hint=f"begin with {PREFIX}, use letters, digits and -, at most 40 characters",
        )


def check_size(memory_mib: int, cpus: int) -> None:
    """See that a guest may be that large, before anybody is asked: APIs count in 32 bits.

    Raises:
        CallerFault: It may not.
    """
    for number, what in ((memory_mib, "MiB of memory"), (cpus, "processors")):
        if not 1 <= number <= MOST:
            raise CallerFault(f"{number} {what} cannot be had", hint=f"use 1 to {MOST}")


def check_disk_size(size_mib: int) -> None:
    """See that a disk may be that large, before anybody is asked.

    Raises:
        CallerFault: It may not.
    """
    if not 1 <= size_mib <= MOST:
        raise CallerFault(f"{size_mib} MiB of disk cannot be had", hint=f"use 1 to {MOST}")


def check_properties(image: GuestImage, types: frozenset[str], modes: frozenset[str]) -> None:
    """See that Glance's properties of an image fit a hypervisor, as Nova's scheduler does.

    Raises:
        CallerFault: It was made for another one.
    """
    for key, fitting in (("hypervisor_type", types), ("vm_mode", modes)):
        wanted = image.properties.get(key, "").lower()
        if wanted and wanted not in fitting:
            raise CallerFault(
                f"the image is for {key} {wanted}",
                hint=f"here it is {' or '.join(sorted(fitting))}",
            )


@contextlib.contextmanager
def claimed(where: str, name: str) -> Iterator[None]:
    """Have a name for oneself while its guest is made, among all processes of this machine.

    The claim is an abstract socket: one can bind it, and it ends with whoever did.

    Args:
        where: What the guest is of: an engine's socket.
        name: Its name.

    Raises:
        CallerFault: Somebody else makes one of that name just now.
    """
    key = hashlib.sha256(f"{where} {name}".encode()).hexdigest()[:32]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        try:
            claim.bind(f"\0hypervouch-{key}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise NodeFault(f"cannot claim the name {name}: {error.strerror}") from error
            raise CallerFault(
                f"there is a guest {name} already: it is launched just now",
                hint="choose another name",
            ) from error
        yield


def refuse_disk(image: GuestImage, what: str) -> None:
    """See that an image brings no disk, where none could be used.

    Raises:
        CallerFault: It does.
    """
    if image.disk is not None:
        raise CallerFault(f"{what} has no use for the disk image {image.disk.name}")


def need_file(path: Path | None, what: str, magics: Mapping[bytes, int]) -> Path:
    """A file of an image, after a look at its first bytes.

    Args:
        path: Where it should be.
        what: For the message: `initial RAM disk`.
        magics: Each beginning that fits, with its offset in bytes.

    Raises:
        CallerFault: The image has none, it is not there, or it is something else.
    """
    if path is None:
        raise CallerFault(f"the image has no {what}", hint="nodes.images.tiny makes one")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CallerFault(f"{what} {path} cannot be read: {error.strerror}") from error
    if not any(head[at : at + len(magic)] == magic for magic, at in magics.items()):
        raise CallerFault(f"{path} is no {what}", hint="was another format built or named?")
    return path


@contextlib.contextmanager
def disk_faults(where: Path) -> Iterator[None]:
    """Let what the disk under `where` refuses come out as the node's fault.

    Raises:
        NodeFault: No space, read-only, no permission.
    """
    try:
        yield
    except OSError as error:
        hint = "free some disk space" if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
        raise NodeFault(f"{where}: {error.strerror or error}", hint=hint) from error


def _address(hostname: str) -> str:
    """An address of this machine that others may reach, else the loopback's."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks for the route
        return str(probe.getsockname()[0])
    with contextlib.suppress(OSError):
        return socket.gethostbyname(hostname)
    return "127.0.0.1"


def _read(name: str) -> str:
    return Path("/proc", name).read_text(errors="replace")


def _field(text: str, key: str) -> str:
    """The value of the first line `key : value`, or nothing."""
    found = re.search(rf"^{key}\s*:(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else "0"
