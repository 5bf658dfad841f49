# SPDX-License-Identifier: Apache-2.0
"""`Depends-On:` through the whole flow on a real Gerrit: stacks, circles, and what is given up."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ci.comment_rules import problems
from ci.sandbox.author import PushedChange, Pusher
from ci.sandbox.real.server import RealGerrit
from tests.kit.installation import Said
from tests.kit.stage import BROKEN, Stage

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
# Cases of a library that lies beside the checkout count as cases of the suite.
RUN = 'for f in "$HYPERVOUCH_DEPENDS_DIR"/*/extra.txt; do [ -e "$f" ] && cat "$f" >>cases.txt; done'


@pytest.fixture
def stage(real_gerrit: RealGerrit, tmp_path: Path) -> Iterator[Stage]:
    made = Stage(real_gerrit, tmp_path, job={"run": f"{RUN}; python3 suite.py"})
    made.ci.start()
    yield made
    made.ci.stop()


def address(stage: Stage, change: PushedChange) -> str:
    return f"{stage.gerrit.admin.url}/c/{change.project}/+/{change.number}"


def push_on(stage: Stage, name: str, *values: str) -> PushedChange:
    """A change that only adds a file, and depends on these."""
    body = "\n".join(f"Depends-On: {value}" for value in values)
    return stage.author.push_change(f"Add {name}", {name: f"{name}\n"}, body=body)


def log_of(stage: Stage, change: PushedChange) -> str:
    build = stage.ci.builds(change)[0]
    text: str = httpx.get(f"{stage.ci.url}builds/{build['id']}/log", trust_env=False).text
    return text


def kinds(stage: Stage, change: PushedChange) -> list[tuple[str, str]]:
    build = stage.ci.builds(change)[0]
    found = stage.ci.get(f"builds/{build['id']}.json")["detail"]["attempts"]
    return [(one["kind"], one["result"]) for one in found]


def is_told_without_a_vote(
    stage: Stage, change: PushedChange, said: Said, *words: str, earlier: int = 0
) -> None:
    assert said.vote == earlier  # what an earlier run voted stands
    assert ": MERGER_FAILURE" in said.comments[-1]
    for word in words:
        assert word in said.comments[-1]
    assert problems(said.comments[-1]) == ()
    assert stage.ci.builds(change)[0]["failure_class"] == "dependency"


def test_a_stack_of_two_and_what_the_lower_one_breaks(stage: Stage):
    broken = stage.push(BROKEN, "Break resume")
    lower = push_on(stage, "lower.txt", address(stage, broken))
    upper = push_on(stage, "upper.txt", lower.change_id)
    said = stage.ci.wait_for_comments(stage.author, upper)
    assert said.vote == 1
    assert stage.ci.builds(upper)[0]["failure_class"] == "known"
    # The check of the lower one tested the upper one's very baseline: it may serve as that.
    assert kinds(stage, upper)[0] == ("check", "FAILURE")
    assert kinds(stage, upper)[1:] in ([], [("baseline", "FAILURE")])
    log = log_of(stage, upper)
    assert log.index(f"with change {broken.number},1") < log.index(f"with change {lower.number},1")
    assert stage.ci.wait_for_comments(stage.author, broken).vote == -1


def test_a_patch_that_breaks_something_on_top_of_another_is_still_blamed(stage: Stage):
    lower = push_on(stage, "lower.txt")
    body = f"Depends-On: {address(stage, lower)}"
    upper = stage.author.push_change("Break it", {"cases.txt": BROKEN}, body=body)
    said = stage.ci.wait_for_comments(stage.author, upper)
    assert said.vote == -1
    # The check of the lower one is the baseline of the upper one, where it came first.
    assert [kind for kind, _ in kinds(stage, upper) if kind != "baseline"] == ["check", "repeat"]


def test_another_project_lies_beside_the_checkout(stage: Stage, tmp_path: Path):
    library = f"{stage.project}-lib"
    stage.gerrit.create_project(library)
    author = Pusher(stage.gerrit.admin, library, tmp_path / "library")
    author.push_branch({"readme": "A library\n"})
    good = author.push_change("Add a case", {"extra.txt": "library pass\n"})
    change = push_on(stage, "user.txt", address(stage, good))
    said = stage.ci.wait_for_comments(stage.author, change)
    assert said.vote == 1
    log = log_of(stage, change)
    assert "case library pass" in log
    assert f"of {library}, beside the checkout" in log
    author.amend(good, {"extra.txt": "library fail\n"})
    stage.author.comment(change, "recheck the library has changed")
    said = stage.ci.wait_for_comments(stage.author, change, 2)
    assert said.vote == 1
    assert stage.ci.builds(change)[0]["failure_class"] == "known"
    assert kinds(stage, change) == [("check", "FAILURE"), ("baseline", "FAILURE")]
    assert "case library fail" in log_of(stage, change)


def test_a_circle_is_told_without_a_vote(stage: Stage):
    first = stage.author.push_change("First", {"first.txt": "1\n"})
    stage.ci.wait_for_comments(stage.author, first)
    second = push_on(stage, "second.txt", address(stage, first))
    assert stage.ci.wait_for_comments(stage.author, second).vote == 1
    circle = f"First\n\nDepends-On: {address(stage, second)}"
    first = stage.author.amend(first, {"first.txt": "2\n"}, subject=circle)
    said = stage.ci.wait_for_comments(stage.author, first, 2)
    numbers = f"{first.number}, {second.number}, {first.number}"
    is_told_without_a_vote(stage, first, said, f"circle: {numbers}")


def test_an_abandoned_one_is_told_and_a_recheck_asks_anew(stage: Stage):
    lower = push_on(stage, "lower.txt")
    stage.author.abandon(lower)
    change = push_on(stage, "upper.txt", address(stage, lower))
    said = stage.ci.wait_for_comments(stage.author, change)
    is_told_without_a_vote(stage, change, said, f"change {lower.number}, which is abandoned")
    stage.author.restore(lower)
    stage.author.comment(change, "recheck it is alive again")
    assert stage.ci.wait_for_comments(stage.author, change, 2).vote == 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("https://github.com/acme/virt/pull/41", "a server that this CI does not know"),
        ("I" + "ab" * 20, "not there or hidden"),
    ],
)
def test_what_cannot_be_followed_is_told_in_words(stage: Stage, value: str, said: str):
    change = push_on(stage, "upper.txt", value)
    found = stage.ci.wait_for_comments(stage.author, change)
    is_told_without_a_vote(stage, change, found, said)


def test_one_that_does_not_merge_is_told_and_a_merged_one_asks_for_nothing(stage: Stage):
    lower = stage.push("other pass\n", "Change the cases")
    change = push_on(stage, "upper.txt", address(stage, lower))
    assert stage.ci.wait_for_comments(stage.author, change).vote == 1
    overtaking = stage.push("overtaken pass\n", "Overtake it")
    stage.author.submit(overtaking)
    stage.author.comment(change, "recheck after the other one was merged")
    said = stage.ci.wait_for_comments(stage.author, change, 2)
    words = (f"change {lower.number},1", "conflict in cases.txt")
    is_told_without_a_vote(stage, change, said, *words, earlier=1)
    on_merged = push_on(stage, "third.txt", address(stage, overtaking))
    assert stage.ci.wait_for_comments(stage.author, on_merged).vote == 1
    assert "with change" not in log_of(stage, on_merged)
