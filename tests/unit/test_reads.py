# SPDX-License-Identifier: Apache-2.0
"""What the pages read, on a real SQLite file."""

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from ci.model.result import FailureClass, Judgement, Outcome, Result, Status
from ci.store import reads, schema
from ci.store.reads.records import BuildFilter
from tests.kit.core import database_in
from tests.kit.rows import GERRIT, NOW, Rows, ago, many_builds
from tests.kit.stories import fill


@pytest.fixture
def database(tmp_path):
    made = database_in(tmp_path)
    yield made
    made.close()


@pytest.fixture
def story(database, tmp_path):
    return fill(database, tmp_path / "logs")


@pytest.fixture
def queries(database):
    said = []
    sa.event.listen(
        database.engine, "before_cursor_execute", lambda *args: said.append(args[2]), named=False
    )
    return said


def test_an_empty_database_gives_empty_pages(database):
    overview = reads.status_overview(database)
    assert overview.running == overview.queued == overview.recent == overview.events == ()
    assert overview.outbox.pending == 0
    assert reads.builds_page(database, BuildFilter()).builds == ()
    assert reads.build_detail(database, "nope") is None
    assert reads.build_pulse(database, "nope") is None
    assert reads.change_detail(database, 1) is None
    assert reads.all_nodes(database) == ()


def test_status_says_why_builds_wait_and_what_is_owed(database, story):
    overview = reads.status_overview(database)
    assert [item.state for item in overview.connections] == ["connected"]
    assert overview.connections[0].read_up_to == ago(12)
    assert [build.id for build in overview.running] == [story.running]
    assert overview.running[0].grade == "nested"
    assert overview.queued[0].waiting.startswith("no usable node of label xen")
    assert overview.queued_total == 1
    assert overview.outbox.pending == 1
    assert "503" in overview.outbox.last_error
    assert overview.outbox.oldest_at == ago(300)
    assert overview.recent[0].builds[0].id == story.queued


def test_status_counts_events_nobody_has_planned(database, story, tmp_path):
    Rows(database, tmp_path).event(4799, 1, None, at=ago(1))
    overview = reads.status_overview(database)
    assert overview.events_unplanned == 1
    assert overview.events[0].decision is None


def test_builds_come_newest_first_without_a_query_per_row(database, queries):
    many_builds(database, 120)
    queries.clear()
    page = reads.builds_page(database, BuildFilter())
    assert len([text for text in queries if text.startswith("SELECT")]) == 2
    assert len(page.builds) == 50
    times = [build.queued_at for build in page.builds]
    assert times == sorted(times, reverse=True)
    assert page.builds[0].subject == "Teach the driver trick number 119"
    assert page.builds[0].attempts == 1
    assert page.builds[0].node == "qemu-1"


def test_the_cursor_walks_over_every_build_once(database):
    many_builds(database, 120)
    seen, after = [], None
    for _ in range(10):
        page = reads.builds_page(database, BuildFilter(), after=after, limit=50)
        seen += [build.id for build in page.builds]
        if page.next is None:
            break
        after = reads.parse_cursor(page.next)
    assert len(seen) == len(set(seen)) == 120


def test_the_cursor_parts_builds_of_the_same_instant(database, tmp_path):
    rows = Rows(database, tmp_path)
    buildset = rows.buildset(1, at=NOW)
    for index in range(7):
        rows.build(buildset, f"job-{index}", queued_at=NOW)
    first = reads.builds_page(database, BuildFilter(), limit=4)
    assert first.next is not None
    second = reads.builds_page(
        database, BuildFilter(), after=reads.parse_cursor(first.next), limit=4
    )
    assert second.next is None
    assert len({build.id for build in (*first.builds, *second.builds)}) == 7


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        (BuildFilter(project="acme/driver-1"), 10),
        (BuildFilter(project="acme/driver-1", job="functional-1"), 4),
        (BuildFilter(result="FAILURE"), 8),
        (BuildFilter(change=10_007), 1),
        (BuildFilter(label="xen"), 0),
        (BuildFilter(state="done"), 40),
        (BuildFilter(project="x' OR 1=1 --"), 0),
    ],
)
def test_filters(database, wanted, count):
    many_builds(database, 40)
    assert len(reads.builds_page(database, wanted).builds) == count


@pytest.mark.parametrize("text", ["", "x", "12", "-a", "12-", "9" * 40 + "-a", "1.5-a", "٣-a"])
def test_not_a_cursor(text):
    with pytest.raises(ValueError, match="not a cursor"):
        reads.parse_cursor(text)


def test_filter_choices(database, story):
    choices = reads.filter_choices(database)
    assert choices.projects == ("acme/virt-driver",)
    assert choices.jobs == ("functional-qemu", "functional-xen", "lint")
    assert choices.labels == ("qemu-tcg", "xen")


def test_a_build_with_failing_tests_first(database, story):
    detail = reads.build_detail(database, story.regression)
    assert detail is not None
    assert [attempt.kind for attempt in detail.attempts] == ["check", "baseline", "repeat"]
    check = detail.attempts[0]
    assert [item.status for item in check.outcomes[:3]] == ["fail", "fail", "skip"]
    assert "AssertionError" in check.outcomes[0].details
    assert check.outcomes[-1].details == ""
    assert (check.counts.passed, check.counts.failed, check.counts.skipped) == (8, 2, 1)
    assert check.facts["qemu"] == "7.2.15"
    assert detail.judgement is not None
    assert detail.judgement.failure_class is FailureClass.REGRESSION
    assert len(detail.judgement.findings) == 2
    assert detail.buildset.vote is not None
    assert (detail.buildset.vote.state, detail.buildset.vote.value) == ("delivered", -1)
    assert detail.buildset.verdict is not None
    assert [build.job for build in detail.siblings] == ["lint"]
    assert detail.newest_patchset == 2


def test_a_borrowed_baseline_is_shown_with_its_own_build(database, story, tmp_path):
    rows = Rows(database, tmp_path)
    buildset = rows.buildset(4800, at=ago(10))
    judgement = Judgement(
        result=Result.FAILURE,
        failure_class=FailureClass.REGRESSION,
        vote=-1,
        reason="this patch breaks 1 test",
        attempts_compared=(story.regression_check,),
    )
    build = rows.build(buildset, judgement=judgement)
    detail = reads.build_detail(database, build)
    assert detail is not None
    assert detail.attempts == ()
    assert [(item.id, item.build_id) for item in detail.borrowed] == [
        (story.regression_check, story.regression)
    ]
    assert detail.borrowed[0].counts.total == 11


def test_a_build_of_a_change_nobody_stored(database, tmp_path):
    rows = Rows(database, tmp_path)
    build = rows.build(rows.buildset(9, 3, at=NOW))
    detail = reads.build_detail(database, build)
    assert detail is not None
    assert (detail.build.subject, detail.change_url, detail.newest_patchset) == ("", "", 3)


def test_outcomes_are_read_in_one_query_however_many(database, story, tmp_path, queries):
    rows = Rows(database, tmp_path)
    build = rows.build(rows.buildset(4801, at=ago(10)))
    attempt = rows.attempt(build, began=ago(9))
    rows.outcomes(
        attempt, [Outcome(test_id=f"t::{n:04d}", status=Status.PASS) for n in range(1500)]
    )
    queries.clear()
    detail = reads.build_detail(database, build)
    assert detail is not None
    assert len(detail.attempts[0].outcomes) == 1500
    assert len([text for text in queries if text.startswith("SELECT")]) <= 12


def test_a_pulse_changes_when_something_visible_does(database, story):
    before = reads.build_pulse(database, story.running)
    assert before is not None
    assert (before.attempt_id, before.phase, before.finished) == (
        story.running_attempt,
        "run",
        False,
    )
    with database.write() as tx:
        tx.execute(
            sa.text("UPDATE ci_attempt SET phase = 'collect' WHERE id = :id"),
            {"id": story.running_attempt},
        )
    after = reads.build_pulse(database, story.running)
    assert after is not None
    assert after.mark != before.mark


def test_a_change_with_the_reason_why_nothing_ran(database, story):
    change = reads.change_detail(database, story.docs_change)
    assert change is not None
    assert change.patchsets[0].buildsets == ()
    assert "irrelevant-files" in (change.patchsets[0].events[0].decision or "")
    assert change.patchsets[0].events[0].author == "tomas"


def test_a_change_newest_patch_set_first(database, story):
    change = reads.change_detail(database, story.regression_change)
    assert change is not None
    assert [item.number for item in change.patchsets] == [2, 1]
    assert change.patchsets[1].buildsets[0].builds[0].id == story.superseded


def test_two_servers_may_know_the_same_number(database, story, tmp_path):
    rows = Rows(database, tmp_path)
    rows.change(4711, "Somebody else's", connection="other", updated_at=ago(9000))
    change = reads.change_detail(database, 4711)
    assert change is not None
    assert (change.connection, change.elsewhere) == (GERRIT, ("other",))
    other = reads.change_detail(database, 4711, connection="other")
    assert other is not None
    assert (other.subject, other.patchsets[0].buildsets) == ("Somebody else's", ())
    assert reads.change_detail(database, 4711, connection="third") is None


def test_events_of_no_patch_set_belong_to_the_change(database, story, tmp_path):
    Rows(database, tmp_path).event(4711, None, "builds cancelled", kind="change-abandoned")
    change = reads.change_detail(database, 4711)
    assert change is not None
    assert [event.kind for event in change.events] == ["change-abandoned"]


def test_nodes_with_the_build_that_holds_them(database, story):
    nodes = {node.name: node for node in reads.all_nodes(database)}
    assert list(nodes) == ["qemu-1", "qemu-2", "qemu-3", "xen-1"]
    assert (nodes["qemu-1"].build_id, nodes["qemu-1"].change_number) == (story.running, 4715)
    assert nodes["qemu-2"].attempt_id is None
    assert (nodes["qemu-3"].state, nodes["qemu-3"].failures) == ("Bad", 3)


def test_times_are_aware_utc(database, story):
    build = reads.builds_page(database, BuildFilter()).builds[0]
    assert build.queued_at.tzinfo is UTC
    assert isinstance(build.queued_at, datetime)


def test_the_version_of_the_schema_is_read(database):
    assert reads.schema_found(database) == schema.SCHEMA_VERSION
