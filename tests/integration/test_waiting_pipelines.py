# SPDX-License-Identifier: Apache-2.0
"""Pipelines that wait, on events and facts of a real Gerrit: what starts when, and only once."""

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ci.bell import Bell
from ci.clock import SystemClock
from ci.gerrit.facts import change_facts
from ci.gerrit.parse import parse_line
from ci.gerrit.rest import GerritRest
from ci.layout import Connection, Layout, Project
from ci.model.event import Event
from ci.model.facts import ChangeFacts
from ci.planner import Planner
from ci.sandbox.author import PushedChange, Pusher
from ci.sandbox.real.server import RealGerrit
from ci.store import events, schema
from tests.kit.core import GERRIT, database_in, layout, rows
from tests.kit.ssh_client import EventTap

# Whichever test comes first starts the real server.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ZUUL = {"approval": [{"label": "Verified", "value": 1, "by": ["zuul"]}]}


class Server:
    """The real server as the planner asks it; counts how often."""

    def __init__(self, rest: GerritRest) -> None:
        self.rest = rest
        self.asked = 0

    def changed_files(self, project: str, number: int, revision: str) -> tuple[str, ...]:
        return self.rest.changed_files(project, number, revision)

    def facts(self, project: str, number: int) -> ChangeFacts:
        self.asked += 1
        return change_facts(self.rest, project, number)

    def own_names(self) -> frozenset[str]:
        return frozenset({self.rest.settings.user, self.rest.account_self().name})


class Scene:
    """A project, its author, a first-party CI called zuul, and a planner that hears of it."""

    def __init__(self, gerrit: RealGerrit, folder: Path) -> None:
        self.gerrit, self.folder = gerrit, folder
        self.project = f"waits/{uuid.uuid4().hex[:8]}"
        gerrit.create_project(self.project)
        zuul = gerrit.create_account("zuul", "Zuul CI", stream_events=False, vote=True)
        self.author = Pusher(gerrit.admin, self.project, folder / "author")
        self.zuul = Pusher(zuul, self.project, folder / "zuul")
        self.database = database_in(folder / "state")
        account = gerrit.ci
        settings = Connection.model_validate(
            {
                "name": GERRIT,
                "server": account.host,
                "port": account.ssh_port,
                "user": account.user,
                "key-file": account.key_file,
                "known-hosts": account.known_hosts,
                "url": account.url,
                "password": {"from-env": "UNUSED"},
            }
        )
        self.server = Server(GerritRest(settings, account.password))
        self.tap = EventTap(account, nudge=self._nudge)

    def _nudge(self) -> None:
        self.author.push_branch({"nudge": uuid.uuid4().hex}, subject="Nudge")

    def plan(self, **pipeline: Any) -> None:
        """Take this pipeline from now on."""
        plan = layout(**pipeline)
        project = Project.model_validate({"name": self.project, "check": {"jobs": ["unit"]}})
        self._layout = plan.model_copy(update={"projects": (project,)})
        self.planner = Planner(
            self.database,
            SystemClock(),
            self._current,
            {GERRIT: self.server},
            bell=Bell(),
            on_queued=lambda: None,
            on_cancel=lambda _ids, _reason: None,
        )

    def _current(self) -> Layout:
        return self._layout

    def hear(self, change: PushedChange, kind: str) -> str:
        """Plan the next event of this kind about a change; returns what was decided."""

        def wanted(one: dict[str, Any]) -> bool:
            return one["type"] == kind and one["change"]["number"] == change.number

        (told,) = self.tap.until(wanted)
        event = parse_line(json.dumps(told).encode(), GERRIT)
        assert isinstance(event, Event)
        events.store(self.database, event, received_at=SystemClock().now(), move_watermark=False)
        self.planner.plan_pending()
        (row,) = rows(self.database, schema.event, key=event.key)
        return str(row.decision)

    def runs(self) -> Sequence[tuple[int, int]]:
        """(patch set, recheck) of every buildset."""
        found = rows(self.database, schema.buildset)
        return sorted((one.patchset, one.recheck) for one in found)

    def rest(self, method: str, change: PushedChange, path: str, body: object) -> None:
        self.gerrit.rest(method, f"/changes/{change.id}/{path}", body)


@pytest.fixture
def scene(real_gerrit: RealGerrit, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(real_gerrit, tmp_path)
    with made.tap:
        yield made
    made.server.rest.close()
    made.database.close()


def test_only_after_the_first_party_ci_voted_and_only_once(scene: Scene):
    scene.plan(require=ZUUL)
    change = scene.author.push_change("Fix", {"a": "1\n"})
    short = change.revision[:12]
    waits = f"check waits for Verified+1 by zuul on patch set 1 ({short})."
    assert scene.hear(change, "patchset-created") == waits
    scene.author.review(change, "I like it", labels={"Code-Review": 1})
    asked = scene.server.asked
    assert "asks for no recheck" in scene.hear(change, "comment-added")
    assert scene.server.asked == asked, "no rule looks at that label"
    scene.zuul.review(change, "Build failed", labels={"Verified": -1})
    assert scene.hear(change, "comment-added") == waits
    scene.zuul.review(change, "Build succeeded", labels={"Verified": 1})
    assert "check starts unit" in scene.hear(change, "comment-added")
    scene.zuul.review(change, "hm", labels={"Verified": 0})
    scene.hear(change, "comment-added")
    # Another text: two equal comments of one second count as one.
    scene.zuul.review(change, "Build succeeded again", labels={"Verified": 1})
    assert "has run or runs now" in scene.hear(change, "comment-added")
    assert scene.runs() == [(1, 0)]


def test_a_copied_vote_does_not_start_the_next_patch_set(scene: Scene):
    scene.plan(require=ZUUL, **{"skip-kinds": []})
    change = scene.author.push_change("Fix", {"a": "1\n"})
    scene.zuul.review(change, "Build succeeded", labels={"Verified": 1})
    scene.hear(change, "patchset-created")
    scene.hear(change, "comment-added")
    assert scene.runs() == [(1, 0)]
    time.sleep(1.1)
    again = scene.author.amend(change, subject="Another message")
    assert f"waits for Verified+1 by zuul on patch set 2 ({again.revision[:12]})" in scene.hear(
        change, "patchset-created"
    )
    scene.zuul.review(again, "again", labels={"Verified": 1})
    assert "check starts unit" in scene.hear(change, "comment-added")
    assert scene.runs() == [(1, 0), (2, 0)]


def test_a_rejected_vote_that_is_removed(scene: Scene):
    scene.plan(reject={"approval": [{"label": "Code-Review", "value": [-1, -2]}]})
    change = scene.author.push_change("Fix", {"a": "1\n"}, options=["l=Code-Review-2"])
    assert "waits for Code-Review-2 of admin" in scene.hear(change, "patchset-created")
    scene.rest("DELETE", change, "reviewers/admin/votes/Code-Review", None)
    assert "there is no Code-Review of admin" in scene.hear(change, "vote-deleted")
    assert scene.runs() == [(1, 0)]


def test_work_in_progress_topic_and_hashtags(scene: Scene):
    scene.plan(require={"topic": ["hv-.*"], "hashtag": ["ci"]})
    change = scene.author.push_change("Fix", {"a": "1\n"}, options=["wip"])
    assert "to be ready for review" in scene.hear(change, "patchset-created")
    scene.rest("POST", change, "ready", {})
    assert "no topic matches" in scene.hear(change, "wip-state-changed")
    scene.rest("PUT", change, "topic", {"topic": "hv-xen"})
    assert "no hashtag matches" in scene.hear(change, "topic-changed")
    scene.rest("POST", change, "hashtags", {"add": ["ci"]})
    assert "check starts unit" in scene.hear(change, "hashtags-changed")
    scene.rest("PUT", change, "topic", {"topic": "hv-kvm"})
    assert "has run or runs now" in scene.hear(change, "topic-changed")
    assert scene.runs() == [(1, 0)]


def test_the_commit_message_and_the_owner_stand_in_the_event(scene: Scene):
    scene.plan(require={"message": ["needs-lab: yes"], "owner": [r"admin@.*"]})
    change = scene.author.push_change("Fix", {"a": "1\n"}, body="needs-lab: yes")
    assert "check starts unit" in scene.hear(change, "patchset-created")
    assert scene.server.asked == 0
    other = scene.author.push_change("Fix more", {"b": "1\n"})
    assert "the commit message matches none" in scene.hear(other, "patchset-created")


def test_a_deleted_change_ends_its_builds(scene: Scene):
    scene.plan()
    change = scene.author.push_change("Fix", {"a": "1\n"})
    scene.hear(change, "patchset-created")
    scene.gerrit.rest("DELETE", f"/changes/{change.id}")
    assert scene.hear(change, "change-deleted") == "the change was deleted"
    (made,) = rows(scene.database, schema.buildset)
    assert made.state == "canceled"


def test_the_limit_of_rechecks_names_the_time(scene: Scene):
    scene.plan(**{"recheck-limit": {"count": 1, "per-s": 3600}})
    change = scene.author.push_change("Fix", {"a": "1\n"})
    scene.hear(change, "patchset-created")
    with scene.database.write() as tx:
        tx.execute(schema.buildset.update().values(state="done"))
    scene.author.comment(change, "recheck the node fell over")
    assert "check starts unit: admin asked" in scene.hear(change, "comment-added")
    with scene.database.write() as tx:
        tx.execute(schema.buildset.update().values(state="done"))
    (made,) = rows(scene.database, schema.buildset, recheck=1)
    assert (made.requested_by, made.request) == ("admin", "the node fell over")
    scene.author.comment(change, "recheck once more")
    allowed_at = made.created_at + timedelta(hours=1)
    assert f"allowed at {allowed_at:%Y-%m-%d %H:%M:%S} UTC" in scene.hear(change, "comment-added")
