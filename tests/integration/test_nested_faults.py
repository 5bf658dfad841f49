# SPDX-License-Identifier: Apache-2.0
"""What breaks on a real host that is reached over SSH: a nested KVM node, broken on purpose.

Opt-in by HYPERVOUCH_NESTED, as all of what takes minutes on nested nodes. The same faults on this
machine's own libvirt are in test_hypervisor_faults.py.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from ci.errors import HypervouchError, NodeUnavailable
from ci.jobs.compute.run import NOT_TRIED
from ci.model.node import Endpoint
from nodes.hypervisors.base import Access, GuestSpec, Hypervisor
from nodes.hypervisors.table import connect
from nodes.images.tiny import tiny
from nodes.lab.nested import NestedNode
from nodes.lab.personas import persona
from nodes.login import log_in
from tests.kit import nested_nodes

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1500)]
CALL_S = 60.0
PATIENCE_S = 600.0
GUEST = "hv-nested-fault"


@pytest.fixture
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NestedNode]:
    """One of our own: these tests break it."""
    nested_nodes.chosen("kvm")
    made = NestedNode(tmp_path_factory.mktemp("n"), persona("kvm"))
    try:
        made.start(nested_nodes.BOOT_S)
        yield made
    finally:
        made.stop()


def opened(end: Endpoint, work: Path, known_hosts: Path | None = None) -> Hypervisor:
    access = Access(
        work=work,
        grade=end.grade,
        key_file=end.key_file,
        known_hosts=known_hosts or end.known_hosts,
        timeout_s=CALL_S,
    )
    return connect(end.hypervisor, access)


def inside(end: Endpoint, command: str) -> str:
    """Do something as root of the node."""
    with closing(log_in(end, CALL_S)) as client:
        _, out, _ = client.exec_command(command, timeout=CALL_S)
        return out.read().decode("utf-8", "replace")


def test_another_host_key_than_the_pinned_one(node, tmp_path):
    end = node.endpoint()
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "k"], check=True
    )
    kind, key = (tmp_path / "k.pub").read_text().split()[:2]
    wrong = tmp_path / "known_hosts"
    wrong.write_text(f"[{end.host}]:{end.port} {kind} {key}\n")
    with pytest.raises(NodeUnavailable) as told:
        opened(end, tmp_path / "work", wrong)
    assert "host key" in str(told.value).lower()
    with pytest.raises(NodeUnavailable):
        log_in(replace(end, known_hosts=wrong), CALL_S)
    with closing(opened(end, tmp_path / "work")) as right:
        assert right.inventory().guests == {}


def test_a_node_that_hangs_is_given_up_in_time(node, tmp_path):
    end, record = node.endpoint(), node.record()
    assert record is not None
    with closing(opened(end, tmp_path / "work")) as made:
        made.inventory()
        with stopped(record.pid):
            began = time.monotonic()
            with pytest.raises(NodeUnavailable):
                made.inventory()
            with pytest.raises(NodeUnavailable):
                opened(end, tmp_path / "other")
            assert time.monotonic() - began < 4 * CALL_S
    with closing(opened(end, tmp_path / "work")) as again:
        assert again.inventory().guests == {}


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A node that neither answers nor closes its connections."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_its_disk_is_full(node, tmp_path):
    end = node.endpoint()
    with closing(opened(end, tmp_path / "work")) as made:
        spec = GuestSpec(name=GUEST, image=tiny(), config_drive={"big": os.urandom(4 << 20)})
        inside(end, "fallocate -l $(($(stat -f -c '%f*%S' /))) /full; dd if=/dev/zero of=/fuller")
        with pytest.raises(NodeUnavailable) as told:
            made.launch(spec)
        assert "space" in str(told.value).lower()
        inside(end, "rm /full /fuller")
        made.cleanup()
        assert made.inventory().guests == {}
        made.launch(spec)
        made.cleanup()


def test_it_reboots_in_the_middle_of_a_suite(node, tmp_path):
    """What the suite saw until then is no word on the hypervisor, and nobody's fault."""
    end = node.endpoint()
    screen = tmp_path / "screen"
    words = ["--hypervisor", end.hypervisor, "--grade", "nested", "--work", str(tmp_path / "work")]
    words += ["--key-file", str(end.key_file), "--known-hosts", str(end.known_hosts)]
    with screen.open("wb") as out:
        suite = subprocess.Popen(
            [sys.executable, "-m", "ci.cli", "suite", "compute", *words, "--timeout", "90"],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while "test_launch" not in screen.read_text():
            assert suite.poll() is None, screen.read_text()
            assert time.monotonic() < deadline, screen.read_text()
            time.sleep(0.5)
        with suppress(HypervouchError, OSError, TimeoutError):  # it may also just hang up
            inside(end, "reboot -f; sleep 60")
        status = suite.wait(timeout=PATIENCE_S)
    finally:
        suite.kill()
        suite.wait()
    said = screen.read_text()
    assert status == NOT_TRIED, said
    assert "not tried: " in said
    assert ", 0 fails, " in said
    assert "Traceback" not in said
    node.stop()
    again = node.start(nested_nodes.BOOT_S)
    with closing(opened(again, tmp_path / "anew")) as made:
        assert made.inventory().guests == {}
