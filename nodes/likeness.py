# SPDX-License-Identifier: Apache-2.0
"""What two nodes must have in common for their results to be compared. Pure.

Words for people, then a digest. What stands in it: evidence grade, hypervisor, bare or nested
machine, processor architecture, major versions of the hypervisor's programs, the kernel's
first two numbers, kind of firmware; and, in the digest alone, the processor's flags. Not in it:
what differs between machines that do the same (memory, disk, names) and updates that only mend.
See docs/explanation/verdicts.md and docs/adr/0023.
"""

import hashlib
import re
from collections.abc import Mapping

from ci.model.result import Grade

PROGRAMS = (
    *("libvirt", "qemu", "xen", "docker", "podman", "uml", "lxc"),
    *("vcenter", "windows", "zvmconnector", "redfish"),
)
_VERSION = re.compile(r"(\d+)(\.\d+)+\S*")


def likeness(grade: Grade, hypervisor: str, facts: Mapping[str, str]) -> str:
    """One line that is equal for nodes whose results may be compared.

    Args:
        grade: How real the hypervisor is.
        hypervisor: What runs there: a URL, or words.
        facts: What the node said of itself when it was handed out.
    """
    words = [grade.value, _system(hypervisor)]
    words += [facts[name] for name in ("virt", "arch") if facts.get(name)]
    words += [f"{name} {_parts(facts[name], 1)}" for name in PROGRAMS if facts.get(name)]
    if facts.get("kernel"):
        words.append(f"Linux {_parts(facts['kernel'], 2)}")
    if facts.get("firmware"):
        words.append(facts["firmware"].split()[0])
    text = ", ".join(words)
    flags = " ".join(sorted(facts.get("cpu-flags", "").split()))
    return f"{text} ({hashlib.sha256(f'{text}|{flags}'.encode()).hexdigest()[:8]})"


def _system(hypervisor: str) -> str:
    """A URL's scheme with its path, or the words with major versions only."""
    if "://" in hypervisor:
        scheme, _, rest = hypervisor.partition("://")
        return f"{scheme}:{rest[rest.find('/') :] if '/' in rest else ''}"
    return _VERSION.sub(r"\1", hypervisor) or "no hypervisor"


def _parts(version: str, count: int) -> str:
    """The first numbers of a version; the words themselves where there is none."""
    found = re.search(r"\d+(?:\.\d+)*", version)
    return ".".join(found[0].split(".")[:count]) if found else version
