# SPDX-License-Identifier: Apache-2.0
"""Does the hypervisor's daemon answer, and in which version: shell for the preflight. Pure.

Only URLs that a node's own programs understand are asked for: `qemu:///system`, `xen:///system`,
`lxc:///system` (also as `qemu+unix:///system?socket=PATH`), `xl:///`, `docker:///`, `podman:///`.
Any other is a name for people (`qemu:///tcg` says that the suite brings QEMU itself).
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from shlex import quote
from urllib.parse import urlsplit

from ci.errors import NodeUnavailable

ANSWER_S = 10
_LIBVIRT = {"qemu": ("/system", "/session"), "xen": ("/", "/system"), "lxc": ("/", "/system")}
_ASKED = {
    "xl": ("xl", "xl info"),
    "docker": ("docker", "docker version --format 'docker {{.Server.Version}}'"),
    "podman": ("podman", "podman version --format 'podman {{.Client.Version}}'"),
}
_LINES = {
    "libvirt": re.compile(r"^Using library: libvirt (\S+)", re.MULTILINE),
    "qemu": re.compile(r"^Running hypervisor: QEMU (\S+)", re.MULTILINE),
    "lxc": re.compile(r"^Running hypervisor: LXC (\S+)", re.MULTILINE),
    "xen": re.compile(r"^(?:Running hypervisor: Xen |xen_version *: )(\S+)", re.MULTILINE),
    "docker": re.compile(r"^docker (\S+)", re.MULTILINE),
    "podman": re.compile(r"^podman (\S+)", re.MULTILINE),
}


def asking(url: str) -> str:
    """The command that asks a node's hypervisor; empty where the URL leads to no daemon."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    system, _, way = parts.scheme.partition("+")
    if system in _LIBVIRT and way in {"", "unix"} and not parts.netloc:
        if parts.path not in _LIBVIRT[system]:
            return ""
        return f"LC_ALL=C timeout {ANSWER_S} virsh -c {quote(url)} version"
    if parts.scheme in _ASKED and not parts.netloc:
        return f"LC_ALL=C timeout {ANSWER_S} {_ASKED[parts.scheme][1]}"
    return ""


def versions(said: str) -> dict[str, str]:
    """Versions by name of the program, from what the command printed."""
    found = {name: line.search(said) for name, line in _LINES.items()}
    return {name: match[1][:80] for name, match in found.items() if match}


def complaint(url: str, status: str, said: str) -> str:
    """Why the hypervisor does not count as there; empty where it does.

    Args:
        url: As configured.
        status: The command's exit status, empty if it was not heard of.
        said: What it printed.
    """
    if status == "0":
        return ""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    why = {"124": f"no answer within {ANSWER_S} s", "127": "its program is not installed"}
    told = why.get(status) or (lines[-1][:200] if lines else f"status {status or 'unknown'}")
    return f"hypervisor {url} does not answer: {told}"


def check_pins(node: str, facts: Mapping[str, str], pinned: Mapping[str, str]) -> None:
    """Compare what a node said with the versions that the configuration pins.

    Args:
        node: For the message.
        facts: By name.
        pinned: Patterns like `9.*`, by the same names.

    Raises:
        NodeUnavailable: One differs, or the node did not tell it; names wanted and found.
    """
    wrong = [
        f"{name} is {facts.get(name) or 'not known'}, pinned is {wanted}"
        for name, wanted in sorted(pinned.items())
        if not fnmatchcase(facts.get(name, ""), wanted)
    ]
    if wrong:
        raise NodeUnavailable(
            f"{node} has other versions than pinned: {'; '.join(wrong)}",
            hint="bring the node to the pinned version, or change `pinned` of its provider",
        )
