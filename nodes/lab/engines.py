# SPDX-License-Identifier: Apache-2.0
"""Container engines on this machine, each with folders and a network namespace of its own.

Bridges and firewall rules that an engine makes stay in its namespace; only its API socket is
seen outside. It ends with whoever started it.
"""

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ci import proc
from ci.errors import ConfigError, NodeUnavailable

START_S = 90.0
STOP_S = 60.0
PROGRAMS: Mapping[str, Mapping[str, str]] = {
    "docker": {"dockerd": "docker.io", "ip": "iproute2", "unshare": "util-linux"},
    "podman": {"podman": "podman", "runc": "runc", "ip": "iproute2", "unshare": "util-linux"},
}
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
# As a fresh network namespace has it, even loopback is down.
_INSIDE = 'ip link set lo up && exec "$@"'


def missing(name: str) -> tuple[str, ...]:
    """Debian packages that an engine needs and this machine has not."""
    path = _path()
    wanted = PROGRAMS[name].items()
    return tuple(package for program, package in wanted if not shutil.which(program, path=path))


@contextmanager
def running(name: str, folder: Path) -> Iterator[Path]:
    """An engine that answers; gives its API socket.

    Args:
        name: `docker` or `podman`.
        folder: For all that it keeps; short, and made when needed.

    Raises:
        ConfigError: We are not root, or its packages are missing.
        NodeUnavailable: It did not start, or does not answer.
    """
    daemon = launch(name, folder)
    try:
        yield folder / "sock"
    finally:
        _end(daemon)


def launch(name: str, folder: Path) -> proc.Process:
    """Start an engine that outlives its starter, once it answers; see `running`.

    Raises:
        ConfigError: We are not root, or its packages are missing.
        NodeUnavailable: It did not start, or does not answer.
    """
    if lacks := missing(name):
        raise ConfigError(
            f"{name} is not installed",
            hint=f"apt-get install --no-install-recommends {' '.join(lacks)}",
        )
    if os.geteuid() != 0:
        raise ConfigError(f"{name} needs root: it gets namespaces of its own", hint="use sudo")
    folder.mkdir(parents=True, exist_ok=True)
    argv = ["unshare", "--mount", "--net", "--propagation", "private"]
    argv += ["sh", "-c", _INSIDE, "sh", *_command(name, folder)]
    with (folder / "log").open("wb") as log:
        daemon = proc.spawn(argv, stdout=log, env={**os.environ, "PATH": _path()})
    try:
        _await(name, daemon, folder)
    except BaseException:
        _end(daemon)
        raise
    return daemon


def _command(name: str, folder: Path) -> list[str]:
    if name == "docker":
        return [
            *("dockerd", "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
            *("--pidfile", str(folder / "pid"), "--host", f"unix://{folder / 'sock'}"),
        ]
    return [
        *("podman", "--root", str(folder / "data"), "--runroot", str(folder / "run")),
        *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "runc"),
        *("system", "service", "--time", "0", f"unix://{folder / 'sock'}"),
    ]


def _await(name: str, daemon: proc.Process, folder: Path) -> None:
    for _ in proc.wait_until(time.monotonic() + START_S, every_s=0.1):
        if daemon.poll() is not None:
            break
        if _answers(folder / "sock"):
            return
    said = (folder / "log").read_text(errors="replace").strip().splitlines()
    raise NodeUnavailable(f"{name} did not start: {said[-1] if said else 'it said nothing'}")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as line, suppress(OSError):
        line.settimeout(5)
        line.connect(str(path))
        line.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        return b"200" in line.recv(200)
    return False


def _end(daemon: proc.Process) -> None:
    """Let it end itself and what it started; what is left of its group is killed."""
    if daemon.poll() is None:
        daemon.send_signal(signal.SIGTERM)
        with suppress(proc.TimeoutExpired):
            daemon.wait(STOP_S)
    proc.kill_group(daemon.pid)
    daemon.wait()


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATH}"
