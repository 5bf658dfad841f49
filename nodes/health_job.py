# SPDX-License-Identifier: Apache-2.0
"""The full health job of a node that stays: more than a preflight has time for.

Over one SSH connection by testinfra: the tools that a build needs, a work directory that takes
and gives back what is written, no file system that went read-only, inodes, no zombies in
crowds, no failed systemd unit. Then, where a trial is given, a guest on its hypervisor.
"""

from collections.abc import Callable, Iterator

import paramiko
from testinfra.host import Host

from ci.errors import NodeUnavailable
from ci.model.node import Endpoint, Transport
from nodes.health import PinnedBackend

TOOLS = ("sh", "tar", "setsid", "awk", "sed", "grep", "python3")
FREE_INODES_PERCENT = 2
ZOMBIES = 50
WRITTEN_MIB = 4

Trial = Callable[[Endpoint], dict[str, str]]
"""Puts a node's hypervisor to the proof; returns facts, raises NodeUnavailable."""

_WRITE = (
    "cd %s && head -c %s /dev/urandom >.health && a=$(md5sum <.health) && sync"
    ' && b=$(md5sum <.health); s=$?; rm -f .health; [ $s = 0 ] && [ "$a" = "$b" ]'
)


def examine(endpoint: Endpoint, trial: Trial | None = None) -> dict[str, str]:
    """Put a node through everything that a preflight leaves out.

    Args:
        endpoint: The node; its preflight has passed.
        trial: What its hypervisor has to do; None: nothing.

    Returns:
        Facts that were found.

    Raises:
        NodeUnavailable: It is not fit; names everything that is wrong.
    """
    found: dict[str, str] = {}
    if endpoint.transport is Transport.SSH:
        _examine_host(endpoint)
    if trial is not None:
        found.update(trial(endpoint))
    return found


def _examine_host(endpoint: Endpoint) -> None:
    backend = PinnedBackend(endpoint)
    try:
        wrong = list(complaints(Host(backend), endpoint.workdir))
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise NodeUnavailable(
            f"the health job of {endpoint.host} broke off: {error}", retryable=True
        ) from error
    finally:
        backend.close()
    if wrong:
        raise NodeUnavailable(f"{endpoint.host}: {'; '.join(wrong)}", hint="mend the node")


def complaints(host: Host, workdir: str) -> Iterator[str]:
    """What is wrong with a machine, one clause each."""
    missing = [tool for tool in TOOLS if not host.exists(tool)]
    if missing:
        yield f"not installed: {', '.join(missing)}"
    if host.run("python3 -c %s", "import json, socket, ssl, subprocess, venv").rc != 0:
        yield "python3 lacks modules of its standard library"
    if host.run(_WRITE, workdir, str(WRITTEN_MIB << 20)).rc != 0:
        yield f"{workdir} does not give back what was written there"
    yield from _file_systems(host, workdir)
    zombies = host.run("cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '").stdout.strip()
    if zombies.isdecimal() and int(zombies) > ZOMBIES:
        yield f"{zombies} zombie processes"
    units = host.run("[ -d /run/systemd/system ] && systemctl --failed --no-legend --plain")
    failed = [line.split()[0] for line in units.stdout.splitlines() if line.strip()]
    if failed:
        yield f"failed units: {', '.join(failed[:5])}"


def _file_systems(host: Host, workdir: str) -> Iterator[str]:
    inodes = host.run("df -Pi %s", workdir).stdout.splitlines()[-1:]
    used = inodes[0].split()[4].rstrip("%") if inodes and len(inodes[0].split()) > 4 else ""  # noqa: PLR2004
    if used.isdecimal() and 100 - int(used) < FREE_INODES_PERCENT:
        yield f"{workdir} has {100 - int(used)} % of its inodes free"
    mounts = [line.split() for line in host.run("cat /proc/mounts").stdout.splitlines()]
    disks = {"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"}
    stuck = [one[1] for one in mounts if one[2] in disks and "ro" in one[3].split(",")]
    places = [place for place in stuck if place == "/" or f"{workdir}/".startswith(f"{place}/")]
    if places:
        yield f"mounted read-only: {', '.join(places)}"
