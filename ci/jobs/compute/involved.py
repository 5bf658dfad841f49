# SPDX-License-Identifier: Apache-2.0
"""What took part in a run beside the hypervisor: the adapter, its SDK, the guest, the evidence."""

import hashlib
import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from nodes.hypervisors.base import GuestImage, Hypervisor
from nodes.images import tiny

_PROGRAM = "hypervouch"


def adapter(hypervisor: Hypervisor) -> str:
    """The adapter's class, with the versions of the SDKs that it takes: `..., pyvmomi 9.1.1`."""
    kind = type(hypervisor)
    name = kind.__module__.rpartition(".")[2].partition("_")[0]
    return ", ".join([f"{kind.__module__}.{kind.__qualname__}", *_sdks(name)])


def _sdks(extra: str) -> list[str]:
    """Name and version of the distributions that one of our extras asks for."""
    found = []
    for asked in requires(_PROGRAM) or ():
        name, _, condition = asked.partition(";")
        words = re.match(r"[A-Za-z0-9._-]+", name)
        if words is None or f"extra == '{extra}'" not in condition.replace('"', "'"):
            continue
        try:
            found.append(f"{words[0]} {version(words[0])}")
        except PackageNotFoundError:
            found.append(f"{words[0]} without a version")
    return found


def guest(image: GuestImage) -> str:
    """The guest that was booted: `our tiny guest for x86_64: image ..., kernel ...`."""
    made_of = ", ".join(f"{name} {text}" for name, text in tiny.versions(image).items())
    return f"our tiny guest for {image.arch}{': ' if made_of else ''}{made_of}"


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
