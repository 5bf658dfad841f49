# SPDX-License-Identifier: Apache-2.0
"""Runs of the compute suite that are recorded or replayed: what goes together, what is evidence."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from ci.errors import ConfigError
from ci.jobs.compute import page
from ci.jobs.compute.command import compute
from ci.jobs.compute.record import Said
from ci.jobs.compute.run import NOT_TRIED, Order, run
from ci.matrix import report
from ci.model.evidence import Evidence, Shown, System
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.recording import tape
from nodes.recording.redaction import Redaction

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SYSTEM = System(key="vcenter", title="VMware vCenter", grade=Grade.NONE)
FILE = Path("recording")


@pytest.mark.parametrize(
    ("order", "why"),
    [
        (Order(), "either a hypervisor or a recording"),
        (Order(hypervisor="vcenter://u@h", replay=FILE), "either a hypervisor or a recording"),
        (Order(replay=FILE, record=FILE), "nothing to record"),
        (Order(hypervisor="vcenter://u@h", record=FILE, report=FILE), "too little for a report"),
        (Order(replay=FILE, second="vcenter://u@h"), "knows its second host"),
        (Order(replay=FILE, features=frozenset({Feature.LAUNCH})), "as a whole"),
        (Order(hypervisor="qemu:///system", record=FILE), "cannot be recorded"),
        (Order(hypervisor="hyperv://u@h", second="zvm://u@h", record=FILE), "two ways"),
        (Order(replay=Path("nowhere")), "nowhere cannot be read"),
    ],
)
def test_what_does_not_go_together_is_told_and_nothing_is_tried(order: Order, why: str):
    lines: list[str] = []
    assert run(order, lines.append) == NOT_TRIED
    assert why in lines[0]
    assert "fix: " in lines[1]


def test_a_long_table_is_said_whole(monkeypatch: pytest.MonkeyPatch):
    """It has a line for each of 65 rows; a name among them is still shown as what it is."""
    table = "\n".join(f"operation.row-{at}  works  {'why ' * 20}" for at in range(100))

    def told(_order: Order, say: Callable[[str], None]) -> int:
        say(table)
        say("a name \x1b[2J")
        return NOT_TRIED

    monkeypatch.setattr("ci.jobs.compute.run._outcome", told)
    lines: list[str] = []
    run(Order(), lines.append)
    assert lines == [table, r"a name \x1b[2J"]


def test_the_command_takes_a_recording_instead_of_a_hypervisor(tmp_path: Path):
    file = tmp_path / "recording"
    file.write_text("{}\n")
    done = CliRunner().invoke(compute, ["--replay", str(file)])
    assert done.exit_code == NOT_TRIED
    assert "no line of a recording" in done.output


def test_without_the_library_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    known = {"hypervouch-recording": 1, "hypervisor": "ironic://u@h?node=x", "mark": "0a1b"}
    head = tape.Head.model_validate(known | {"timeout_s": 60.0})
    made = tape.Tape(head=head, exchanges=(), foot=tape.Foot(exchanges=0, words={}))
    tape.write(tmp_path / "recording", made, Redaction("a-long-password"))
    monkeypatch.setitem(sys.modules, "vcr", None)
    lines: list[str] = []
    assert run(Order(replay=tmp_path / "recording"), lines.append) == NOT_TRIED
    assert "a recording needs the Python module vcr" in lines[1]
    assert "pip install hypervouch[replay]" in lines[2]


def test_a_report_of_a_replay_says_so_and_is_never_read(tmp_path: Path):
    one = Evidence(
        system=SYSTEM,
        feature=Feature.LAUNCH.value,
        shown=Shown.WORKS,
        test_id="test_told.py::test_launch",
        at=NOW,
    )
    path = tmp_path / "report.json"
    report.write(path, name="compute", evidence=[one], replay_of="recording")
    assert '"replay-of": "recording"' in path.read_text()
    with pytest.raises(ConfigError, match="report of a replay, which is evidence of nothing"):
        report.read(path, now=NOW)


def test_its_page_says_so_and_cannot_be_signed(tmp_path: Path):
    said = Said(test_id="test_told.py::test_launch", feature=Feature.LAUNCH, outcome="passed")
    made = {
        replay_of: page.render(
            page.Run(
                hypervisor="vcenter://u@h",
                second="",
                system=SYSTEM,
                asks_guests=False,
                began=NOW,
                ended=NOW,
                words=[said],
                replay_of=replay_of,
            )
        )
        for replay_of in ("", "a&b")
    }
    assert "This is a replay</b> of a&amp;b" in made["a&b"]
    assert "Signed off" not in made["a&b"]
    assert "replay" not in made[""].lower()
    assert "Signed off" in made[""]
