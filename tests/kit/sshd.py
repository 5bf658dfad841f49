# SPDX-License-Identifier: Apache-2.0
"""A real OpenSSH daemon on loopback with keys of its own, for one test session."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path

from ci.model.node import Endpoint, Transport

START_S = 20.0


class SshdMissing(Exception):
    """This machine cannot run an SSH daemon; the text says what is missing."""


def binary() -> str:
    """Path of the daemon.

    Raises:
        SshdMissing: It, or ssh-keygen, is not installed.
    """
    daemon = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if daemon is None:
        raise SshdMissing("sshd (apt-get install openssh-server)")
    if shutil.which("ssh-keygen") is None:
        raise SshdMissing("ssh-keygen (apt-get install openssh-client)")
    return daemon


class Sshd:
    """One daemon: address, keys, and the means to cut its connections."""

    def __init__(self, home: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.home = home
        self.port = port
        self._process = process

    @property
    def key_file(self) -> Path:
        """Private key that it lets in."""
        return self.home / "client"

    @property
    def stranger_key(self) -> Path:
        """Private key that it refuses."""
        return self.home / "stranger"

    @property
    def known_hosts(self) -> Path:
        """File with its host key."""
        return self.home / "known_hosts"

    def endpoint(self, workdir: Path) -> Endpoint:
        """How a runner reaches it."""
        return Endpoint(
            transport=Transport.SSH,
            port=self.port,
            user=getuser(),
            key_file=self.key_file,
            known_hosts=self.known_hosts,
            workdir=str(workdir),
        )

    def connections(self) -> list[int]:
        """Pids of the processes that serve a connection."""
        return _descendants(self._process.pid, named="sshd")

    def stop(self) -> None:
        """End the daemon and every process that serves one of its connections."""
        for pid in [*self.connections(), self._process.pid]:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        self._process.wait()


@contextmanager
def running(
    home: Path, path: str = "", inside: Sequence[str] = (), force: str = ""
) -> Iterator[Sshd]:
    """A daemon that answers.

    Args:
        home: Directory for keys and configuration.
        path: PATH of the commands it runs; its own by default.
        inside: What it is started by, in the same process, for instance `nsenter` and its options.
        force: What it runs instead of any command; SSH_ORIGINAL_COMMAND then holds that.

    Raises:
        SshdMissing: It is not installed or does not start here.
    """
    daemon = binary()
    home.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        # Where the daemon's unprivileged part is locked in; packages make it at boot only.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host", "client", "stranger"):
        if not (home / name).exists():
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)], check=True
            )
    port = _free_port()
    host_key = (home / "host.pub").read_text().split()[:2]
    (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(host_key)}\n")
    settings = home / "sshd_config"
    settings.write_text(config(home, port, path, force))
    with (home / "sshd.log").open("wb") as log:
        argv = [*inside, daemon, "-D", "-e", "-f", str(settings)]
        process = subprocess.Popen(argv, stderr=log)
    sshd = Sshd(home, port, process)
    try:
        _await(sshd, process)
        yield sshd
    finally:
        sshd.stop()


def config(home: Path, port: int, path: str = "", force: str = "") -> str:
    """Its configuration; what logs in finds `path` as PATH, and runs `force` only."""
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {home / 'host'}",
        f"AuthorizedKeysFile {home / 'client.pub'}",
        "PidFile none",
        "StrictModes no",
        "UsePAM no",
        "PermitRootLogin prohibit-password",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "MaxStartups 100",
        "Subsystem sftp internal-sftp",
    ]
    if force:
        lines.append(f"ForceCommand {force}")
    # The start-up files of whoever runs the tests are no part of the node.
    variables = f"SetEnv HOME={home}"
    lines.append(f"{variables} PATH={path}" if path else variables)
    return "\n".join(lines) + "\n"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _await(sshd: Sshd, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + START_S
    while time.monotonic() < ends and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", sshd.port), timeout=1) as line:
                if line.recv(4) == b"SSH-":
                    return
        except OSError:
            time.sleep(0.02)
    said = (sshd.home / "sshd.log").read_text(errors="replace").strip()
    raise SshdMissing(f"an sshd that starts: {said[-500:] or 'it did not answer'}")


def _descendants(root: int, *, named: str) -> list[int]:
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                head, _, tail = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue
            parents[int(entry.name)] = (int(tail.split()[1]), head.partition("(")[2])
    found: list[int] = []
    frontier = [root]
    while frontier:
        parent = frontier.pop()
        for pid, (above, name) in parents.items():
            if above == parent and name.startswith(named):
                found.append(pid)
                frontier.append(pid)
    return found
