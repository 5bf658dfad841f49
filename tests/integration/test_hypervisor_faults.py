# SPDX-License-Identifier: Apache-2.0
"""What breaks between us and a real libvirt, on purpose: whose fault it is told to be.

Everything here must end as NodeUnavailable (the node's) or CallerFault (ours), within a bounded
time, and leave a node that is clean or says that it is not. Nothing may look like a test that
failed: that would be a patch's fault.
"""

import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ci.errors import ConfigError, HypervouchError, NodeUnavailable
from ci.model.result import Grade
from nodes.hypervisors.base import (
    Access,
    Console,
    DiskFormat,
    GuestImage,
    GuestSpec,
    GuestState,
    Hypervisor,
)
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.guest import GuestAgent
from nodes.hypervisors.table import connect
from nodes.images.tiny import tiny
from nodes.lab.libvirt_host import LibvirtHost, missing_tools
from tests.kit import sshd
from tests.kit.require import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
CALL_S = 60.0
BOOT_S = 150.0
NAME = "hv-fault"
FLOOD_MIB = "HYPERVOUCH_FLOOD_MIB"
FLOOD_S = 600.0


@pytest.fixture(scope="module")
def image() -> GuestImage:
    return tiny()


@contextmanager
def folder() -> Iterator[Path]:
    """Short enough for the names of libvirt's sockets."""
    made = Path(tempfile.mkdtemp(prefix="hv-fault-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def running(at: Path, name: str) -> Iterator[LibvirtHost]:
    """A host of our own: these tests kill it."""
    missing = missing_tools()
    require("libvirt", present=not missing, why=f"apt-get install {' '.join(missing)}")
    require("libvirt", present=os.geteuid() == 0, why="needs root")
    host = LibvirtHost(at, name)
    try:
        host.start()
        yield host
    finally:
        host.stop()


@pytest.fixture
def host() -> Iterator[LibvirtHost]:
    with folder() as at, running(at, "node-f") as made:
        yield made


@dataclass(frozen=True, kw_only=True)
class Place:
    """A hypervisor that any number of connections can be opened to.

    Attributes:
        url: Of it.
        work: Where its guests' files lie.
    """

    url: str
    work: Path

    def open(self, **more: object) -> Hypervisor:
        return connect(self.url, access(self.work, **more))


def place_on(host: LibvirtHost) -> Place:
    # Without the type it would be probed whether KVM works here.
    return Place(url=f"{host.uri()}&type=qemu", work=host.folder / "work")


@pytest.fixture(params=["libvirt", "uml"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Each hypervisor that this machine runs itself."""
    if request.param == "libvirt":
        yield place_on(request.getfixturevalue("host"))
        return
    found = shutil.which("linux.uml")
    require("uml", present=found is not None, why="apt-get install user-mode-linux uml-utilities")
    with folder() as at:
        made = Place(url="uml:///", work=at)
        yield made
        with closing(made.open()) as left:
            left.cleanup()


def access(work: Path, **more: object) -> Access:
    given = {"work": work, "grade": Grade.BARE, "timeout_s": CALL_S, **more}
    return Access(**given)  # type: ignore[arg-type]


def open_on(host: LibvirtHost) -> Hypervisor:
    return place_on(host).open()


def spec(image: GuestImage, **more: object) -> GuestSpec:
    return GuestSpec(name=NAME, image=image, **more)  # type: ignore[arg-type]


def qemus(host: LibvirtHost) -> list[int]:
    """Processes of a host's guests that live."""
    found = []
    for path in (host.folder / "run/qemu").glob(f"{NAME}*.pid"):
        pid = int(path.read_text())
        if _command(pid).startswith("qemu"):
            found.append(pid)
    return found


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def kill(host: LibvirtHost, daemon: str = "libvirtd") -> None:
    """End a daemon as the kernel does when memory is short."""
    os.kill(int((host.folder / f"{daemon}.pid").read_text()), signal.SIGKILL)


@contextmanager
def revived(host: LibvirtHost) -> Iterator[None]:
    """The daemon again, as an init system starts it: on what its guests have gone on with."""
    within_it = int((host.folder / "virtlogd.pid").read_text())
    pid_file = host.folder / "libvirtd.pid"
    subprocess.run(
        [
            *("nsenter", f"--target={within_it}", "--mount", "--uts"),
            *("libvirtd", "-d", "-p", str(pid_file), "-f", "/etc/libvirt/libvirtd.conf"),
        ],
        check=True,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
    )
    try:
        yield
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGTERM)


def booted(hypervisor: Hypervisor) -> None:
    with closing(hypervisor.console(NAME)) as line:
        assert GuestAgent(line).ready(BOOT_S)


def within(seconds: float, began: float) -> None:
    assert time.monotonic() - began < seconds, "it did not give up in time"


class TestConnecting:
    """Before any guest: the node is unreachable, is another one, or the URL is wrong."""

    def test_nobody_listens(self, tmp_path):
        for name in ("key", "hosts"):
            (tmp_path / name).touch(mode=0o600)
        keys = {"key_file": tmp_path / "key", "known_hosts": tmp_path / "hosts"}
        began = time.monotonic()
        with pytest.raises(NodeUnavailable):
            connect("qemu+ssh://root@127.0.0.1:1/system", access(tmp_path / "work", **keys))
        within(CALL_S, began)

    def test_its_socket_is_not_there(self, tmp_path):
        with pytest.raises((NodeUnavailable, CallerFault)):
            connect(f"qemu:///system?socket={tmp_path}/none", access(tmp_path))

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "qemu",
            "nonsense:///system",
            "qemu:///nonsense",
            "qemu://[::1/system",
            "qemu+x:///system",
        ],
    )
    def test_a_wrong_url_is_ours(self, tmp_path, url):
        with pytest.raises(ConfigError):
            connect(url, access(tmp_path))

    def test_the_node_shows_another_host_key(self, tmp_path, host):
        with _sshd(tmp_path / "sshd") as daemon:
            stranger = (daemon.home / "stranger.pub").read_text().split()[:2]
            daemon.known_hosts.write_text(f"[127.0.0.1]:{daemon.port} {' '.join(stranger)}\n")
            with pytest.raises(NodeUnavailable) as told:
                self._by_ssh(daemon, host)
            assert "host key" in str(told.value).lower()

    def test_the_node_does_not_know_our_key(self, tmp_path, host):
        with _sshd(tmp_path / "sshd") as daemon, pytest.raises(NodeUnavailable):
            self._by_ssh(daemon, host, key_file=daemon.stranger_key)

    def _by_ssh(self, daemon: sshd.Sshd, host: LibvirtHost, **more: object) -> Hypervisor:
        keys: dict[str, object] = {"key_file": daemon.key_file, "known_hosts": daemon.known_hosts}
        user = daemon.endpoint(daemon.home).user
        return connect(
            f"qemu+ssh://{user}@127.0.0.1:{daemon.port}/system?socket={host.socket}&type=qemu",
            access(daemon.home / "work", **{**keys, **more}),
        )


@contextmanager
def _sshd(home: Path) -> Iterator[sshd.Sshd]:
    try:
        running_daemon = sshd.running(home)
        with running_daemon as daemon:
            yield daemon
    except sshd.SshdMissing as lacks:
        require("sshd", present=False, why=str(lacks))


class TestImages:
    """Images that cannot be booted: told before anything is made."""

    def test_one_that_is_missing(self, place, image, tmp_path):
        with closing(place.open()) as made:
            for wrong in (
                replace(image, kernel=tmp_path / "k", initrd=tmp_path / "i", root=tmp_path / "r"),
                replace(image, initrd=tmp_path / "none"),
                replace(image, disk=tmp_path / "none"),
            ):
                with pytest.raises(CallerFault):
                    made.launch(spec(wrong))
            assert NAME not in made.inventory().guests

    def test_one_of_another_format(self, place, image, tmp_path):
        disk = tmp_path / "disk"
        disk.write_bytes(b"this is no qcow2" * 4096)
        with closing(place.open()) as made:
            wrong = replace(image, disk=disk, disk_format=DiskFormat.QCOW2)
            with pytest.raises(CallerFault):
                made.launch(spec(wrong))
            assert NAME not in made.inventory().guests

    def test_one_for_another_hypervisor(self, place, image):
        with closing(place.open()) as made:
            wrong = replace(image, properties={"hypervisor_type": "xen"})
            with pytest.raises(CallerFault):
                made.launch(spec(wrong))


class TestGuests:
    """Guests that go wrong of themselves."""

    def test_one_that_never_boots_is_given_up_in_time(self, place, image):
        with closing(place.open()) as made:
            made.launch(spec(image))
            made.pause(NAME)  # the hypervisor has it, and nothing of it ever happens
            began = time.monotonic()
            with closing(made.console(NAME)) as line, pytest.raises(NodeUnavailable):
                GuestAgent(line).ask("ping", timeout_s=5)
            within(60, began)
            assert made.info(NAME).state is GuestState.PAUSED
            made.delete(NAME)
            assert NAME not in made.inventory().guests

    def test_one_that_panics_is_found_out_and_can_be_removed(self, place, image):
        with closing(place.open()) as made:
            made.launch(spec(image))
            with closing(made.console(NAME)) as line:
                agent = GuestAgent(line)
                agent.ready(BOOT_S)
                with pytest.raises(NodeUnavailable) as told:
                    agent.ask("exec echo c >/proc/sysrq-trigger", timeout_s=8)
            assert "panic" in str(told.value).lower() or b"panic" in made.console_log(NAME)
            # It stands still, boots anew or has ended, as the machine is made to do.
            assert made.info(NAME).state in set(GuestState)
            made.delete(NAME)
            assert NAME not in made.inventory().guests

    def test_a_flood_on_the_console_stays_small(self, place, image):
        limit = 1 << 20
        with closing(place.open()) as made:
            made.launch(spec(image))
            with closing(made.console(NAME)) as line:
                agent = GuestAgent(line)
                agent.ready(BOOT_S)
                agent.ask("flood 10000", timeout_s=BOOT_S)
                agent.ask("ping", timeout_s=BOOT_S)
            assert 0 < len(made.console_log(NAME, limit)) <= limit
            logs = sum(p.stat().st_size for p in place.work.rglob("*log*") if p.is_file())
            assert logs < 16 << 20
            made.delete(NAME)

    @pytest.mark.timeout(2400)
    def test_a_flood_of_a_gibibyte_stays_small(self, place, image, record_property):
        """Opt-in: emulated serial lines are slow. A guest that is not done in time is let go."""
        mib = int(os.environ.get(FLOOD_MIB, "0"))
        if not mib:
            pytest.skip(f"set {FLOOD_MIB}, for instance 1024: it takes ten minutes and more")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        command = f"yes {'0123456789' * 6} | head -c {mib << 20} >/dev/console; echo over"
        with closing(place.open()) as made:
            made.launch(spec(image))
            with closing(made.console(NAME)) as line:
                counted = Counting(line)
                agent = GuestAgent(counted)
                agent.ready(BOOT_S)
                with suppress(NodeUnavailable):
                    assert agent.ask(f"exec {command}", timeout_s=FLOOD_S)["out"] == "over"
                logs = sum(p.stat().st_size for p in place.work.rglob("*log*") if p.is_file())
                grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
                record_property("flood", f"{counted.taken} read, {logs} kept, {grown} KiB of ours")
                assert logs < 16 << 20
                assert grown < 128 << 10
            assert made.info(NAME).state is GuestState.RUNNING
            made.delete(NAME)
            assert NAME not in made.inventory().guests


class Counting:
    """A console that counts what comes."""

    def __init__(self, line: Console) -> None:
        self._line = line
        self.taken = 0

    def write(self, data: bytes) -> None:
        self._line.write(data)

    def read(self, timeout_s: float) -> bytes:
        data = self._line.read(timeout_s)
        self.taken += len(data)
        return data

    def close(self) -> None:
        self._line.close()


class TestNodes:
    """Nodes that break under a guest."""

    def test_the_daemon_dies_in_mid_suite_and_comes_back(self, host, image):
        made = open_on(host)
        made.launch(spec(image))
        kill(host)
        began = time.monotonic()
        with pytest.raises(NodeUnavailable):
            made.info(NAME)
        with pytest.raises(HypervouchError):
            made.launch(replace(spec(image), name="hv-second"))
        within(2 * CALL_S, began)
        made.close()
        with pytest.raises(NodeUnavailable):
            open_on(host)
        assert len(qemus(host)) == 1, "the guest outlives the daemon"
        with revived(host), closing(open_on(host)) as again:
            assert again.inventory().guests[NAME] is GuestState.RUNNING
            assert NAME in again.cleanup()
            assert NAME not in again.inventory().guests
            assert qemus(host) == []

    def test_the_node_reboots_in_mid_build(self, host, image):
        made = open_on(host)
        made.launch(spec(image))
        for pid in qemus(host):
            os.kill(pid, signal.SIGKILL)
        for daemon in ("libvirtd", "virtlogd"):
            kill(host, daemon)
        shutil.rmtree(host.folder / "run", ignore_errors=True)  # what lies in /run is gone
        with pytest.raises(NodeUnavailable):
            made.info(NAME)
        made.close()
        host.start()
        with closing(open_on(host)) as again:
            assert again.inventory().guests.get(NAME) in {None, GuestState.SHUTOFF}
            again.cleanup()
            assert NAME not in again.inventory().guests

    def test_the_disk_of_the_node_is_full(self, image):
        with folder() as at, _small(at, "48m"), running(at, "node-f") as host:
            with closing(open_on(host)) as made:
                (at / "ballast").write_bytes(b"\0" * _free(at))
                began = time.monotonic()
                with pytest.raises(NodeUnavailable) as told:
                    made.launch(spec(image, config_drive={"big": os.urandom(4 << 20)}))
                within(CALL_S, began)
                assert "space" in str(told.value).lower()
                (at / "ballast").unlink()
                made.cleanup()
                assert NAME not in made.inventory().guests
            assert qemus(host) == []

    def test_the_target_of_a_live_migration_is_gone(self, host, image):
        with folder() as at, running(at, "node-g") as other:
            source, target = open_on(host), open_on(other)
            source.launch(spec(image))
            booted(source)
            kill(other)
            began = time.monotonic()
            with pytest.raises(NodeUnavailable):
                source.live_migrate(NAME, target, block=True)
            within(2 * CALL_S, began)
            assert source.info(NAME).state is GuestState.RUNNING
            booted(source)
            source.delete(NAME)
            target.close()
            source.close()


@contextmanager
def _small(at: Path, size: str) -> Iterator[None]:
    """A file system of its own, that is soon full."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(at)], check=False
    )
    require("libvirt", present=done.returncode == 0, why="may not mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def _free(at: Path) -> int:
    found = os.statvfs(at)
    return found.f_bavail * found.f_frsize - 65536
