# SPDX-License-Identifier: Apache-2.0
"""What a CI may expect of a review server: one contract, over the sandbox and real Gerrits."""

import os
import re
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from ci.sandbox.account import ReviewServer
from ci.sandbox.author import PushedChange, Pusher, PushRefused, git_environment
from ci.sandbox.client import RestFailed
from ci.sandbox.real.site import make_key
from tests.kit.review_scene import TAG, Scene
from tests.kit.ssh_client import query, run_ssh


def test_push_makes_a_change_and_an_event(scene: Scene) -> None:
    with scene.tap() as tap:
        change = scene.author.push_change("Fix resume", {"driver.py": "state = 'better'\n"})
        event = tap.next("patchset-created", project=scene.project)
    assert event["change"]["number"] == change.number
    assert event["change"]["id"] == change.change_id
    assert event["change"]["subject"] == "Fix resume"
    assert event["change"]["status"] == "NEW"
    assert event["change"]["url"] == f"{scene.host.admin.url}/c/{scene.project}/+/{change.number}"
    assert event["patchSet"]["number"] == 1
    assert event["patchSet"]["revision"] == change.revision
    assert event["patchSet"]["ref"] == change.ref
    assert event["patchSet"]["kind"] == "REWORK"
    assert event["uploader"]["username"] == "admin"
    assert event["refName"] == "refs/heads/master"
    assert abs(event["eventCreatedOn"] - time.time()) < 60


def test_amending_makes_the_next_patch_set_of_its_kind(scene: Scene) -> None:
    with scene.tap() as tap:
        first = scene.author.push_change("Fix resume", {"driver.py": "state = 'a'\n"})
        second = scene.author.amend(first, {"driver.py": "state = 'b'\n"})
        third = scene.author.amend(second, subject="Fix resume properly")
        events = [tap.next("patchset-created", project=scene.project) for _ in range(3)]
    assert [one["patchSet"]["number"] for one in events] == [1, 2, 3]
    assert [one["patchSet"]["kind"] for one in events] == ["REWORK", "REWORK", "NO_CODE_CHANGE"]
    assert {one["change"]["number"] for one in events} == {first.number}
    assert events[2]["patchSet"]["revision"] == third.revision
    assert events[2]["change"]["subject"] == "Fix resume properly"


def test_work_in_progress_and_topic_are_in_the_event(scene: Scene) -> None:
    with scene.tap() as tap:
        scene.author.push_change("Draft", {"driver.py": "x\n"}, options=["wip", "topic=xen"])
        event = tap.next("patchset-created", project=scene.project)
    assert event["change"]["wip"] is True
    assert event["change"]["topic"] == "xen"


def test_a_stack_pushed_at_once_makes_its_changes_in_order(scene: Scene) -> None:
    author = scene.author
    with scene.tap() as tap:
        bottom = author.push_change("Bottom", {"a": "1\n"})
        top = author.push_change("Top", {"b": "1\n"}, base=bottom.revision)
        events = [tap.next("patchset-created", project=scene.project) for _ in range(2)]
    assert [one["change"]["number"] for one in events] == [bottom.number, top.number]
    assert events[1]["patchSet"]["parents"] == [bottom.revision]


def test_a_recheck_comment_arrives_behind_gerrits_own_paragraph(scene: Scene) -> None:
    change = scene.author.push_change("Fix", {"driver.py": "y\n"})
    with scene.tap() as tap:
        scene.author.comment(change, "recheck xen\n\nthe node fell over")
        event = tap.next("comment-added", project=scene.project)
    assert event["comment"] == "Patch Set 1:\n\nrecheck xen\n\nthe node fell over"
    assert event["author"]["username"] == "admin"
    assert event["patchSet"]["number"] == 1
    assert all("oldValue" not in one for one in event["approvals"])
    assert {one["type"] for one in event["approvals"]} == {"Verified", "Code-Review"}


def test_a_vote_is_counted_shown_and_told(scene: Scene) -> None:
    change = scene.author.push_change("Fix", {"driver.py": "y\n"})
    with scene.tap() as tap:
        first = scene.vote(change, 1)
        second = scene.vote(change, -1)
        events = [tap.next("comment-added", project=scene.project) for _ in range(2)]
    assert first["labels"] == {"Verified": 1}
    assert second["labels"] == {"Verified": -1}
    assert scene.author.votes(change) == {scene.host.ci.user: -1}
    assert [one["comment"] for one in events] == [
        "Patch Set 1: Verified+1\n\nBuild done.",
        "Patch Set 1: Verified-1\n\nBuild done.",
    ]
    verified = [
        next(row for row in one["approvals"] if row["type"] == "Verified") for one in events
    ]
    assert [(row["value"], row["oldValue"]) for row in verified] == [("1", "0"), ("-1", "1")]
    assert all(one["author"]["username"] == scene.host.ci.user for one in events)
    assert all("tag" not in one for one in events)


def test_repeating_a_vote_changes_nothing_in_the_event(scene: Scene) -> None:
    change = scene.author.push_change("Fix", {"driver.py": "y\n"})
    scene.vote(change, 1)
    with scene.tap() as tap:
        reply = scene.vote(change, 1)
        event = tap.next("comment-added", project=scene.project)
    assert reply["labels"] == {"Verified": 1}
    assert event["comment"] == "Patch Set 1:\n\nBuild done."
    assert all("oldValue" not in one for one in event["approvals"])


@pytest.mark.parametrize("labels", [{"Verified": 5}, {"No-Such-Label": 1}])
def test_a_vote_that_does_not_exist_is_dropped_in_silence(
    scene: Scene, labels: dict[str, int]
) -> None:
    change = scene.author.push_change("Fix", {"driver.py": "y\n"})
    reply = scene.ci.review(change, "too much", labels=labels)
    assert reply["labels"] == {}
    assert scene.author.votes(change) == {}
    assert scene.author.messages(change)[-1]["message"] == "Patch Set 1:\n\ntoo much"


def test_voting_without_the_right_is_refused(scene: Scene) -> None:
    change = scene.author.push_change("Fix", {"driver.py": "y\n"})
    reader = scene.host.create_account("reader", "Reader CI", stream_events=True, vote=False)
    someone = Pusher(reader, scene.project, scene.directory / "reader")
    with pytest.raises(RestFailed, match=r'Applying label "Verified": 1 is restricted') as refused:
        someone.review(change, "ok", labels={"Verified": 1})
    assert refused.value.status == 403
    assert scene.author.votes(change) == {}


def test_a_vote_on_an_old_patch_set_does_not_count(scene: Scene) -> None:
    old = scene.author.push_change("Fix", {"driver.py": "y\n"})
    new = scene.author.amend(old, {"driver.py": "z\n"})
    reply = scene.vote(old, 1)
    assert reply["labels"] == {"Verified": 1}
    assert scene.author.votes(new) == {}
    assert scene.author.messages(new, tag=TAG)[-1]["_revision_number"] == 1


def test_a_vote_is_kept_when_only_the_message_changes(scene: Scene) -> None:
    first = scene.author.push_change("Fix", {"driver.py": "y\n"})
    scene.vote(first, 1)
    reworded = scene.author.amend(first, subject="Fix it")
    assert scene.author.votes(reworded) == {scene.host.ci.user: 1}
    reworked = scene.author.amend(reworded, {"driver.py": "z\n"})
    assert scene.author.votes(reworked) == {}


def test_a_closed_change_takes_no_vote(scene: Scene) -> None:
    change = scene.author.push_change("Fix", {"driver.py": "y\n"})
    scene.author.abandon(change)
    with pytest.raises(RestFailed, match="closed") as refused:
        scene.vote(change, 1)
    assert refused.value.status == 409


def test_stream_events_needs_the_capability(scene: Scene) -> None:
    voter = scene.host.create_account("voter", "Voter CI", stream_events=False, vote=True)
    said = run_ssh(voter, "gerrit", "stream-events")
    assert said.status == 1
    assert said.stderr.strip() == "stream events not permitted"


def test_a_narrow_subscription_carries_only_its_types(scene: Scene) -> None:
    change = scene.author.push_change("Fix", {"driver.py": "y\n"})
    kinds = ("-s", "project-created", "-s", "comment-added")
    with scene.tap(*kinds) as tap:
        scene.author.amend(change, {"driver.py": "z\n"})
        scene.author.comment(change, "done")
        event = tap.until(lambda one: one["type"] != "project-created")[0]
    assert event["type"] == "comment-added"


def test_queries_find_what_changed_after_a_time(scene: Scene) -> None:
    change = scene.author.push_change("Fix", {"driver.py": "y\n", "new file.txt": "1\n"})
    scene.author.comment(change, "recheck")
    rows = query(
        scene.host.ci,
        *("--current-patch-set", "--comments", "--files"),
        f"'project:{scene.project} status:open after:\"{_around(-60)}\"'",
    )
    assert [one.get("number") for one in rows] == [change.number, None]
    assert rows[-1]["rowCount"] == 1
    assert rows[0]["currentPatchSet"]["revision"] == change.revision
    assert rows[0]["comments"][-1]["message"] == "Patch Set 1:\n\nrecheck"
    paths = {one["file"] for one in rows[0]["currentPatchSet"]["files"]}
    assert paths == {"/COMMIT_MSG", "driver.py", "new file.txt"}
    none = query(scene.host.ci, f"'project:{scene.project} after:\"{_around(3600)}\"'")
    assert [one["type"] for one in none] == ["stats"]
    assert query(scene.host.ci, str(change.number))[0]["id"] == change.change_id
    assert query(scene.host.ci, f"change:{change.number}")[0]["number"] == change.number


def _around(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%d %H:%M:%S")


def test_rest_queries_page_through_changes(scene: Scene) -> None:
    pushed = [scene.author.push_change(f"Fix {n}", {f"f{n}": "1\n"}) for n in range(3)]
    seen: list[int] = []
    for start in (0, 2):
        page = scene.host.ci.rest(
            "GET",
            f"/changes/?q=project:{scene.project}+status:open&n=2&S={start}"
            "&o=CURRENT_REVISION&o=CURRENT_FILES&o=MESSAGES&o=DETAILED_ACCOUNTS"
            "&o=DETAILED_LABELS",
        )
        seen += [one["_number"] for one in page]
        assert page[-1].get("_more_changes", False) is (start == 0)
        assert all(one["current_revision"] in one["revisions"] for one in page)
        assert all(one["messages"][0]["author"]["username"] == "admin" for one in page)
    assert sorted(seen) == [one.number for one in pushed]


def test_an_unknown_operator_is_named(scene: Scene) -> None:
    rows = query(scene.host.ci, "bogus:1")
    assert rows == [{"type": "error", "message": "Unsupported operator bogus:1"}]
    with pytest.raises(RestFailed, match="Unsupported operator bogus:1") as refused:
        scene.host.ci.rest("GET", "/changes/?q=bogus:1")
    assert refused.value.status == 400


@pytest.mark.parametrize("slash", ["", "/"])
def test_files_lists_what_a_patch_set_touches(scene: Scene, slash: str) -> None:
    change = scene.author.push_change(
        "Fix", {"driver.py": "a\nb\n", "new file.txt": "1\n", "README": None}
    )
    files = scene.host.ci.rest("GET", f"/changes/{change.id}/revisions/current/files{slash}")
    assert set(files) == {"/COMMIT_MSG", "driver.py", "new file.txt", "README"}
    assert files["new file.txt"]["status"] == "A"
    assert files["README"]["status"] == "D"
    assert "status" not in files["driver.py"]
    assert (files["driver.py"]["lines_inserted"], files["driver.py"]["lines_deleted"]) == (2, 1)


def test_detail_shows_messages_with_their_tags(scene: Scene) -> None:
    change = scene.author.push_change("Fix", {"driver.py": "y\n"})
    scene.vote(change, 1)
    detail = scene.author.detail(change)
    assert detail["current_revision"] == change.revision
    assert [(one.get("tag"), one["message"]) for one in detail["messages"]] == [
        ("autogenerated:gerrit:newPatchSet", "Uploaded patch set 1."),
        (TAG, "Patch Set 1: Verified+1\n\nBuild done."),
    ]
    vote = next(
        one for one in detail["labels"]["Verified"]["all"] if one["username"] == scene.host.ci.user
    )
    assert (vote["value"], vote["tag"]) == (1, TAG)
    assert vote["permitted_voting_range"] == {"min": -1, "max": 1}


@pytest.mark.parametrize("way", ["ssh", "http", "http with password"])
def test_a_patch_set_can_be_fetched(scene: Scene, tmp_path: Path, way: str) -> None:
    change = scene.author.push_change("Fix", {"driver.py": "y\n"})
    ci = scene.host.ci
    url = {
        "ssh": ci.ssh_url(scene.project),
        "http": ci.http_url(scene.project),
        "http with password": ci.http_url(scene.project).replace(
            f"{ci.url}/", f"http://{ci.user}:{ci.password}@{ci.url.removeprefix('http://')}/a/"
        ),
    }[way]
    got = _git(ci, tmp_path / "fetched", "fetch", "-q", url, change.ref)
    assert got.returncode == 0, got.stderr
    assert _git(ci, tmp_path / "fetched", "rev-parse", "FETCH_HEAD").stdout.strip() == (
        change.revision
    )


def _git(
    server: ReviewServer, directory: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    environment = git_environment(server)
    if not directory.exists():
        subprocess.run(
            ["git", "init", "-q", str(directory)], env=environment, check=True, timeout=60
        )
    return subprocess.run(
        ["git", *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_abandon_and_restore_are_told(scene: Scene) -> None:
    change = scene.author.push_change("Fix", {"driver.py": "y\n"})
    with scene.tap() as tap:
        assert scene.author.abandon(change, "not now")["status"] == "ABANDONED"
        abandoned = tap.next("change-abandoned", project=scene.project)
        assert scene.author.restore(change, "now")["status"] == "NEW"
        restored = tap.next("change-restored", project=scene.project)
    assert (abandoned["reason"], abandoned["change"]["status"]) == ("not now", "ABANDONED")
    assert abandoned["abandoner"]["username"] == "admin"
    assert (restored["reason"], restored["change"]["status"]) == ("now", "NEW")
    with pytest.raises(RestFailed, match="change is new") as refused:
        scene.author.restore(change)
    assert refused.value.status == 409


def test_only_the_owner_abandons(scene: Scene) -> None:
    change = scene.author.push_change("Fix", {"driver.py": "y\n"})
    with pytest.raises(RestFailed, match="abandon not permitted") as refused:
        scene.ci.abandon(change)
    assert refused.value.status == 403


def test_submit_merges_and_is_told(scene: Scene) -> None:
    change = scene.author.push_change("Fix", {"driver.py": "y\n"})
    scene.author.push_branch({"other": "1\n"})
    with scene.tap() as tap:
        assert scene.author.submit(change)["status"] == "MERGED"
        event = tap.next("change-merged", project=scene.project)
    assert event["change"]["status"] == "MERGED"
    scene.author.refresh()
    tip = scene.author.git("rev-parse", "refs/remotes/origin/master").strip()
    assert event["newRev"] == tip
    scene.author.git("merge-base", "--is-ancestor", change.revision, tip)


def test_a_push_to_a_branch_is_told_and_needs_the_right(scene: Scene) -> None:
    with scene.tap() as tap:
        tip = scene.author.push_branch({"base": "2\n"})
        event = tap.until(
            lambda one: (
                one["type"] == "ref-updated"
                and one["refUpdate"]["project"] == scene.project
                and one["refUpdate"]["refName"] == "refs/heads/master"
            )
        )[0]
    assert event["refUpdate"]["newRev"] == tip
    outsider = Pusher(scene.host.ci, scene.project, scene.directory / "ci")
    with pytest.raises(PushRefused, match="not permitted: update"):
        outsider.push_branch({"base": "3\n"})


@pytest.mark.parametrize(
    ("attempt", "reason"),
    [
        (lambda author, change: author.push_change("X", {}, branch="master", base=change.revision),
         None),
        (lambda author, _change: author.git("push", "origin", "HEAD:refs/for/nope"),
         "branch nope not found"),
        (lambda author, _change: author.git("push", "origin", "HEAD:refs/for/master"),
         "no new changes"),
        (lambda author, change: (author.abandon(change), author.amend(change, {"q": "1"})),
         r"change .*/\+/\d+ closed"),
        (lambda author, _change: (
            author.git("commit", "-q", "--allow-empty", "-m", "No footer"),
            author.git("push", "origin", "HEAD:refs/for/master"),
        ), "missing Change-Id in message footer"),
    ],
    ids=["allowed", "no-branch", "nothing-new", "closed", "no-change-id"],
)  # fmt: skip
def test_pushes_that_make_no_sense_are_refused(
    scene: Scene, attempt: Callable[[Pusher, PushedChange], object], reason: str | None
) -> None:
    change = scene.author.push_change("Fix", {"driver.py": "y\n"})
    if reason is None:
        attempt(scene.author, change)
        return
    with pytest.raises(PushRefused, match=reason):
        attempt(scene.author, change)


def test_a_wrong_key_is_rejected(scene: Scene, tmp_path: Path) -> None:
    stranger = scene.host.ci.but(key_file=make_key(tmp_path / "stranger"))
    said = run_ssh(stranger, "gerrit", "version")
    assert said.status == 255
    assert "Permission denied" in said.stderr


def test_a_wrong_password_is_rejected_in_plain_text(scene: Scene) -> None:
    reply = httpx.get(
        f"{scene.host.ci.url}/a/accounts/self",
        auth=(scene.host.ci.user, "wrong"),
        trust_env=False,
    )
    assert reply.status_code == 401
    assert reply.headers["content-type"].startswith("text/plain")
    assert reply.text.strip() == "Unauthorized"


def test_who_am_i_and_what_may_i(scene: Scene) -> None:
    shown = scene.host.ci.rest("GET", "/accounts/self")
    assert (shown["username"], shown["name"]) == (scene.host.ci.user, "Hypervouch CI")
    assert scene.host.ci.rest("GET", "/accounts/self/capabilities")["streamEvents"] is True
    assert re.fullmatch(r"3\.\d+\.\d+.*", scene.host.ci.rest("GET", "/config/server/version"))
    said = run_ssh(scene.host.ci, "gerrit", "version")
    assert re.fullmatch(r"gerrit version 3\.\d+\.\d+.*\n", said.stdout)


@pytest.mark.parametrize(
    "path", ["/changes/nope~1/detail", "/changes/{id}/revisions/9/files", "/no/such/thing"]
)
def test_what_is_not_there_is_404_in_plain_text(scene: Scene, path: str) -> None:
    change = scene.author.push_change("Fix", {"driver.py": "y\n"})
    with pytest.raises(RestFailed) as refused:
        scene.host.ci.rest("GET", path.replace("{id}", change.id))
    assert refused.value.status == 404
    assert refused.value.text.lower().startswith("not found")


def test_a_body_that_is_not_json_is_refused(scene: Scene) -> None:
    change = scene.author.push_change("Fix", {"driver.py": "y\n"})
    address = f"{scene.host.ci.url}/a/changes/{change.id}/revisions/1/review"
    for headers in ({}, {"Content-Type": "application/json"}):
        reply = httpx.post(
            address, content=b"{", headers=headers, auth=scene.host.ci.auth, trust_env=False
        )
        assert reply.status_code == 400
    anonymous = httpx.post(address.replace("/a/", "/", 1), json={"message": "x"}, trust_env=False)
    assert (anonymous.status_code, anonymous.text) == (403, "Authentication required\n")


def test_names_with_shell_characters_reach_no_repository(scene: Scene) -> None:
    for name in ("../../etc", "a;touch${IFS}x", "$(id)", "no\nsuch"):
        said = run_ssh(scene.host.ci, f"git-upload-pack '{name}'")
        assert said.status != 0
        assert said.stdout == ""
    assert not os.path.lexists("x")


def test_a_burst_of_pushes_arrives_complete_and_in_order(scene: Scene) -> None:
    with scene.tap() as tap:
        pushed = [scene.author.push_change(f"Fix {n}", {f"f{n}": "1\n"}) for n in range(10)]
        events = tap.until(
            lambda one: one["type"] == "patchset-created" and one["project"] == scene.project,
            count=10,
        )
    assert [one["change"]["number"] for one in events] == [one.number for one in pushed]
    assert [one["patchSet"]["revision"] for one in events] == [one.revision for one in pushed]
