# SPDX-License-Identifier: Apache-2.0
"""A real OpenSSH server whose commands go to our emulator of Windows' cmd.exe, and an endpoint."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ci.model.node import Endpoint, Transport
from ci.model.result import Grade
from tests.kit import sshd

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class WinSsh:
    """One that runs.

    Attributes:
        server: The OpenSSH server.
    """

    server: sshd.Sshd

    def endpoint(self, workdir: Path) -> Endpoint:
        """A node with that work directory."""
        return replace(
            self.server.endpoint(workdir), transport=Transport.WINDOWS_SSH, grade=Grade.EMULATOR
        )

    def misbehave(self, fault: str = "") -> None:
        """Let the emulator fail in one of its ways; without a word, no more."""
        (self.server.home / "fault").write_text(fault)


@contextmanager
def running(home: Path) -> Iterator[WinSsh]:
    """A server that answers.

    Raises:
        SshdMissing: It is not installed or does not start here.
    """
    shell = f"PYTHONPATH={ROOT} exec {sys.executable} -S -m nodes.stand_ins.winssh"
    with sshd.running(home, force=shell) as server:
        yield WinSsh(server)
