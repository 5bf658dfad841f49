# SPDX-License-Identifier: Apache-2.0
"""Container engines on this machine, each with folders and namespaces of its own.

Of an engine with a network namespace of its own only the API socket is seen outside: bridges and
firewall rules that it makes stay inside. One that shares this machine's network makes none, and its
containers can have no other network than this machine's. Podman keeps some of its state in
fixed places, whichever folders it is given; each engine sees its own there. So no engine
knows of another one's containers, networks, addresses or locks.
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
TRIES = 3
PROGRAMS: Mapping[str, Mapping[str, str]] = {
    "docker": {
        "dockerd": "docker.io",
        "containerd": "containerd",
        "runc": "runc",
        "ip": "iproute2",
        "unshare": "util-linux",
        "setpriv": "util-linux",
    },
    "podman": {
        "podman": "podman",
        "conmon": "conmon",
        "runc": "runc",
        "ip": "iproute2",
        "unshare": "util-linux",
        "setpriv": "util-linux",
    },
}
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
# As a fresh network namespace has it, even loopback is down.
_LOOPBACK = "ip link set lo up\n"
# Locks, leases of addresses, namespaces, and whether it has run since the machine was booted.
_FIXED = ("/dev/shm", "/run/libpod", "/run/netns", "/run/containers/networks", "/var/lib/cni")  # noqa: S108 - each is covered
_COVERED = "".join(f"mkdir -p {path} && mount -t tmpfs tmpfs {path}\n" for path in _FIXED)
# Runs what follows it, unless something before that failed.
_INSIDE = 'set -e\n{before}exec "$@"'
# What is wrong in these folders after a kill, and is made anew: no container, image or network.
_PASSING = {"docker": ("pid", "exec", "sock"), "podman": ("run", "tmp", "sock")}
# As the kernel has them, cut to 15 characters.
_OURS = ("dockerd", "containerd", "containerd-shim", "podman", "conmon", "runc")


def missing(name: str) -> tuple[str, ...]:
    """Debian packages that an engine needs and this machine has not."""
    path = _path()
    wanted = PROGRAMS[name].items()
    lacks = (package for program, package in wanted if not shutil.which(program, path=path))
    return tuple(dict.fromkeys(lacks))


@contextmanager
def running(name: str, folder: Path, *, machine_network: bool = False) -> Iterator[Path]:
    """An engine that answers, and ends with whoever started it; gives its API socket.

    A starter that is killed takes a Docker daemon and its containers along. Podman has
    no daemon: its containers then run on, and are ended by the next start in that folder.

    Args:
        name: `docker` or `podman`.
        folder: For all that it keeps; short, and made when needed.
        machine_network: Whether its containers see this machine's network, and no other.

    Raises:
        ConfigError: We are not root, or its packages are missing.
        NodeUnavailable: It did not start, or does not answer.
    """
    with_us = ("setpriv", "--pdeathsig", "TERM")
    daemon = _started(name, folder, machine_network=machine_network, before=with_us)
    try:
        yield folder / "sock"
    finally:
        _end(daemon)
        sweep(folder)


def launch(name: str, folder: Path) -> proc.Process:
    """Start an engine that outlives its starter, once it answers; see `running`.

    Raises:
        ConfigError: We are not root, or its packages are missing.
        NodeUnavailable: It did not start, or does not answer.
    """
    return _started(name, folder, machine_network=False, before=())


def sweep(folder: Path) -> None:
    """End at once what an engine left that was killed, its containers included; repeatable."""
    for pid in processes(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def processes(folder: Path) -> set[int]:
    """Processes of a folder's engine: each keeper of a container names the folder."""
    parents: dict[int, int] = {}
    keepers: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            head, _, tail = (entry / "stat").read_text().rpartition(")")
            parents[int(entry.name)] = int(tail.split()[1])
            ours = head.partition("(")[2] in _OURS
            if ours and f"{folder}/".encode() in (entry / "cmdline").read_bytes():
                keepers.add(int(entry.name))
    found = set(keepers)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _started(
    name: str, folder: Path, *, machine_network: bool, before: tuple[str, ...]
) -> proc.Process:
    if lacks := missing(name):
        raise ConfigError(
            f"{name} is not installed",
            hint=f"apt-get install --no-install-recommends {' '.join(lacks)}",
        )
    if os.geteuid() != 0:
        raise ConfigError(f"{name} needs root: it gets namespaces of its own", hint="use sudo")
    # Podman leaves there what it was given to import.
    env = {**os.environ, "PATH": _path(), "TMPDIR": str(folder / "tmp")}
    argv = [*before, *_argv(name, folder, machine_network=machine_network)]
    for tries_left in reversed(range(TRIES)):  # dockerd gives containerd 15 s, on any machine
        _clear(name, folder)
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        with (folder / "log").open("wb") as log:
            daemon = proc.spawn(argv, stdout=log, env=env)
        try:
            _await(name, daemon, folder)
        except BaseException as error:
            _end(daemon)
            sweep(folder)
            if tries_left and isinstance(error, NodeUnavailable):
                continue
            raise
        break
    return daemon


def _argv(name: str, folder: Path, *, machine_network: bool) -> list[str]:
    """The engine's command line, in namespaces of its own."""
    own = [] if machine_network else ["--net"]
    prepare = ("" if machine_network else _LOOPBACK) + (_COVERED if name == "podman" else "")
    argv = ["unshare", "--mount", *own, "--propagation", "private"]
    argv += ["sh", "-c", _INSIDE.format(before=prepare), "sh"]
    if name == "docker":
        bare = ["--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"]
        return [
            *(*argv, "dockerd", "--data-root", str(folder / "data")),
            *("--exec-root", str(folder / "exec"), "--pidfile", str(folder / "pid")),
            *("--host", f"unix://{folder / 'sock'}", *(bare if machine_network else [])),
        ]
    return [
        *(*argv, "podman", "--root", str(folder / "data"), "--runroot", str(folder / "run")),
        *("--network-config-dir", str(folder / "networks"), "--storage-driver", "vfs"),
        *("--cgroup-manager", "cgroupfs", "--runtime", "runc"),
        *("system", "service", "--time", "0", f"unix://{folder / 'sock'}"),
    ]


def _clear(name: str, folder: Path) -> None:
    """End and remove what an engine left that was killed; what it keeps for good stays."""
    sweep(folder)
    for one in _PASSING[name]:
        path = folder / one
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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
