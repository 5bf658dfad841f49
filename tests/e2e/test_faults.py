# SPDX-License-Identifier: Apache-2.0
"""Faults between `hypervouch serve` and a real Gerrit: whatever breaks, one vote a patch set.

The fronts between the two are stand-ins for a bad network; both ends are real.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from ci.sandbox.author import PushedChange, Pusher
from ci.sandbox.real.server import RealGerrit
from tests.kit.faulty_http import LOGIN_PAGE, Fronted, Rule, fronted
from tests.kit.installation import GOOD, connection_to
from tests.kit.stage import SLOW, Stage

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CUT_OFF_S = float(os.environ.get("HYPERVOUCH_CUT_OFF_S", "12"))
"""How long we are cut off at least; the pushes of the meantime may take longer."""
MISSED = int(os.environ.get("HYPERVOUCH_CUT_OFF_COUNT", "12"))
"""Patch sets that come meanwhile."""
QUICK = {"keepalive-s": 3, "silence-s": 4, "catch-up-every-s": 30}


class FaultyStage(Stage):
    """An installation that sees its Gerrit through fronts which can fail."""

    def __init__(
        self, gerrit: RealGerrit, directory: Path, faulty: Fronted, **options: object
    ) -> None:
        super().__init__(gerrit, directory, connection=_through(faulty), **options)
        self.faulty = faulty


def _through(faulty: Fronted) -> dict[str, object]:
    return {**connection_to(faulty.server), **QUICK}


@pytest.fixture
def stage(
    real_gerrit: RealGerrit, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[FaultyStage]:
    with fronted(real_gerrit.ci, tmp_path) as faulty:
        made = FaultyStage(real_gerrit, tmp_path, faulty, **getattr(request, "param", {}))
        made.ci.start()
        yield made
        made.ci.stop()


def _votes_once(stage: Stage, changes: Sequence[PushedChange], *, comments: int = 1) -> None:
    """Wait for the last of them; then none has one too few, too many, or a wrong one."""
    for change in changes:
        stage.ci.wait_for_comments(stage.author, change, comments, seconds=180)
    time.sleep(2)
    said = {change.number: stage.ci.said(stage.author, change) for change in changes}
    wrong = {n: s for n, s in said.items() if (s.vote, len(s.comments)) != (1, comments)}
    assert not wrong


def _cut_off(stage: FaultyStage, how: str) -> Callable[[], None]:
    """Cut us off; returns how to end it."""
    if how == "stopped":
        assert stage.ci.stop() == 0
        return stage.ci.start
    if how == "frozen":
        stage.ci.freeze()
        return stage.ci.thaw
    stage.faulty.ssh.freeze()
    return stage.faulty.ssh.thaw


@pytest.mark.parametrize(("how", "count"), [("stopped", MISSED), ("frozen", 6), ("deaf", 6)])
def test_cut_off_while_patch_sets_and_rechecks_arrive(stage: FaultyStage, how: str, count: int):
    known = [stage.push(GOOD, f"Before {n}") for n in range(5)]
    _votes_once(stage, known)
    restore, began = _cut_off(stage, how), time.monotonic()
    missed = [stage.push(GOOD, f"Missed {n}") for n in range(count - 1)]
    outdated = stage.push(GOOD, "Missed twice")
    missed.append(stage.author.amend(outdated, {"cases.txt": GOOD + "amended pass\n"}))
    for change in known:
        stage.author.comment(change, "recheck we were away")
    time.sleep(max(0.0, CUT_OFF_S - (time.monotonic() - began)))
    restore()
    _votes_once(stage, missed)
    _votes_once(stage, known, comments=2)
    if how == "stopped":  # else the stream told of the first one too
        assert {build["patchset"] for build in stage.ci.builds(outdated)} == {2}


def test_a_stream_that_hangs_is_noticed_while_it_hangs(stage: FaultyStage):
    stage.faulty.ssh.freeze()
    change = stage.push(GOOD, "Nobody told us")
    stage.ci.wait_for_comments(stage.author, change, seconds=60)
    stage.faulty.ssh.thaw()
    after = stage.push(GOOD, "The stream again")
    _votes_once(stage, [change, after])


def test_gerrit_frozen_and_thawed_loses_nothing(stage: FaultyStage):
    changes = [stage.push(SLOW, f"Frozen {n}") for n in range(4)]
    assert stage.gerrit.pid
    os.kill(stage.gerrit.pid, signal.SIGSTOP)
    try:
        time.sleep(CUT_OFF_S)
    finally:
        os.kill(stage.gerrit.pid, signal.SIGCONT)
    changes.append(stage.push(GOOD, "After the thaw"))
    _votes_once(stage, changes)


POST = {"method": "POST", "path": r"/review$"}
FAULTS = {
    "409": Rule(**POST, status=409, count=2),
    "429": Rule(**POST, status=429, retry_after_s=1, count=2),
    "500": Rule(**POST, status=500, count=3),
    "503": Rule(**POST, status=503, count=3),
    "html": Rule(**POST, html=LOGIN_PAGE, count=2),
    "reply lost": Rule(**POST, drop_reply=True, count=2),
    "reads fail": Rule(method="GET", path=r"/changes/", status=503, count=6),
    "reads in html": Rule(method="GET", path=r"/changes/", html=LOGIN_PAGE, count=6),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_answer_that_is_none_costs_no_vote_and_doubles_none(stage: FaultyStage, fault: str):
    stage.faulty.http.add(FAULTS[fault])
    changes = [stage.push(GOOD, f"{fault} {n}") for n in range(2)]
    _votes_once(stage, changes)


def test_without_rest_the_votes_go_by_ssh(stage: FaultyStage):
    change = stage.push(SLOW, "REST goes away")
    stage.ci.wait(
        lambda: any(b["phase"] == "run" for b in stage.ci.builds(change)), 60, "it to run"
    )
    stage.faulty.http.add(Rule(path=r"/changes/", status=503, count=0))
    _votes_once(stage, [change])
    stage.faulty.http.clear()
    after = stage.push(GOOD, "REST is back")
    _votes_once(stage, [change, after])


@pytest.mark.parametrize("how", ["refuses", "silent"])
def test_a_dead_server_keeps_no_other_waiting(real_gerrit: RealGerrit, tmp_path: Path, how: str):
    with ExitStack() as held:
        dead = held.enter_context(fronted(real_gerrit.ci, tmp_path))
        extra = [
            {"connection": {**connection_to(dead.server, "gone"), **QUICK}},
            {"pipeline": {"name": "elsewhere", "connection": "gone", "policy": "vote"}},
            {"project": {"name": "elsewhere", "elsewhere": {"jobs": ["suite"]}}},
        ]
        real_gerrit.create_project("elsewhere")
        other = Pusher(real_gerrit.admin, "elsewhere", tmp_path / "elsewhere")
        stage = Stage(real_gerrit, tmp_path, items=extra)
        stage.ci.start()
        held.callback(stage.ci.stop)
        stage.ci.wait(lambda: _states(stage)["gone"] == "connected", 60, "the other one")
        if how == "silent":
            dead.http.add(Rule(stall_s=600, count=0))
        else:
            dead.http.down()
        # These are told of and stored, but what has to be asked about them gets no answer.
        for number in range(3):
            other.push_change(f"Unanswered {number}", {f"{number}.txt": "x\n"})
        time.sleep(2)
        if how == "refuses":
            dead.ssh.down()
        began = time.monotonic()
        _votes_once(stage, [stage.push(GOOD, f"Alive {n}") for n in range(3)])
        assert time.monotonic() - began < 25


def _states(stage: Stage) -> dict[str, str]:
    return {one["name"]: one["state"] for one in stage.ci.get("index.json")["connections"]}


def test_two_accounts_on_one_server_give_a_vote_each(real_gerrit: RealGerrit, tmp_path: Path):
    other = real_gerrit.create_account("xen-ci", "Acme Xen CI", stream_events=True, vote=True)
    extra = [
        {"connection": connection_to(other, "xen")},
        {"pipeline": {"name": "xen_check", "connection": "xen", "policy": "vote"}},
    ]
    stage = Stage(real_gerrit, tmp_path, items=extra, project_keys={"xen_check": ["suite"]})
    stage.ci.start()
    try:
        change = stage.push(GOOD)
        stage.ci.wait(lambda: len(stage.author.votes(change)) == 2, 60, "both votes")
        time.sleep(2)
        assert stage.author.votes(change) == {real_gerrit.ci_user: 1, "xen-ci": 1}
        assert len(stage.author.messages(change, author="xen-ci")) == 1
        stage.author.comment(change, "recheck xen_check")
        stage.ci.wait(
            lambda: len(stage.author.messages(change, author="xen-ci")) == 2,
            60,
            "the one recheck",
        )
        time.sleep(2)
        assert len(stage.author.messages(change, author=real_gerrit.ci_user)) == 1
    finally:
        stage.ci.stop()


@pytest.mark.parametrize("off_s", [3600, -3600])
def test_a_clock_an_hour_off_loses_and_doubles_nothing(
    real_gerrit: RealGerrit, tmp_path: Path, off_s: int
):
    stage = Stage(real_gerrit, tmp_path, clock_off_s=off_s)
    stage.ci.start()
    try:
        before = stage.push(GOOD, "Before")
        _votes_once(stage, [before])
        stage.ci.kill()
        missed = stage.push(GOOD, "Missed")
        stage.author.comment(before, "recheck")
        stage.ci.start()
        _votes_once(stage, [missed])
        _votes_once(stage, [before], comments=2)
    finally:
        stage.ci.stop()
