# SPDX-License-Identifier: Apache-2.0
"""Preflight: is a node fit to be handed out? Asked by testinfra, in one round trip.

Disk, memory, clock, kernel, what kind of machine it is, and whether its hypervisor answers; one
with an API of its own is logged in to from here, see `nodes.health_api`.

This very machine is asked without a process: nine of them would cost more than a short suite.
The questions go out as one command: under emulation each one costs as much as all of them.
They use only what busybox has too.
"""

import functools
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
from testinfra.backend.paramiko import ParamikoBackend
from testinfra.host import Host

from ci import proc
from ci.errors import NodeUnavailable
from ci.model.node import WINDOWS, Endpoint, Transport
from nodes import daemons, health_api
from nodes.login import log_in

TIMEOUT_S = 15.0
MIN_DISK_MIB = 64
MIN_MEMORY_MIB = 64
MAX_CLOCK_SKEW_S = 60.0

_PROBE = """
cd / || exit 9
echo clock "$(date +%%s)"
echo kernel "$(uname -r)"
awk '$1 == "MemAvailable:" { print "memory", $2 }' /proc/meminfo
command -v python3 >/dev/null && echo python3 present
mkdir -p %s && touch %s && rm %s && echo workdir writable
df -Pk %s | awk 'END { print "disk", $4 }'
awk '/^(flags|Features)/ { sub(/^[^:]*: */, ""); print "flags", $0; exit }' /proc/cpuinfo
read -r b 2>/dev/null </sys/class/dmi/id/bios_version || b=
if [ -d /sys/firmware/efi ]; then echo firmware "uefi $b"; else echo firmware "bios $b"; fi
echo arch "$(uname -m)"
"""
# What it prints comes last, behind its status: any text may stand in it.
_DAEMON = """
h=$(%s 2>&1); echo status $?; echo said "$h"
"""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a node said of itself; a field is None where it did not say.

    Attributes:
        clock_skew_s: Its clock, which comes in whole seconds, minus ours half-way through.
        kernel: Release of its kernel.
        free_memory_mib: Memory that programs can have.
        free_disk_mib: Space where builds go.
        python3: Whether there is one.
        writable: Whether builds can write there.
        flags: Of its processors.
        firmware: `bios` or `uefi`, then its version where that is known.
        arch: Of its processors, as `uname -m` gives it.
        status: Exit status of the command that asks the hypervisor; empty if none was asked.
        said: What that command printed.
    """

    clock_skew_s: float | None
    kernel: str
    free_memory_mib: int | None
    free_disk_mib: int | None
    python3: bool
    writable: bool
    flags: tuple[str, ...] = field(default=())
    firmware: str = ""
    arch: str = ""
    status: str = ""
    said: str = ""

    @property
    def facts(self) -> dict[str, str]:
        """What the evidence says of the machine; nothing that is not known."""
        virt = ("nested" if "hypervisor" in self.flags else "bare") if self.flags else ""
        known = {
            "arch": self.arch,
            "virt": virt,
            "firmware": self.firmware.strip(),
            "cpu-flags": " ".join(sorted(self.flags)),
            **(daemons.versions(self.said) if self.status == "0" else {}),
        }
        return {name: value for name, value in known.items() if value}


def preflight(endpoint: Endpoint) -> dict[str, str]:
    """Look at a node before it is handed out.

    Returns:
        Facts for the evidence: kernel, free-memory-mib, free-disk-mib, clock-skew-s; virt (bare
        or nested), arch, firmware, cpu-flags where the node tells; versions of the hypervisor's
        programs where its URL leads to a daemon, or to an API that we have a password for. Of
        the machine itself nothing for a dummy, which has none, and for a Windows node, which
        its provider and its runner look at.

    Raises:
        NodeUnavailable: It cannot be reached or fails a check; the message names which.
    """
    return {**_of_the_machine(endpoint), **health_api.probe(endpoint)}


def _of_the_machine(endpoint: Endpoint) -> dict[str, str]:
    if endpoint.transport in {Transport.DUMMY, *WINDOWS}:
        return {}
    if endpoint.transport is Transport.LOCAL:
        answers = ask_this_machine(Path(endpoint.workdir), endpoint.hypervisor)
    else:
        answers = _ask_over_ssh(endpoint)
    failed = complaints(answers, endpoint.workdir)
    if daemons.asking(endpoint.hypervisor):
        said = daemons.complaint(endpoint.hypervisor, answers.status, answers.said)
        failed += [said] if said else []
    if failed:
        raise NodeUnavailable(
            f"preflight of {endpoint.host} failed: {'; '.join(failed)}", hint="mend the node"
        )
    return {
        "kernel": answers.kernel,
        "free-memory-mib": str(answers.free_memory_mib),
        "free-disk-mib": str(answers.free_disk_mib),
        "clock-skew-s": str(round(answers.clock_skew_s or 0.0)),
        **answers.facts,
    }


def ask(host: Host, workdir: str, hypervisor: str = "") -> Answers:
    """Put all questions to a testinfra host at once."""
    probe = f"{workdir}/.preflight"
    asked_at = time.time()
    daemon = daemons.asking(hypervisor)
    script = _PROBE + (_DAEMON % daemon.replace("%", "%%") if daemon else "")
    said = host.run(script, workdir, probe, probe, workdir)
    return parse(said.stdout, now=(asked_at + time.time()) / 2)


def ask_this_machine(workdir: Path, hypervisor: str = "") -> Answers:
    """The same questions to the machine that we run on; its clock is ours."""
    writable = workdir.is_dir() and os.access(workdir, os.W_OK | os.X_OK)
    memory = Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()
    flags = re.search(r"^(?:flags|Features)\s*: *(.*)", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    kind = "uefi" if Path("/sys/firmware/efi").is_dir() else "bios"
    status, heard = _ask_daemon_here(hypervisor)
    return Answers(
        clock_skew_s=0.0,
        kernel=platform.release(),
        free_memory_mib=_mib(memory[0] if memory else ""),
        free_disk_mib=shutil.disk_usage(workdir).free // (1 << 20) if writable else None,
        python3=shutil.which("python3") is not None,
        writable=writable,
        flags=tuple(flags[1].split()) if flags else (),
        firmware=f"{kind} {_text(Path('/sys/class/dmi/id/bios_version')).strip()}",
        arch=platform.machine(),
        status=status,
        said=heard,
    )


def _ask_daemon_here(hypervisor: str) -> tuple[str, str]:
    """Exit status and words of the command that asks the hypervisor of this machine."""
    command = daemons.asking(hypervisor)
    if not command:
        return "", ""
    try:
        done = proc.run(["sh", "-c", f"{command} 2>&1"], timeout_s=TIMEOUT_S, check=False)
    except proc.CommandFailed as error:
        return "", error.message
    return str(done.status), done.stdout.decode("utf-8", "replace")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def parse(text: str, *, now: float) -> Answers:
    """Read the probe's answers: one `WORD VALUE` a line; others are skipped.

    Args:
        text: What the probe printed.
        now: Our clock, seconds since the epoch.
    """
    said: dict[str, str] = {}
    text, _, heard = text.partition("\nsaid ")
    for line in text.splitlines():
        word, _, value = line.strip().partition(" ")
        said[word] = value
    clock = said.get("clock", "")
    return Answers(
        clock_skew_s=int(clock) + 0.5 - now if clock.isdecimal() else None,
        kernel=said.get("kernel", ""),
        free_memory_mib=_mib(said.get("memory", "")),
        free_disk_mib=_mib(said.get("disk", "")),
        python3="python3" in said,
        writable="workdir" in said,
        flags=tuple(said.get("flags", "").split()),
        firmware=said.get("firmware", ""),
        arch=said.get("arch", ""),
        status=said.get("status", ""),
        said=heard,
    )


def complaints(answers: Answers, workdir: str) -> list[str]:
    """What makes a node unfit, one clause each; empty when it is fit."""
    found = []
    if not answers.writable:
        found.append(f"workdir {workdir} is not writable")
    if not answers.python3:
        found.append("python3 is not installed")
    if answers.free_disk_mib is None or answers.free_disk_mib < MIN_DISK_MIB:
        found.append(f"disk has {_said(answers.free_disk_mib)} of {MIN_DISK_MIB} MiB free")
    if answers.free_memory_mib is None or answers.free_memory_mib < MIN_MEMORY_MIB:
        found.append(f"memory has {_said(answers.free_memory_mib)} of {MIN_MEMORY_MIB} MiB free")
    if answers.clock_skew_s is None:
        found.append("clock cannot be read")
    elif abs(answers.clock_skew_s) > MAX_CLOCK_SKEW_S:
        found.append(f"clock is {answers.clock_skew_s:+.0f} s off")
    return found


def _ask_over_ssh(endpoint: Endpoint) -> Answers:
    backend = PinnedBackend(endpoint)
    try:
        return ask(Host(backend), endpoint.workdir, endpoint.hypervisor)
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise NodeUnavailable(
            f"preflight of {endpoint.host} broke off: {error}", retryable=True
        ) from error
    finally:
        backend.close()


def _mib(kib: str) -> int | None:
    return int(kib) // 1024 if kib.isdecimal() else None


def _said(mib: int | None) -> str:
    return "an unknown part" if mib is None else str(mib)


_kept: ContextVar[dict[str, paramiko.SSHClient] | None] = ContextVar("kept", default=None)


@contextmanager
def one_login() -> Iterator[None]:
    """Within the block, what this thread asks of a node goes over one login, made when needed."""
    if _kept.get() is not None:
        yield
        return
    kept: dict[str, paramiko.SSHClient] = {}
    token = _kept.set(kept)
    try:
        yield
    finally:
        _kept.reset(token)
        for client in kept.values():
            client.close()


class PinnedBackend(ParamikoBackend):  # type: ignore[misc]
    """testinfra over paramiko; its own backend takes any host key it does not know."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(f"{endpoint.user}@{endpoint.host}:{endpoint.port}")
        self._endpoint = endpoint

    @functools.cached_property
    def client(self) -> paramiko.SSHClient:
        """Our own login, which refuses a key that is not pinned."""
        kept = _kept.get()
        if kept is None:
            return log_in(self._endpoint, TIMEOUT_S)
        known = self._endpoint.known_hosts
        place = f"{self._endpoint.user}@{self._endpoint.host}:{self._endpoint.port} {known}"
        found = kept.get(place)
        transport = found.get_transport() if found else None
        if found is None or transport is None or not transport.is_active():
            found = kept[place] = log_in(self._endpoint, TIMEOUT_S)
        return found

    def close(self) -> None:
        """Close the connection if there is one, unless others share it."""
        if "client" in self.__dict__ and _kept.get() is None:
            self.client.close()
