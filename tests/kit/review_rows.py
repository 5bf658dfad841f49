# SPDX-License-Identifier: Apache-2.0
"""Votes of others, owed reviews, notices and audit lines for page tests, over the lab's story."""

from datetime import datetime, timedelta
from typing import Any

from ci.model.result import FailureClass, Judgement, Result, TestFinding
from ci.store import schema
from tests.kit.rows import GERRIT, NOW, Rows, ago

WAITS = "check waits for Verified +1 by zuul on 1d229271."
SECOND = "review-next"


def approval(rows: Rows, number: int, patchset: int, name: str, value: int, **other: Any) -> None:
    """A vote of somebody else; see the columns of `ci_approval` for `other`."""
    values = {
        "connection": GERRIT,
        "change_number": number,
        "patchset": patchset,
        "account": name.lower().replace(" ", "-"),
        "label": "Verified",
        "name": name,
        "value": value,
        "said": "",
        "is_ci": True,
        "at": ago(400),
    }
    rows.insert(schema.approval, values | other)


def notice(rows: Rows, row_id: int, subject: str, *, reporter: str, **other: Any) -> None:
    """A notice that a reporter has not taken yet; `other` goes into `ci_delivery`."""
    rows.insert(
        schema.notice,
        {
            "id": row_id,
            "kind": "held-vote",
            "key": f"held-vote:{row_id}",
            "subject": subject,
            "text": subject,
            "url": "https://ci.example.org/outbox",
            "facts": {},
            "occurred_at": ago(2000),
        },
    )
    values = {
        "notice_id": row_id,
        "reporter": reporter,
        "state": "pending",
        "tries": 4,
        "next_at": NOW + timedelta(seconds=90),
        "error": "hooks.example.org answered 502",
    }
    rows.insert(schema.delivery, values | other)


def audit(rows: Rows, action: str, subject: str, *, at: datetime, **other: Any) -> None:
    """A line of the audit log."""
    values = {"at": at, "by": "ann (command line)", "action": action, "subject": subject}
    rows.insert(schema.audit, values | {"note": ""} | other)


def fill_reviews(rows: Rows) -> None:
    """Votes around the story's changes, a held review, a recheck, a stack, a second server."""
    _votes(rows)
    _waits(rows)
    _recheck(rows)
    _second_server(rows)
    notice(rows, 1, "A negative vote on 4718,1 waits for you", reporter="hooks")
    notice(rows, 2, "A negative vote on 4718,1 waits for you", reporter="mail", tries=0, error="")
    audit(rows, "outbox-retry", "review 2", at=ago(900))
    audit(rows, "outbox-drop", "review 1", at=ago(300), note="posted by hand, see the change")


def _votes(rows: Rows) -> None:
    approval(rows, 4711, 2, "Zuul", 1, account="zuul", at=ago(1100))
    approval(rows, 4711, 2, "Globex Xen CI", -1, at=ago(700))
    approval(rows, 4711, 2, "Initech CI", 0, label="", said="failed", at=ago(650))
    approval(rows, 4711, 2, "Tomas", 1, is_ci=False, at=ago(600))
    approval(rows, 4711, 2, "Mira", 2, label="Code-Review", is_ci=False, at=ago(600))
    approval(rows, 4711, 1, "Zuul", 1, account="zuul", at=ago(2400))
    approval(rows, 4710, 1, "Zuul", 1, account="zuul", at=ago(3200))
    approval(rows, 4710, 1, "Globex Xen CI", -1, at=ago(3000))
    approval(rows, 4714, 1, "Zuul", 2, account="zuul", at=ago(200))


def _waits(rows: Rows) -> None:
    rows.change(4717, "Migrate guests without a shared disk", owner="ines")
    rows.event(
        4717,
        1,
        WAITS,
        at=ago(240),
        payload={
            "author": {"username": "ines"},
            "change": {"topic": "live-migration", "hashtags": ["needs-two-nodes"], "wip": False},
        },
    )


def _recheck(rows: Rows) -> None:
    """A change whose run was the lab's trouble, asked for again, and failed: held back."""
    rows.change(4718, "Keep the guest's clock over a restore", owner="jun")
    first = rows.buildset(4718, at=ago(1900), finished_at=ago(1700), pipeline="check")
    rows.build(
        first,
        judgement=Judgement(
            result=Result.NODE_FAILURE,
            failure_class=FailureClass.INFRA,
            vote=0,
            reason="no node could be reached in 3 tries",
        ),
        started_at=ago(1890),
        finished_at=ago(1700),
    )
    rows.vote(first, None, "dropped", error="4718,1 was voted on by hand")
    stack = [
        dependency(4710, "acme/virt-driver"),
        dependency(4650, "acme/console"),
    ]
    again = rows.buildset(
        4718,
        at=ago(1200),
        finished_at=ago(800),
        recheck=1,
        reason="jun asked for a recheck of patch set 1 of change 4718",
        requested_by="jun",
        request="bug 1934: the node lost its network",
        depends=stack,
        made_up=True,
        verdict={
            "vote": {"label": "Verified", "value": -1},
            "succeeded": False,
            "reason": "functional-qemu: this patch breaks 1 test that the branch tip passes",
            "report": True,
            "held": True,
        },
    )
    finding = TestFinding(
        test_id="tests.functional.test_resume.TestResume::test_clock_goes_on",
        failure_class=FailureClass.REGRESSION,
        reason="passes on the branch tip, and failed again when repeated on another lease",
        message="the clock is 41 s behind",
    )
    rows.build(
        again,
        judgement=Judgement(
            result=Result.FAILURE,
            failure_class=FailureClass.REGRESSION,
            vote=-1,
            reason="this patch breaks 1 test that the branch tip passes",
            findings=(finding,),
        ),
        started_at=ago(1190),
        finished_at=ago(800),
    )
    rows.vote(again, -1, "held", tries=0, settled_at=None)


def dependency(number: int, project: str) -> dict[str, Any]:
    return {
        "project": project,
        "branch": "master",
        "number": number,
        "patchset": 1,
        "revision": f"{number:040x}",
        "ref": f"refs/changes/{number % 100:02d}/{number}/1",
    }


def _second_server(rows: Rows) -> None:
    """Another server, away, that knows a change of a number which the first one knows too."""
    rows.insert(
        schema.connection_state,
        {
            "name": SECOND,
            "state": "away",
            "message": "connection refused; next try in 40 s",
            "since": ago(900),
            "malformed": 2,
            "unknown": 31,
        },
    )
    rows.change(4711, "Somebody else's change", connection=SECOND, updated_at=ago(9000))
    at = ago(100)
    rows.event(4711, 7, None, connection=SECOND, source="catch-up", at=at)
    buildset = rows.buildset(
        4711,
        6,
        at=ago(90),
        connection=SECOND,
        id="second-server-0001",
        state="queued",
        made_up=True,
    )
    rows.build(
        buildset,
        state="queued",
        queued_at=ago(90),
        waiting="its turn comes soon",
        position=1,
        eta_at=ago(-240),
    )
