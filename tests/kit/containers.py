# SPDX-License-Identifier: Apache-2.0
"""Container engines of a test's own: a Docker daemon or Podman's API service with its own folders.

Each runs in a network and a mount namespace of its own: its bridges and firewall rules never
reach the machine's. A test asks for the fixtures `docker_socket` and `podman_socket`.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from ci.model.result import Grade
from nodes.hypervisors.base import Access, Hypervisor
from nodes.hypervisors.table import connect
from tests.kit.require import require

START_S = 120.0
STOP_S = 60.0
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
_PROGRAMS = {
    "docker": {"dockerd": "docker.io", "containerd": "containerd", "runc": "runc"},
    "podman": {"podman": "podman", "runc": "runc", "conmon": "conmon"},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give whichever test starts an engine the time that it takes on a busy machine."""
    for item in items:
        if {"docker_socket", "podman_socket"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.timeout(300), append=False)


@pytest.fixture(scope="session")
def docker_socket() -> Iterator[Path]:
    """The socket of a Docker daemon."""
    with engine("docker") as path:
        yield path


@pytest.fixture(scope="session")
def podman_socket() -> Iterator[Path]:
    """The socket of Podman's API service."""
    with engine("podman") as path:
        yield path


@contextmanager
def docker(work: Path) -> Iterator[Hypervisor]:
    """For the contract: an adapter on a Docker daemon."""
    with _connected("docker", work) as made:
        yield made


@contextmanager
def podman(work: Path) -> Iterator[Hypervisor]:
    """For the contract: an adapter on Podman's API service."""
    with _connected("podman", work) as made:
        yield made


@contextmanager
def _connected(kind: str, work: Path) -> Iterator[Hypervisor]:
    with engine(kind) as path:
        access = Access(work=work, grade=Grade.BARE, timeout_s=120.0)
        with closing(connect(f"{kind}://{path}", access)) as made:
            yield made


@contextmanager
def engine(kind: str) -> Iterator[Path]:
    """An engine that answers, by its socket; everything of it is gone afterwards."""
    with home_of(kind) as home, started(kind, home) as path:
        yield path


@contextmanager
def home_of(kind: str) -> Iterator[Path]:
    """A folder for an engine that can run here."""
    lacks = [
        package for tool, package in _PROGRAMS[kind].items() if not shutil.which(tool, path=_path())
    ]
    require(kind, present=not lacks, why=f"apt-get install {' '.join(lacks)}")
    require(kind, present=os.geteuid() == 0, why="needs root: it runs in namespaces")
    home = Path(tempfile.mkdtemp(prefix=f"hv-{kind}-"))
    try:
        yield home
    finally:
        ends = time.monotonic() + STOP_S
        while home.exists() and time.monotonic() < ends:  # what was killed may still be ending
            shutil.rmtree(home, ignore_errors=True)
            time.sleep(0.05)


@contextmanager
def started(kind: str, home: Path) -> Iterator[Path]:
    """The engine of a folder, by its socket."""
    words = " ".join(command(kind, home))
    argv = ["unshare", "--net", "--mount", "--propagation", "private"]
    argv += ["sh", "-c", f"ip link set lo up; exec {words}"]
    for stale in ("pid", "exec/containerd/containerd.pid", "exec/containerd/containerd.sock"):
        (home / stale).unlink(missing_ok=True)  # else dockerd waits 15 s for a dead containerd
    for last in (False, False, True):  # dockerd gives containerd 15 s, on any machine
        with (home / "log").open("wb") as log:
            daemon = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PATH": _path()},
            )
        try:
            if not _answers(daemon, home):
                said = (home / "log").read_text(errors="replace").strip()[-300:]
                require(kind, present=not last, why=f"it does not start here: {said or 'no word'}")
                continue
            yield home / "sock"
        finally:
            _end(daemon)
            _sweep(home)
        return


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATH}"


def command(kind: str, home: Path) -> list[str]:
    """How an engine is started in a folder."""
    socket_url = f"unix://{home}/sock"
    if kind == "docker":
        folders = ["--data-root", f"{home}/data", "--exec-root", f"{home}/exec"]
        return ["dockerd", *folders, "--pidfile", f"{home}/pid", "--host", socket_url]
    folders = ["--root", f"{home}/data", "--runroot", f"{home}/run", "--storage-driver", "vfs"]
    how = ["--cgroup-manager", "cgroupfs", "--runtime", "runc"]
    return ["podman", *folders, *how, "system", "service", "--time=0", socket_url]


def _answers(daemon: "subprocess.Popen[bytes]", home: Path) -> bool:
    """Wait until it answers; false where it ended, or did not in time."""
    ends = time.monotonic() + START_S
    while time.monotonic() < ends and daemon.poll() is None:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(5)
            try:
                link.connect(str(home / "sock"))
                link.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                if b"200" in link.recv(200):
                    return True
            except OSError:
                pass
        time.sleep(0.1)
    return False


def _end(daemon: "subprocess.Popen[bytes]") -> None:
    """Let it end its containers and itself; what is left of its group is killed."""
    if daemon.poll() is None:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(STOP_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
    with suppress(ProcessLookupError):
        os.killpg(daemon.pid, signal.SIGKILL)
    daemon.wait()


def _sweep(home: Path) -> None:
    """End what an engine that was killed left: each names its folder on its command line."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and f"{home}/".encode() in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
