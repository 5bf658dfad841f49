# SPDX-License-Identifier: Apache-2.0
"""A Docker daemon of a test session's own: no bridge and no firewall rules of this machine."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

START_S = 90.0
STOP_S = 60.0


class DockerMissing(Exception):
    """This machine cannot run a Docker daemon; the text says why."""


@dataclass(frozen=True, kw_only=True)
class DockerHost:
    """A daemon that answers; its containers use this machine's network."""

    url: str
    pid: int


@contextmanager
def running() -> Iterator[DockerHost]:
    """A daemon with folders of its own.

    Raises:
        DockerMissing: It is not installed, or does not start here.
    """
    for program in ("dockerd", "containerd", "runc", "unshare", "setpriv"):
        if shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin") is None:
            raise DockerMissing(f"{program} is not installed: apt-get install docker.io")
    if os.geteuid() != 0:
        raise DockerMissing("it needs root")
    home = Path(tempfile.mkdtemp(prefix="hv-docker-"))
    argv = ["setpriv", "--pdeathsig", "TERM"]  # a test session that is killed takes it along
    argv += ["unshare", "--mount", "--propagation", "private", "dockerd"]
    argv += ["--data-root", str(home / "data"), "--exec-root", str(home / "exec")]
    argv += ["--pidfile", str(home / "pid"), "--host", f"unix://{home / 'sock'}"]
    argv += ["--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"]
    with (home / "log").open("wb") as log:
        daemon = subprocess.Popen(
            argv, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _await(daemon, home)
        yield DockerHost(url=f"unix://{home / 'sock'}", pid=daemon.pid)
    finally:
        _end(daemon)
        shutil.rmtree(home, ignore_errors=True)


def _await(daemon: subprocess.Popen[bytes], home: Path) -> None:
    ends = time.monotonic() + START_S
    while time.monotonic() < ends and daemon.poll() is None:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(5)
            try:
                link.connect(str(home / "sock"))
                link.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                if b"200" in link.recv(200):
                    return
            except OSError:
                time.sleep(0.1)
    said = (home / "log").read_text(errors="replace").strip()
    raise DockerMissing(f"dockerd did not start: {said[-300:] or 'it said nothing'}")


def _end(daemon: subprocess.Popen[bytes]) -> None:
    """Let it end its containers and itself; what is left of its group is killed."""
    if daemon.poll() is None:
        daemon.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(daemon.pid, signal.SIGKILL)
    daemon.wait()
