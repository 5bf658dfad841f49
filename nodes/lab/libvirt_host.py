# SPDX-License-Identifier: Apache-2.0
"""Libvirt hosts on this machine: any number, each with its own daemons, name, UUID and folders.

A host is a `libvirtd` and a `virtlogd` in a mount and a UTS namespace of their own, so that they
neither see nor touch the machine's libvirt, and two of them are two hosts to each other: guests
migrate between them. It runs without systemd, outlives who started it, and is found again by
what it wrote into its folder.
"""

import json
import os
import shutil
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

from ci import proc
from ci.errors import ConfigError, NodeUnavailable
from nodes.images.build import default_cache, locked

PATH_LIMIT = 50
"""Longest path of a host's folder: libvirt puts unix sockets under it, whose names are short."""

_FOLDERS = (
    *("etc/qemu/networks", "etc/nwfilter", "etc/storage", "lib/qemu", "lib/images"),
    *("log/qemu", "log/lxc", "run", "cache/qemu"),
)
_MACHINE_FILTERS = Path("/etc/libvirt/nwfilter")
_MACHINE_CACHE = Path("/var/cache/libvirt/qemu/capabilities")
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
_TOOLS = {
    "libvirtd": "libvirt-daemon",
    "virtlogd": "libvirt-daemon",
    "virsh": "libvirt-clients",
    "unshare": "util-linux",
    "qemu-system-x86_64": "qemu-system-x86",
}
_DRIVERS = {
    "libvirt_driver_qemu.so": "libvirt-daemon-driver-qemu",
    "libvirt_driver_lxc.so": "libvirt-daemon-driver-lxc",
}
_QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
cgroup_controllers = []
max_processes = 0
max_files = 0
"""
_LIBVIRTD_CONF = """\
host_uuid = "{uuid}"
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
auth_unix_rw = "none"
auth_unix_ro = "none"
auth_tcp = "none"
listen_tls = 0
listen_tcp = {listen}
listen_addr = "127.0.0.1"
tcp_port = "{port}"
log_filters = "3:node_device 3:interface"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What is kept on disk of a host: pids with their start ticks, by the daemon's name."""

    name: str
    uuid: str
    tcp_port: int
    daemons: dict[str, tuple[int, str]]


def missing_tools() -> tuple[str, ...]:
    """Debian packages this machine lacks for a libvirt host, sorted; empty when ready."""
    path = os.environ.get("PATH", os.defpath) + ":" + _SYSTEM_PATH
    lacks = {package for tool, package in _TOOLS.items() if not shutil.which(tool, path=path)}
    for driver, package in _DRIVERS.items():
        if not any(Path("/usr").glob(f"lib*/**/libvirt/connection-driver/{driver}")):
            lacks.add(package)
    return tuple(sorted(lacks))


def require_tools() -> None:
    """Check that a libvirt host can be started here.

    Raises:
        ConfigError: A package is missing, or we are not root.
    """
    missing = missing_tools()
    if missing:
        raise ConfigError(
            f"a libvirt host needs {', '.join(missing)}",
            hint=f"apt-get install --no-install-recommends {' '.join(missing)}",
        )
    if os.geteuid() != 0:
        raise ConfigError(
            "a libvirt host needs root: it runs in a mount namespace", hint="use sudo"
        )


class LibvirtHost:
    """One host; two objects over the same folder are the same host."""

    def __init__(self, folder: Path, name: str, *, tcp_port: int = 0) -> None:
        """Nothing is started.

        Args:
            folder: Holds everything of the host; at most PATH_LIMIT characters, resolved.
            name: Its host name.
            tcp_port: Loopback port to listen on without authentication; 0 for none.

        Raises:
            ConfigError: The folder's path is too long.
        """
        self.folder = folder.resolve()
        self.name = name
        self._tcp_port = tcp_port
        if len(str(self.folder)) > PATH_LIMIT:
            raise ConfigError(
                f"{self.folder} is too long for a libvirt host: its sockets' names would not fit",
                hint=f"use a folder of at most {PATH_LIMIT} characters",
            )

    @property
    def socket(self) -> Path:
        """Where libvirtd listens."""
        return self.folder / "run" / "libvirt-sock"

    @property
    def tcp_port(self) -> int:
        """The loopback port it listens on; 0 for none."""
        found = self._load()
        return found.tcp_port if found else self._tcp_port

    def uri(self, driver: str = "qemu") -> str:
        """The URI of a driver: `qemu` or `lxc`."""
        return f"{driver}:///system?socket={self.socket}"

    def is_running(self) -> bool:
        """Whether its libvirtd lives."""
        found = self._load()
        return found is not None and "libvirtd" in _alive(found)

    def start(self, timeout_s: float = 180.0) -> None:
        """Start it and wait until it answers; one that runs is left as it is.

        The first start on a machine asks every QEMU there is for what it can do, which takes
        a minute; the answers are kept in the user's cache.

        Raises:
            ConfigError: A package is missing, or we are not root.
            NodeUnavailable: A daemon ended, or did not answer in time.
        """
        require_tools()
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / ".lock"):
            if self.is_running():
                return
            self._end()
            self._write_folders()
            with as_file(files("nodes.lab") / "libvirt-host") as script:
                self._launch(script)
            self._await_answer(time.monotonic() + timeout_s)
            self._keep_capabilities()

    def stop(self, grace_s: float = 10.0) -> None:
        """End its guests and its daemons; its folder stays. Repeatable."""
        if not self.folder.is_dir():
            return
        with locked(self.folder / ".lock"):
            self._end(grace_s)

    def log_tail(self) -> str:
        """The last line its daemons said, for messages."""
        for name in ("log/libvirtd.log", "log/start.log"):
            with suppress(OSError):
                lines = (self.folder / name).read_text(errors="replace").splitlines()
                if lines:
                    return lines[-1].strip()
        return "it said nothing"

    def _write_folders(self) -> None:
        old = self._load()
        shutil.rmtree(self.folder / "etc", ignore_errors=True)
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        for name in _FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        if _MACHINE_FILTERS.is_dir():
            shutil.copytree(_MACHINE_FILTERS, self.folder / "etc/nwfilter", dirs_exist_ok=True)
        for source in (_MACHINE_CACHE, _kept_capabilities()):
            if source.is_dir():
                shutil.copytree(source, self.folder / "cache/qemu/capabilities", dirs_exist_ok=True)
        record = _Record(
            name=self.name,
            uuid=old.uuid if old else str(uuid.uuid4()),
            tcp_port=self._tcp_port,
            daemons={},
        )
        settings = _LIBVIRTD_CONF.format(
            uuid=record.uuid, listen=int(bool(self._tcp_port)), port=self._tcp_port or 16509
        )
        (self.folder / "etc/qemu.conf").write_text(_QEMU_CONF)
        (self.folder / "etc/lxc.conf").write_text("security_with_apparmor = 0\n")
        (self.folder / "etc/libvirtd.conf").write_text(settings)
        self._save(record)

    def _launch(self, script: Path) -> None:
        argv = ["unshare", "--mount", "--uts", "--propagation", "private", "sh", str(script)]
        argv += [str(self.folder), self.name, *(["--listen"] if self._tcp_port else [])]
        try:
            with (self.folder / "log/start.log").open("wb") as log:
                # Into a file: the daemons would keep a pipe open.
                done = proc.run([*argv], stdout=log, timeout_s=60, check=False)
        except proc.CommandFailed as error:
            raise NodeUnavailable(f"{self.name} did not start: {error.message}") from error
        finally:
            self._note_daemons()
        if done.status:
            why = done.complaint
            self._end()
            raise NodeUnavailable(
                f"libvirt host {self.name} did not start: {why}", hint=f"see {self.folder}/log"
            )

    def _note_daemons(self) -> None:
        """Write down which processes are ours, with their start ticks."""
        found = self._load()
        if found is None:
            return
        daemons = {}
        for name in ("libvirtd", "virtlogd"):
            pid = _read_pid(self.folder / f"{name}.pid")
            born = proc.start_tick(pid) if pid else None
            if born is not None:
                daemons[name] = (pid, born)
        self._save(replace(found, daemons=daemons))

    def _await_answer(self, deadline: float) -> None:
        why = ""
        for _ in proc.wait_until(deadline, every_s=0.1):
            if not self.is_running():
                why = f"ended: {self.log_tail()}"
                break
            left_s = max(1.0, deadline - time.monotonic())
            try:
                proc.run(["virsh", "-q", "-c", self.uri(), "version"], timeout_s=left_s)
            except proc.CommandFailed as error:
                why = f"does not answer: {error.message}"
            else:
                return
        self._end()
        raise NodeUnavailable(
            f"libvirt host {self.name} {why or 'does not answer'}",
            hint=f"see {self.folder}/log",
            retryable=True,
        )

    def _keep_capabilities(self) -> None:
        """Copy what it learnt of the machine's QEMUs to the user's cache."""
        target = _kept_capabilities()
        target.mkdir(parents=True, exist_ok=True)
        for path in (self.folder / "cache/qemu/capabilities").glob("*.xml"):
            beside = target / f".{path.name}.{os.getpid()}"
            shutil.copyfile(path, beside)
            beside.replace(target / path.name)

    def _end(self, grace_s: float = 10.0) -> None:
        """Kill what it runs, guests first, and wait until it is gone."""
        found = self._load()
        if found is None:
            return
        alive = _alive(found)
        if "libvirtd" in alive:
            self._destroy_guests()
        ours = [*self._guest_processes(), *alive.values()]
        for pid, born in ours:
            if proc.is_running(pid, born):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + grace_s
        for pid, born in ours:
            for _ in proc.wait_until(until, every_s=0.05):
                if not proc.is_running(pid, born):
                    break
            else:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._save(replace(found, daemons={}))

    def _destroy_guests(self) -> None:
        for driver in ("qemu", "lxc"):
            virsh = ["virsh", "-q", "-c", self.uri(driver)]
            with suppress(proc.CommandFailed):
                for kind, listing in (("destroy", "list"), ("net-destroy", "net-list")):
                    for name in proc.run([*virsh, listing, "--name"], timeout_s=20).text.split():
                        proc.run([*virsh, kind, name], timeout_s=30, check=False)

    def _guest_processes(self) -> Iterator[tuple[int, str]]:
        """Guests whose daemon died: named by its pid files, and in its namespace by their name."""
        for path in (self.folder / "run").rglob("*.pid"):
            pid = _read_pid(path)
            born = proc.start_tick(pid) if pid else None
            if born is not None and self._belongs(pid):
                yield pid, born

    def _belongs(self, pid: int) -> bool:
        """Whether a process sees this folder where the machine has its own /run/libvirt."""
        with suppress(OSError):
            mounts = Path(f"/proc/{pid}/mountinfo").read_text(errors="replace")
            return any(
                line.split()[4] == "/run/libvirt" and line.split()[3].endswith(_tail(self.folder))
                for line in mounts.splitlines()
            )
        return False

    def _load(self) -> _Record | None:
        try:
            read = json.loads((self.folder / "host.json").read_text())
            daemons = {name: (int(pid), str(born)) for name, (pid, born) in read["daemons"].items()}
            return _Record(**{**read, "daemons": daemons})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _save(self, record: _Record) -> None:
        beside = self.folder / "host.json.new"
        beside.write_text(json.dumps(asdict(record)))
        beside.replace(self.folder / "host.json")


def _alive(record: _Record) -> dict[str, tuple[int, str]]:
    return {name: pair for name, pair in record.daemons.items() if proc.is_running(*pair)}


def _tail(folder: Path) -> str:
    """How the bind mount of its `run` ends in mountinfo, whatever file system it lies on."""
    return f"/{folder.name}/run"


def _read_pid(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _kept_capabilities() -> Path:
    return default_cache() / "libvirt-capabilities"
