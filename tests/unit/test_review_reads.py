# SPDX-License-Identifier: Apache-2.0
"""What the pages read of reviews: who voted, who agrees, what is owed, what waits."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from ci.model.result import Verdict, Vote
from ci.store import reads, schema
from ci.store.reads.votes import our_opinion, their_opinion
from tests.kit.core import database_in
from tests.kit.review_rows import SECOND, WAITS, approval, fill_reviews, notice
from tests.kit.rows import GERRIT, NOW, Rows, ago
from tests.kit.stories import fill


@pytest.fixture
def database(tmp_path):
    made = database_in(tmp_path)
    yield made
    made.close()


@pytest.fixture
def rows(database, tmp_path):
    made = Rows(database, tmp_path / "logs")
    fill(database, tmp_path / "logs")
    fill_reviews(made)
    return made


def change_of(database, number, **other):
    found = reads.change_detail(database, number, **other)
    assert found is not None
    return found


def test_an_empty_database_owes_nothing(database):
    page = reads.outbox_page(database, settled=True)
    assert (page.owed, page.notices, page.settled) == ((), (), ())
    assert reads.audit_page(database).lines == ()
    assert reads.agreement_page(database, now=NOW).rows == ()
    assert reads.patchset_runs(database, GERRIT, 1, 1) is None


def test_all_votes_of_a_patch_set_ours_first_then_programs_then_people(database, rows):
    votes = change_of(database, 4711, connection=GERRIT).patchsets[0].votes
    assert [(vote.who, vote.value, vote.agrees) for vote in votes] == [
        ("check", -1, None),
        ("Zuul", 1, False),
        ("Globex Xen CI", -1, True),
        ("Initech CI", 0, True),
        ("Tomas", 1, None),
    ]
    assert [vote.is_ci for vote in votes] == [True, True, True, True, False]
    assert votes[3].words == "failed"


def test_votes_stand_with_the_patch_set_they_were_given_to(database, rows):
    votes = change_of(database, 4711, connection=GERRIT).patchsets[1].votes
    assert [(vote.who, vote.opinion, vote.agrees) for vote in votes] == [
        ("check", 0, None),
        ("Zuul", 1, None),
    ]
    approval(rows, 4711, 3, "Zuul", 1)
    assert change_of(database, 4711, connection=GERRIT).patchsets[0].number == 3


@pytest.mark.parametrize(
    ("verdict", "broke", "opinion"),
    [
        (None, True, 0),
        (Verdict(vote=Vote(label="V", value=2), succeeded=True, reason=""), False, 1),
        (Verdict(vote=Vote(label="V", value=-2), succeeded=False, reason="", held=True), True, -1),
        (Verdict(vote=None, succeeded=True, reason="", report=False), False, 1),
        (Verdict(vote=None, succeeded=False, reason=""), True, -1),
        (Verdict(vote=None, succeeded=False, reason=""), False, 0),
        (Verdict(vote=Vote(label="V", value=0), succeeded=False, reason=""), False, 0),
    ],
)
def test_our_opinion_is_the_tests_whatever_the_policy_posts(verdict, broke, opinion):
    assert our_opinion(verdict, broke=broke) == opinion


def test_their_opinion_is_the_vote_or_else_the_word():
    assert [their_opinion(2, ""), their_opinion(-1, "succeeded"), their_opinion(0, "")] == [
        1,
        -1,
        0,
    ]
    assert [their_opinion(0, "succeeded"), their_opinion(0, "failed")] == [1, -1]


def test_what_a_patch_set_waits_for_is_shown_until_it_starts(database, rows):
    assert change_of(database, 4717).patchsets[0].waits == (WAITS,)
    rows.event(4717, 1, "check does not start: the comment asks for no recheck.", at=ago(200))
    assert change_of(database, 4717).patchsets[0].waits == (WAITS,)
    rows.buildset(4717, at=ago(100), pipeline="other")
    assert change_of(database, 4717).patchsets[0].waits == (WAITS,)
    rows.buildset(4717, at=ago(90), id="started")
    assert change_of(database, 4717).patchsets[0].waits == ()


@pytest.mark.parametrize("values", [{"status": "MERGED"}, {"patchset": 2}])
def test_nothing_waits_on_what_can_no_longer_start(database, rows, values):
    with database.write() as tx:
        mine = schema.change.c.number == 4717
        tx.execute(sa.update(schema.change).where(mine).values(**values))
    shown = change_of(database, 4717).patchsets
    assert [item.waits for item in shown] == [()] * len(shown)


def test_words_of_a_comment_are_no_decision(database, rows):
    rows.change(4719, "x")
    rows.event(4719, 1, "check starts a: ann asked for a recheck (check waits for you).", at=ago(9))
    assert change_of(database, 4719).patchsets[0].waits == ()


def test_topic_and_hashtags_come_from_the_newest_event(database, rows):
    change = change_of(database, 4717)
    assert (change.topic, change.hashtags, change.wip) == (
        "live-migration",
        ("needs-two-nodes",),
        False,
    )
    rows.event(4717, 1, "x", at=ago(1), payload={"change": None, "author": 3})
    assert change_of(database, 4717).topic == ""


def test_a_recheck_keeps_who_asked_why_and_its_stack(database, rows):
    change = change_of(database, 4718)
    again, first = change.patchsets[0].buildsets
    assert (again.requested_by, again.made_up, first.made_up) == ("jun", True, False)
    assert again.request == "bug 1934: the node lost its network"
    assert [one.number for one in again.depends] == [4710, 4650]
    assert change.seen_here == (4710,)


def test_the_outbox_shows_what_is_owed_and_the_rest_on_demand(database, rows):
    page = reads.outbox_page(database)
    assert [(item.state, item.change_number) for item in page.owed] == [
        ("pending", 4714),
        ("held", 4718),
    ]
    assert (page.owed_total, page.settled) == (2, ())
    assert page.owed[0].note.startswith("review.example.org answered 503")
    settled = reads.outbox_page(database, settled=True).settled
    assert [item.state for item in settled] == ["delivered", "dropped", "delivered"]


def test_notices_stand_under_each_reporter(database, rows):
    notice(rows, 3, "delivered one", reporter="hooks", state="delivered")
    page = reads.outbox_page(database)
    assert [(item.reporter, item.tries, item.note) for item in page.notices] == [
        ("hooks", 4, "hooks.example.org answered 502"),
        ("mail", 0, ""),
    ]
    assert page.notices_total == 2


def test_the_audit_log_page_by_page(database, rows):
    first = reads.audit_page(database, limit=1)
    assert (first.lines[0].action, first.lines[0].note) == (
        "outbox-drop",
        "posted by hand, see the change",
    )
    second = reads.audit_page(database, before=first.next, limit=1)
    assert [line.action for line in second.lines] == ["outbox-retry"]
    assert second.next is None


def agreement(database, **other):
    page = reads.agreement_page(database, now=NOW, **other)
    return {
        row.account: (row.both, row.agree, row.only_they_failed, row.only_we_failed)
        for row in page.rows
    }


def test_agreement_with_each_other_ci(database, rows):
    assert agreement(database) == {
        "globex-xen-ci": (2, 1, 1, 0),
        "initech-ci": (1, 1, 0, 0),
        "zuul": (3, 2, 0, 1),
    }
    page = reads.agreement_page(database, now=NOW)
    zuul = page.rows[-1]
    assert (zuul.name, zuul.newest_at) == ("Zuul", ago(200))
    assert [(one.change_number, one.ours, one.theirs) for one in zuul.differ] == [(4711, -1, 1)]


def test_only_votes_inside_the_window_count(database, rows):
    approval(rows, 4710, 1, "Old CI", -1, at=NOW - timedelta(days=40))
    assert "old-ci" not in agreement(database)
    assert agreement(database, days=60)["old-ci"] == (1, 0, 1, 0)


def test_a_ci_counts_once_per_patch_set_with_its_last_word(database, rows):
    approval(rows, 4710, 1, "Globex Xen CI", 1, label="Other", at=ago(50))
    assert agreement(database)["globex-xen-ci"] == (2, 2, 0, 0)
    approval(rows, 4710, 1, "Globex Xen CI", 0, label="", said="", at=ago(40))
    assert agreement(database)["globex-xen-ci"] == (2, 2, 0, 0)


def test_our_last_verdict_counts(database, rows):
    verdict = {"vote": None, "succeeded": True, "reason": "", "report": False, "held": False}
    rows.buildset(4711, 2, at=ago(5), recheck=1, verdict=verdict)
    assert agreement(database)["zuul"] == (3, 3, 0, 0)
    rows.buildset(4711, 2, at=ago(4), recheck=2, state="running")
    assert agreement(database)["zuul"] == (3, 3, 0, 0)


def test_people_and_other_servers_are_not_compared(database, rows):
    approval(rows, 4710, 1, "Ann", -1, is_ci=False)
    approval(rows, 4710, 1, "Far CI", -1, connection=SECOND)
    assert {"ann", "far-ci"}.isdisjoint(agreement(database))


def test_status_tells_of_each_connection(database, rows):
    overview = reads.status_overview(database)
    first, second = overview.connections
    assert (first.last_event_at, first.undelivered) == (ago(239.7), 2)
    assert (second.last_event_at, second.malformed, second.unknown) == (None, 2, 31)
    assert (second.missed_open, second.missed_waiting) == (1, 1)
    assert (overview.outbox.pending, overview.outbox.held, overview.outbox.notices) == (1, 1, 2)


def test_runs_of_a_patch_set_oldest_first_with_their_judgements(database, rows):
    found = reads.patchset_runs(database, GERRIT, 4718, 1)
    assert found is not None
    assert [item.recheck for item in found.buildsets] == [0, 1]
    assert [one.failure_class for one in found.judgements.values()].count("regression") == 1
    waiting = reads.patchset_runs(database, GERRIT, 4717, 1)
    assert waiting is not None
    assert (waiting.buildsets, waiting.waits) == ((), (WAITS,))
    unknown = reads.patchset_runs(database, GERRIT, 999_999, 1)
    assert unknown is not None
    assert unknown.buildsets == ()


def test_builds_of_one_server_only(database, rows):
    wanted = reads.records.BuildFilter(change=4711, connection=SECOND)
    assert [item.patchset for item in reads.builds_page(database, wanted).builds] == [6]
    assert reads.filter_choices(database).connections == (GERRIT, SECOND)
