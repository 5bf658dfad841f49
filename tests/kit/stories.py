# SPDX-License-Identifier: Apache-2.0
"""A lab's morning for page tests and screenshots.

`fill` writes one of each: a build that passed, a regression with its check, repeat and
baseline, one whose node died and which passed elsewhere, one that runs now, one that waits, a
superseded one, a merge conflict, and a docs-only change for which nothing ran.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from ci.model.result import (
    FailureClass,
    Judgement,
    Outcome,
    Result,
    Status,
    TestFinding,
    Verdict,
    Vote,
)
from ci.store import schema
from ci.store.builds import make_id
from ci.store.database import Database
from tests.kit.rows import GERRIT, NOW, Rows, ago

TRACE = """guest = <Guest name='resume-1' state='paused'>

    def test_memory_survives(guest):
        guest.remember("token", "7f3a")
        guest.pause()
        guest.resume()
>       assert guest.recall("token", timeout_s=5) == "7f3a"
E       AssertionError: guest does not answer after resume: QMP said 'paused' for 5.0 s
E       assert None == '7f3a'

tests/functional/test_resume.py:31: AssertionError
"""


@dataclass(frozen=True, kw_only=True)
class Story:
    """Ids that `fill` gave, by what happened to them."""

    passed: str
    regression: str
    retried: str
    running: str
    queued: str
    superseded: str
    conflict: str
    regression_check: str
    running_attempt: str
    docs_change: int = 4713
    regression_change: int = 4711


def suite(broken: dict[str, str] | None = None) -> list[Outcome]:
    """The functional suite of the story; `broken` maps test ids to their message."""
    names = {
        "test_launch": ("TestLaunch::test_boots_to_console", "TestLaunch::test_refuses_bad_image"),
        "test_pause": ("TestPause::test_cpus_stop", "TestPause::test_twice_is_harmless"),
        "test_resume": ("TestResume::test_memory_survives", "TestResume::test_clock_goes_on"),
        "test_reboot": ("TestReboot::test_soft", "TestReboot::test_hard"),
        "test_snapshot": ("TestSnapshot::test_restore", "TestSnapshot::test_delete"),
    }
    broken = broken or {}
    result = []
    for module, tests in names.items():
        for index, test in enumerate(tests):
            test_id = f"tests.functional.{module}.{test}"
            message = broken.get(test_id, "")
            result.append(
                Outcome(
                    test_id=test_id,
                    status=Status.FAIL if message else Status.PASS,
                    duration_s=1.37 * (index + 1) + len(module) / 10,
                    message=message,
                    details=TRACE if message else "",
                )
            )
    result.append(
        Outcome(
            test_id="tests.functional.test_migrate.TestMigrate::test_live",
            status=Status.SKIP,
            message="needs two nodes",
        )
    )
    return result


RESUME = "tests.functional.test_resume.TestResume::test_memory_survives"
CLOCK = "tests.functional.test_resume.TestResume::test_clock_goes_on"
WHY = "guest does not answer after resume: QMP said 'paused' for 5.0 s"


def console_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """What such a suite prints."""
    lines = [
        "# merge: refs/changes/11/4711/2 onto master 9b1c4f0a6de2",
        "# lease: qemu-1 (qemu-tcg), booted in 3.9 s, host key SHA256:Zk1v pinned",
        "# setup: python3 -m venv .venv && .venv/bin/pip install --no-index -e .",
        "Successfully installed acme-virt-0.4.0",
        "# run: .venv/bin/pytest tests/functional --junitxml=results.xml",
        "\x1b[1m============ test session starts ============\x1b[0m",
        f"collected {len(outcomes)} items",
        "",
    ]
    words = {
        Status.PASS: "\x1b[32mPASSED\x1b[0m",
        Status.FAIL: "\x1b[31mFAILED\x1b[0m",
        Status.ERROR: "\x1b[31mERROR\x1b[0m",
        Status.SKIP: "\x1b[33mSKIPPED\x1b[0m",
    }
    for item in outcomes:
        lines.append(f"{item.test_id} {words[item.status]}")
        lines.extend(item.details.splitlines())
    lines.append("# collect: results.xml, 2 artifacts, 18.4 kB")
    return lines


def fill(database: Database, logs_dir: Path) -> Story:
    """Write the whole morning; see the module's docstring."""
    rows = Rows(database, logs_dir)
    _lab(rows)
    regression, check = _regression(rows)
    running, attempt = _running(rows)
    return Story(
        passed=_passed(rows),
        regression=regression,
        regression_check=check,
        retried=_retried(rows),
        running=running,
        running_attempt=attempt,
        queued=_queued(rows),
        superseded=_superseded(rows),
        conflict=_conflict(rows),
    )


def _lab(rows: Rows) -> None:
    rows.insert(
        schema.connection_state,
        {
            "name": GERRIT,
            "state": "connected",
            "message": "Gerrit 3.10.2, subscribed to 5 event types",
            "since": ago(7 * 3600),
            "malformed": 0,
            "unknown": 3,
        },
    )
    rows.insert(schema.watermark, {"connection": GERRIT, "at": ago(12)})
    rows.node("qemu-2", checked_at=ago(40))
    rows.node(
        "qemu-3", "Bad", failures=3, reason="three builds of different changes: no SSH banner"
    )
    rows.node("xen-1", label="xen", provider="xen-lab", state="Maintenance", reason="new dom0")
    rows.change(4713, "Say in the README how to pause a guest", owner="tomas")
    rows.event(
        4713,
        1,
        "nothing runs: all 1 changed files match irrelevant-files of functional-qemu (^docs/)",
        at=ago(1500),
        author="tomas",
    )


def _regression(rows: Rows) -> tuple[str, str]:
    rows.change(4711, "Resume guests through one QMP call", patchset=2)
    rows.event(4711, 1, "check: 1 job queued", at=ago(2500))
    rows.event(4711, 2, "check: 1 job queued; builds of patch set 1 cancelled", at=ago(1330))
    broken = {RESUME: WHY, CLOCK: WHY}
    findings = tuple(
        TestFinding(
            test_id=test_id,
            failure_class=FailureClass.REGRESSION,
            reason="passes on the branch tip, and failed again when repeated on another lease",
            message=WHY,
        )
        for test_id in broken
    )
    buildset = rows.buildset(
        4711,
        2,
        at=ago(1329),
        finished_at=ago(820),
        verdict=asdict(
            Verdict(
                vote=Vote(label="Verified", value=-1),
                succeeded=False,
                reason="functional-qemu: this patch breaks 2 tests that the branch tip passes",
            )
        ),
    )
    build = make_id("build", buildset, "functional-qemu")
    attempts = tuple(make_id("attempt", build, number) for number in (1, 2, 3))
    judgement = Judgement(
        result=Result.FAILURE,
        failure_class=FailureClass.REGRESSION,
        vote=-1,
        reason=f"this patch breaks 2 tests that the branch tip passes: {RESUME}, {CLOCK}",
        findings=findings,
        attempts_compared=attempts,
    )
    rows.build(
        buildset,
        judgement=judgement,
        queued_at=ago(1329),
        started_at=ago(1328),
        finished_at=ago(820),
    )
    rows.build(
        buildset,
        "lint",
        judgement=Judgement(
            result=Result.SUCCESS,
            failure_class=FailureClass.PASS,
            vote=1,
            reason="the one test passed",
        ),
        voting=False,
        queued_at=ago(1329),
        started_at=ago(1327),
        finished_at=ago(1301),
    )
    failed = {"result": "FAILURE", "exit_status": 1}
    rows.attempt(build, 1, began=ago(1328), took_s=171, **failed)
    rows.attempt(build, 2, began=ago(1156), took_s=158, kind="baseline", node="qemu-2")
    rows.attempt(build, 3, began=ago(997), took_s=176, kind="repeat", node="qemu-2", **failed)
    for attempt, outcomes in zip(attempts, (suite(broken), suite(), suite(broken)), strict=True):
        rows.outcomes(attempt, outcomes)
        rows.console(build, attempt, console_lines(outcomes), began=ago(1320))
        rows.artifacts(
            build,
            attempt,
            {
                "results.xml": b"<testsuite tests='11'/>",
                "qemu/serial.log": b"qemu: started\n" * 900,
            },
        )
    rows.vote(buildset, -1, "delivered")
    return build, attempts[0]


def _passed(rows: Rows) -> str:
    rows.change(4710, "Read the guest's console without blocking", owner="ines")
    rows.event(4710, 1, "check: 1 job queued", at=ago(3300), author="ines")
    buildset = rows.buildset(
        4710,
        at=ago(3299),
        finished_at=ago(3100),
        verdict=asdict(
            Verdict(
                vote=Vote(label="Verified", value=1), succeeded=True, reason="every job succeeded"
            )
        ),
    )
    judgement = Judgement(
        result=Result.SUCCESS,
        failure_class=FailureClass.PASS,
        vote=1,
        reason="10 of 11 tests passed, 1 skipped",
        attempts_compared=(make_id("attempt", make_id("build", buildset, "functional-qemu"), 1),),
    )
    build = rows.build(
        buildset,
        judgement=judgement,
        queued_at=ago(3299),
        started_at=ago(3298),
        finished_at=ago(3100),
    )
    attempt = rows.attempt(build, began=ago(3298), took_s=198, node="qemu-2")
    rows.outcomes(attempt, suite())
    rows.console(build, attempt, console_lines(suite()), began=ago(3290))
    rows.vote(buildset, 1, "delivered")
    return build


def _retried(rows: Rows) -> str:
    rows.change(4714, "Snapshot guests with dirty bitmaps", owner="jun")
    rows.event(4714, 1, "check: 1 job queued", at=ago(700), author="jun")
    buildset = rows.buildset(
        4714,
        at=ago(699),
        finished_at=ago(300),
        verdict=asdict(
            Verdict(
                vote=Vote(label="Verified", value=1), succeeded=True, reason="every job succeeded"
            )
        ),
    )
    build = rows.build(
        buildset,
        judgement=Judgement(
            result=Result.SUCCESS,
            failure_class=FailureClass.PASS,
            vote=1,
            reason="10 of 11 tests passed, 1 skipped",
        ),
        queued_at=ago(699),
        started_at=ago(698),
        finished_at=ago(300),
    )
    first = rows.attempt(
        build,
        1,
        began=ago(698),
        took_s=90,
        node="qemu-3",
        result="NODE_FAILURE",
        error="qemu-3 stopped answering while the suite ran: connection reset by peer",
        hint="look at the node's own log; the build went on elsewhere",
        exit_status=None,
    )
    second = rows.attempt(build, 2, began=ago(600), took_s=300, node="qemu-2")
    rows.console(build, first, console_lines(suite())[:9], began=ago(690))
    rows.outcomes(second, suite())
    rows.console(build, second, console_lines(suite()), began=ago(590))
    rows.vote(
        buildset,
        1,
        "pending",
        tries=2,
        error="review.example.org answered 503; next try in 30 s",
    )
    return build


def _running(rows: Rows) -> tuple[str, str]:
    rows.change(4715, "Attach volumes to a paused guest", owner="ines", patchset=3)
    rows.event(
        4715, 3, "check: 1 job queued (recheck 1)", at=ago(75), kind="comment-added", author="ines"
    )
    buildset = rows.buildset(4715, 3, at=ago(74), state="running", reason="recheck by ines")
    build = rows.build(buildset, state="running", queued_at=ago(74), started_at=ago(72))
    attempt = rows.attempt(
        build,
        began=ago(72),
        state="running",
        phase="run",
        result=None,
        exit_status=None,
        leased_at=ago(70),
        suite_started_at=ago(31),
        finished_at=None,
    )
    rows.console(build, attempt, console_lines(suite())[:11], began=ago(70))
    rows.node("qemu-1", holder=attempt, leased_at=ago(70), expires_at=NOW + timedelta(seconds=48))
    return build, attempt


def _queued(rows: Rows) -> str:
    rows.change(4716, "Drop the polling loop in Guest.wait()", owner="jun")
    rows.event(4716, 1, "check: 1 job queued", at=ago(20), author="jun")
    buildset = rows.buildset(4716, at=ago(19), state="queued")
    return rows.build(
        buildset,
        "functional-xen",
        state="queued",
        node_label="xen",
        waiting="no usable node of label xen: xen-1 is in Maintenance (new dom0)",
        position=1,
        queued_at=ago(19),
    )


def _superseded(rows: Rows) -> str:
    why = "superseded by patch set 2"
    buildset = rows.buildset(4711, 1, at=ago(2499), state="canceled", finished_at=ago(1330))
    return rows.build(
        buildset,
        state="canceled",
        result="CANCELED",
        failure_class="canceled",
        cancel_reason=why,
        reason=why,
        queued_at=ago(2499),
        finished_at=ago(1330),
    )


def _conflict(rows: Rows) -> str:
    rows.change(4709, "Rename Guest to Domain", owner="tomas")
    rows.event(4709, 1, "check: 1 job queued", at=ago(4000), author="tomas")
    why = "does not merge onto master: conflicts in acme_virt/guest.py"
    buildset = rows.buildset(
        4709,
        at=ago(3999),
        finished_at=ago(3990),
        verdict=asdict(Verdict(vote=None, succeeded=False, reason=why, report=False)),
    )
    judgement = Judgement(
        result=Result.MERGE_CONFLICT, failure_class=FailureClass.CONFLICT, vote=0, reason=why
    )
    build = rows.build(
        buildset,
        judgement=judgement,
        queued_at=ago(3999),
        started_at=ago(3998),
        finished_at=ago(3990),
    )
    rows.attempt(
        build,
        began=ago(3998),
        took_s=8,
        result="MERGE_CONFLICT",
        error=why,
        hint="rebase the change and push it again",
        node=None,
        grade="none",
        hypervisor="",
        facts={},
        tree=None,
        exit_status=None,
        leased_at=None,
        suite_started_at=None,
    )
    return build
