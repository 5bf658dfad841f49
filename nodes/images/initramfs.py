# SPDX-License-Identifier: Apache-2.0
"""The node's first stage: an archive of busybox, a few kernel modules and a script. Pure.

Written here and not by cpio(1), so that every file belongs to root whoever builds it and the
host needs one tool less.

Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import gzip
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

_DEPENDS = re.compile(rb"(?:^|\0)depends=([^\0]*)\0")
_DIRECTORY, _FILE, _CHARACTER_DEVICE = 0o040000, 0o100000, 0o020000
_CONSOLE = (5, 1)
_FOLDERS = ("bin", "dev", "disk", "modules")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One member of the archive; `mode` holds type and permission bits."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def archive(entries: Iterable[Entry]) -> bytes:
    """Pack entries, in order, in the kernel's `newc` format; not compressed."""
    packed = bytearray()
    for number, entry in enumerate([*entries, Entry(path="TRAILER!!!", mode=0)], start=1):
        name = entry.path.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0)
        header = b"070701" + b"".join(
            b"%08X" % field for field in (*fields, *entry.device, len(name), 0)
        )
        for part in (header + name, entry.content):
            packed += part + bytes(-len(part) % 4)
    return bytes(packed)


def dependencies(module: bytes) -> tuple[str, ...]:
    """Names of the modules that must be loaded before this one, from its .modinfo section."""
    found = _DEPENDS.search(module)
    names = found[1].decode("ascii", "replace") if found else ""
    return tuple(name for name in names.split(",") if name)


def load_order(wanted: Iterable[str], read: Callable[[str], bytes | None]) -> dict[str, bytes]:
    """The wanted modules and all they need by name, each after what it depends on.

    Args:
        wanted: Module names, with underscores.
        read: Content of a module, or None where it is built into the kernel.
    """
    order: dict[str, bytes] = {}

    def visit(name: str) -> None:
        content = None if name in order else read(name)
        if content is None:
            return
        for needed in dependencies(content):
            visit(needed.replace("-", "_"))
        order[name] = content

    for name in wanted:
        visit(name)
    return order


def first_stage(script: bytes, busybox: bytes, modules: Mapping[str, bytes]) -> bytes:
    """The compressed archive the kernel is given.

    Args:
        script: Its /init.
        busybox: A static busybox.
        modules: Content by name, in the order they are to be loaded.
    """
    folders = [Entry(path=name, mode=_DIRECTORY | 0o755) for name in _FOLDERS]
    order = "".join(f"{name}.ko\n" for name in modules).encode()
    members = [
        Entry(path="dev/console", mode=_CHARACTER_DEVICE | 0o600, device=_CONSOLE),
        Entry(path="bin/busybox", mode=_FILE | 0o755, content=busybox),
        Entry(path="init", mode=_FILE | 0o755, content=script),
        Entry(path="modules/order", mode=_FILE | 0o644, content=order),
    ]
    drivers = [
        Entry(path=f"modules/{name}.ko", mode=_FILE | 0o644, content=content)
        for name, content in modules.items()
    ]
    return gzip.compress(archive([*folders, *members, *drivers]), compresslevel=1, mtime=0)
