# SPDX-License-Identifier: Apache-2.0
"""An iSCSI target on loopback, for as long as a test takes: Debian's `tgtd`, a program like any.

It listens on 127.0.0.1 alone, on a port and with a control socket of its own, so that it does not
meet another one. Hypervisors on other machines do not reach it.
"""

import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from ci import proc
from ci.jobs.compute.bench import MIB, not_tried
from nodes.hypervisors.base import DiskFormat, Volume

_SIZE_MIB = 24
_START_S = 20.0
_COMMAND_S = 20.0
_IQN = "iqn.2026-01.test.hypervouch"
_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
_SHORTEST_SECRET, _LONGEST_SECRET = 12, 16


@dataclass
class Target:
    """A running target.

    Attributes:
        folder: Holds the volumes' bytes.
        port: Where it listens on loopback.
        control: Number of its control socket.
    """

    folder: Path
    port: int
    control: int
    _made: list[str] = field(default_factory=list)

    def volume(self, name: str, *, user: str = "", secret: str = "") -> Volume:
        """Offer an empty volume; with `user` only to whom knows the secret (12 to 16 letters)."""
        self._made.append(name)
        number, iqn = str(len(self._made)), f"{_IQN}:{name}"
        file = self.folder / name
        with file.open("wb") as made:
            made.truncate(_SIZE_MIB * MIB)
        this = ("--tid", number)
        self._admin("target", "new", *this, "--targetname", iqn)
        lun = ("--lun", "1", "--backing-store", str(file))
        self._admin("logicalunit", "new", *this, *lun)
        if user:
            self._admin("account", "new", "--user", user, "--password", secret)
            self._admin("account", "bind", *this, "--user", user)
        self._admin("target", "bind", *this, "--initiator-address", "ALL")
        return Volume(
            name=name,
            size_mib=_SIZE_MIB,
            format=DiskFormat.RAW,
            source=f"iscsi://127.0.0.1:{self.port}/{iqn}/1",
            user=user,
            secret=secret,
        )

    def content(self, volume: Volume, count: int) -> bytes:
        """The first bytes of a volume, as they are stored here."""
        with (self.folder / volume.name).open("rb") as file:
            return file.read(count)

    def _admin(self, mode: str, verb: str, *more: str) -> None:
        _tgtadm(self.control, "--mode", mode, "--op", verb, *more)


@contextmanager
def running_target() -> Iterator[Target]:
    """Run one; leaves the test (`not tried`) where that cannot be."""
    tgtd = shutil.which("tgtd", path=f"{os.environ.get('PATH', os.defpath)}:{_PATH}")
    if tgtd is None:
        not_tried("needs an iSCSI target: apt-get install tgt")
    if os.geteuid() != 0:
        not_tried("an iSCSI target needs root")
    folder = Path(tempfile.mkdtemp(prefix="hv-iscsi-"))
    port, control = _free_port(), 10_000 + secrets.randbelow(20_000)
    argv = [tgtd, "--foreground", "--control-port", str(control)]
    argv += ["--iscsi", f"portal=127.0.0.1:{port}"]
    process = None
    try:
        with (folder / "log").open("wb") as log:
            process = proc.spawn(argv, stdout=log)
        _await(process, folder, control)
        yield Target(folder, port, control)
    finally:
        if process is not None:
            proc.kill_group(process.pid)
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _await(process: proc.Process, folder: Path, control: int) -> None:
    for _ in proc.wait_until(time.monotonic() + _START_S, every_s=0.1):
        if process.poll() is not None:
            break
        try:
            _tgtadm(control, "--mode", "sys", "--op", "show")
        except proc.CommandFailed:
            continue
        return
    _gives_up((folder / "log").read_text(errors="replace"))


def _gives_up(said: str) -> NoReturn:
    last = said.strip().splitlines()[-1:] or ["it said nothing"]
    not_tried(f"the iSCSI target did not start: {last[0]}")


def _tgtadm(control: int, *argv: str) -> None:
    line = ["tgtadm", "--lld", "iscsi", "--control-port", str(control), *argv]
    path = f"{os.environ.get('PATH', os.defpath)}:{_PATH}"
    proc.run(line, timeout_s=_COMMAND_S, env={**os.environ, "PATH": path})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
