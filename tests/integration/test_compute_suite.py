# SPDX-License-Identifier: Apache-2.0
"""The compute suite over the dummy: what it says and how it ends."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ci.jobs import trouble
from ci.jobs.compute.plugin import Overdue, ends_after
from ci.jobs.compute.run import Order, run
from ci.matrix import report
from ci.model.evidence import Evidence, Shown
from ci.model.feature import Feature
from ci.model.result import Grade, Status
from ci.results import junit

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@dataclass(frozen=True)
class Ran:
    status: int
    text: str
    evidence: dict[str, Evidence]


def compute(folder: Path, url: str, *features: Feature, second: str = "", told: str = "") -> Ran:
    """A run within this process: pytest within pytest, as it is for the command."""
    lines: list[str] = []
    order = Order(
        hypervisor=url,
        second=second,
        timeout_s=1.0,
        features=frozenset(features),
        report=folder / "report.json",
        trouble=folder / told if told else None,
    )
    status = run(order, lines.append)
    return Ran(status, "\n".join(lines), reported(folder / "report.json"))


def reported(path: Path) -> dict[str, Evidence]:
    if not path.exists():
        return {}
    _, words = report.read(path, now=datetime.now(UTC) + timedelta(minutes=1))
    return {one.test_id: one for one in words}


def command(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """A run as a process, in a folder whose own pytest must not count."""
    (folder / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (folder / "conftest.py").write_text("raise SystemExit('read by mistake')\n")
    return subprocess.run(
        [sys.executable, "-m", "ci.jobs.compute", *more],
        cwd=folder,
        env={**os.environ, "PYTEST_ADDOPTS": "--no-such-option"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def shown(ran: Ran, feature: Feature) -> set[Shown]:
    return {one.shown for one in ran.evidence.values() if one.feature == feature.value}


def test_the_whole_suite_on_an_honest_dummy(tmp_path: Path) -> None:
    xml, found = tmp_path / "c.xml", tmp_path / "report.json"
    hosts = ["--hypervisor", "dummy:///a", "--second", "dummy:///b"]
    done = command(tmp_path, *hosts, "--junit", str(xml), "--report", str(found))
    ran = Ran(done.returncode, done.stdout + done.stderr, reported(found))
    assert ran.status == 0, ran.text
    assert not [one for one in ran.evidence.values() if one.shown is Shown.FAILS]
    assert shown(ran, Feature.LIVE_MIGRATE) == {Shown.WORKS}
    assert shown(ran, Feature.CONSOLE_VNC) == {Shown.UNSUPPORTED}
    # A model has no shell: what takes one is no evidence.
    assert shown(ran, Feature.SET_ADMIN_PASSWORD) == set()
    assert {one.system.grade for one in ran.evidence.values()} == {Grade.EMULATOR}

    outcomes = {one.test_id: one for one in junit.parse(xml.read_bytes())}
    assert outcomes["test_memory::test_pause"].feature == Feature.PAUSE.value
    assert outcomes["test_memory::test_pause"].status is Status.PASS
    assert outcomes["test_consoles::test_vnc"].message == "unsupported: the dummy has no screen"
    system = junit.system(xml.read_bytes())
    assert system is not None
    assert (system.key, set(system.versions)) == ("dummy", {"python"})


LIES = {
    "delete": Feature.TERMINATE,
    "reboot": Feature.REBOOT,
    "pause": Feature.PAUSE,
    "unpause": Feature.UNPAUSE,
    "resume": Feature.RESUME,
    "revert": Feature.SNAPSHOT,
    "resize": Feature.RESIZE,
    "rebuild": Feature.REBUILD,
    "rescue": Feature.RESCUE,
    "encrypt": Feature.ENCRYPTED_VOLUME,
    "attach_volume": Feature.ATTACH_VOLUME,
    "detach_volume": Feature.DETACH_VOLUME,
    "extend_volume": Feature.EXTEND_VOLUME,
    "swap_volume": Feature.SWAP_VOLUME,
    "attach_interface": Feature.ATTACH_INTERFACE,
    "detach_interface": Feature.DETACH_INTERFACE,
    "live_migrate": Feature.LIVE_MIGRATE,
    "cache_image": Feature.CACHE_IMAGES,
    "tags": Feature.DEVICE_TAGS,
}


TOGETHER = (
    ("reboot", "pause", "resize", "rebuild", "extend_volume", "swap_volume", "live_migrate"),
    ("unpause", "resume", "revert", "rescue", "encrypt", "detach_volume", "detach_interface"),
    ("delete", "attach_volume", "attach_interface", "cache_image", "tags"),
)
"""Lies that do not hide each other."""


@pytest.mark.parametrize("lies", TOGETHER, ids=",".join)
def test_calls_that_do_nothing_are_found_out(tmp_path: Path, lies: tuple[str, ...]) -> None:
    features = [LIES[lie] for lie in lies]
    url = f"dummy:///a?lies={','.join(lies)}"
    ran = compute(tmp_path, url, *features, second="dummy:///b")
    assert ran.status == 1, ran.text
    for feature in features:
        assert Shown.FAILS in shown(ran, feature), ran.text
    assert {one.feature for one in ran.evidence.values()} == {one.value for one in features}


def test_every_lie_is_tried() -> None:
    assert sorted(lie for lies in TOGETHER for lie in lies) == sorted(LIES)


def test_what_it_has_not_is_unsupported_with_the_reason(tmp_path: Path) -> None:
    ran = compute(tmp_path, "dummy:///?unsupported=operation.pause,operation.attach-volume")
    assert ran.status == 0, ran.text
    assert shown(ran, Feature.PAUSE) == {Shown.UNSUPPORTED}
    (extend,) = [one for one in ran.evidence.values() if one.feature == Feature.EXTEND_VOLUME.value]
    assert extend.reason == "it takes operation.attach-volume: the URL says so"
    # No second host: nothing is said of what takes two.
    assert shown(ran, Feature.LIVE_MIGRATE) == set()
    assert "needs a second host" in ran.text


def test_what_may_work_in_a_moment_is_tried_again(tmp_path: Path) -> None:
    url = "dummy:///?fail=pause:transient:1"
    ran = compute(tmp_path, url, Feature.PAUSE)
    assert ran.status == 0, ran.text


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("dummy:///?dies=30", "the dummy died"),
        ("dummy:///?fail=suspend:node", "suspend was to fail"),
        ("dummy:///?boots=no", "No bootable device"),
        ("dummy:///?fly=1", "unknown keys: fly"),
    ],
)
def test_what_could_not_be_tried_is_said_in_one_sentence(
    tmp_path: Path, url: str, sentence: str
) -> None:
    ran = compute(tmp_path, url)
    assert ran.status == 2, ran.text
    (line,) = [line for line in ran.text.splitlines() if line.startswith("not tried: ")]
    assert sentence in line
    assert "Traceback" not in ran.text
    assert not [one for one in ran.evidence.values() if one.shown is Shown.FAILS]


@pytest.mark.parametrize(
    ("url", "fault", "status"),
    [
        ("dummy:///?dies=30", "node", trouble.NODE_STATUS),
        ("dummy:///?fly=1", "harness", trouble.HARNESS_STATUS),
    ],
)
def test_the_ci_is_told_whose_fault_it_was(
    tmp_path: Path, url: str, fault: str, status: int
) -> None:
    told = tmp_path / trouble.FILE
    assert compute(tmp_path, url, told=trouble.FILE).status == status
    assert json.loads(told.read_text())["fault"] == fault
    assert trouble.told(told) is not None


def test_a_call_of_ours_that_is_refused_spoils_no_other_test(tmp_path: Path) -> None:
    url = "dummy:///?fail=pause:caller"
    ran = compute(tmp_path, url, Feature.PAUSE, Feature.RESUME)
    assert ran.status == 0, ran.text
    assert (shown(ran, Feature.PAUSE), shown(ran, Feature.RESUME)) == (set(), {Shown.WORKS})
    assert "not tried       test_memory.py::test_pause" in ran.text
    assert "our own call was refused: pause was to fail" in ran.text


def test_a_test_that_takes_too_long_ends() -> None:
    with pytest.raises(Overdue, match=r"more than 0\.2 s"), ends_after(0.2):
        threading.Event().wait(60)


def test_a_report_has_to_say_how_real_it_is(tmp_path: Path) -> None:
    ran = compute(tmp_path, "uml:///")
    assert ran.status == 2
    assert "give --grade bare" in ran.text


def test_an_unknown_row_is_refused(tmp_path: Path) -> None:
    done = command(tmp_path, "--hypervisor", "dummy:///", "--features", "operation.fly")
    assert done.returncode == 2
    assert "operation.fly: no such row" in done.stderr
