# SPDX-License-Identifier: Apache-2.0
"""Step 2: which event starts which pipeline and jobs, and the reason for each yes and no."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ci.layout import (
    Connection,
    Job,
    Layout,
    Pipeline,
    Project,
    ProviderConfig,
    Service,
    TriggerKind,
)
from ci.model.change import Change, Patchset
from ci.model.event import Account, Event, EventKind
from ci.recheck import RecheckRequest
from ci.triggers import Decision, Known, Need, explain, match, needs

OWN = frozenset({"acme-ci", "Acme CI"})


def connection(name: str) -> Connection:
    return Connection.model_validate(
        {
            "name": name,
            "server": "review.example.org",
            "user": "acme-ci",
            "key-file": "/k",
            "known-hosts": "/h",
            "url": "https://review.example.org",
            "password": {"from-env": "X"},
        }
    )


def job(name: str, label: str = "qemu", **more: Any) -> Job:
    return Job.model_validate(
        {"name": name, "suite": "shell", "run": "true", "node-label": label, **more}
    )


def layout(*jobs: Job, pipelines: tuple[Pipeline, ...] = (), **project: Any) -> Layout:
    jobs = jobs or (job("unit"),)
    pipelines = pipelines or (Pipeline(name="check", connection="review"),)
    names = [item.name for item in jobs]
    listed = {"check": {"jobs": names}}
    return Layout(
        service=Service(state_dir=Path("/s")),
        connections=(connection("review"), connection("other")),
        pipelines=pipelines,
        jobs=jobs,
        projects=(Project.model_validate({"name": "acme/virt", **listed, **project}),),
        providers=(ProviderConfig(name="p", driver="qemu", label="qemu"),),
    )


def event(**more: Any) -> Event:
    change = Change(
        project="acme/virt", branch="master", number=12, change_id="I" + "a" * 40, owner="ann"
    )
    fields = {"change": change, **more}
    of_change = {
        key: fields.pop(key)
        for key in ("project", "branch", "status", "wip", "private")
        if key in fields
    }
    fields["change"] = replace(fields["change"], **of_change)
    return Event(
        **{
            "key": "k",
            "connection": "review",
            "kind": EventKind.PATCHSET_CREATED,
            "patchset": Patchset(number=3, revision="a" * 40, ref="refs/changes/12/12/3"),
            "author": Account(username="ann", name="Ann"),
            "occurred_at": datetime(2026, 1, 1, tzinfo=UTC),
            **fields,
        }
    )


def comment(text: str, **more: Any) -> Event:
    return event(kind=EventKind.COMMENT_ADDED, texts=(text,), **more)


def only(happened: Event, config: Layout, files: list[str] | None = None, **known: Any) -> Decision:
    (decision,) = match(happened, config, Known(files=files, **known), OWN)
    return decision


def test_a_new_patch_set_starts_the_jobs_of_its_project() -> None:
    assert only(event(), layout(job("unit"), job("lab"))) == Decision(
        pipeline="check",
        starts=True,
        jobs=("unit", "lab"),
        reason="patch set 3 of change 12 was uploaded",
    )


@pytest.mark.parametrize(
    ("happened", "reason"),
    [
        (
            event(connection="other"),
            "the event came through connection other, and this pipeline listens to review",
        ),
        (event(project="acme/else"), "project acme/else is not in the layout"),
        (
            event(branch="stable/1"),
            "branch stable/1 of project acme/virt matches none of: master, v[0-9]",
        ),
        (
            event(branch="master-2"),
            "branch master-2 of project acme/virt matches none of: master, v[0-9]",
        ),
        (event(status="MERGED"), "change 12 is closed (MERGED)"),
        (event(status="ABANDONED"), "change 12 is closed (ABANDONED)"),
        (
            event(kind=EventKind.CHANGE_ABANDONED, status="ABANDONED"),
            "an abandoned change starts nothing; its builds are cancelled",
        ),
        (
            event(kind=EventKind.CHANGE_MERGED, status="MERGED"),
            "a merged change starts nothing; its builds are cancelled",
        ),
        (
            event(kind=EventKind.CHANGE_DELETED),
            "a deleted change starts nothing; its builds are cancelled",
        ),
        (comment("looks good"), "the comment asks for no recheck"),
        (comment("recheck", author=Account(username="acme-ci")), "the comment is our own"),
        (comment("recheck", author=Account(name="Acme CI")), "the comment is our own"),
        (
            comment("recheck", author=Account(username="zed", name="Zed CI")),
            "the comment was written by a program, Zed CI",
        ),
        (comment("recheck", status="MERGED"), "change 12 is closed (MERGED)"),
        (comment("run-Zed CI"), "the comment asks for no recheck"),
    ],
)
def test_what_starts_nothing_says_why(happened: Event, reason: str) -> None:
    decision = only(happened, layout(branches=["master", "v[0-9]"]))
    assert decision == Decision(pipeline="check", starts=False, reason=reason)


PRIVATE = "waits for change 12 to be public: it is private, and what we publish is not"


@pytest.mark.parametrize(
    ("happened", "reason"),
    [
        (event(private=True), PRIVATE),
        (comment("recheck", private=True), PRIVATE),
        (
            event(wip=True),
            (
                "waits for change 12 to be ready for review: it is work in progress; `recheck` "
                "runs it all the same"
            ),
        ),
    ],
)
def test_what_waits_says_for_what(happened: Event, reason: str) -> None:
    decision = only(happened, layout())
    assert decision == Decision(pipeline="check", starts=False, waits=True, reason=reason)


def test_an_event_without_a_patch_set_lacks_the_facts() -> None:
    decision = only(event(patchset=None), layout())
    assert decision.reason == "the event names no patch set"
    assert needs([decision]) == {Need.FACTS}


def test_a_restored_change_is_run_as_a_new_patch_set() -> None:
    decision = only(event(kind=EventKind.CHANGE_RESTORED), layout())
    assert (decision.starts, decision.only_first) == (True, False)
    assert decision.reason == "patch set 3 of change 12 was restored"


def test_a_pipeline_the_project_does_not_use() -> None:
    pipelines = tuple(Pipeline(name=name, connection="review") for name in ("check", "gate"))
    check, gate = match(event(), layout(pipelines=pipelines))
    assert check.starts
    assert gate.reason == "project acme/virt does not use this pipeline"


@pytest.mark.parametrize(
    ("trigger", "happened", "reason"),
    [
        (TriggerKind.RECHECK, event(), "this pipeline is not started by new patch sets"),
        (
            TriggerKind.PATCHSET_CREATED,
            comment("recheck"),
            "this pipeline is not started by rechecks",
        ),
    ],
)
def test_trigger_kinds(trigger: TriggerKind, happened: Event, reason: str) -> None:
    pipeline = Pipeline(name="check", connection="review", trigger=(trigger,))
    assert only(happened, layout(pipelines=(pipeline,))).reason == reason


def test_wip_runs_where_the_pipeline_says_so_and_where_somebody_asks() -> None:
    eager = Pipeline(name="check", connection="review", skip_wip=False)
    assert only(event(wip=True), layout(pipelines=(eager,))).starts
    assert only(comment("recheck", wip=True), layout()).starts


SAME = Patchset(number=4, revision="b" * 40, ref="r", kind="NO_CODE_CHANGE")


def test_a_kind_that_is_skipped_runs_where_nothing_was_judged_before() -> None:
    undecided = only(event(patchset=SAME), layout())
    assert undecided.reason == (
        "patch set 4 of change 12 is of the kind NO_CODE_CHANGE, which this pipeline skips"
    )
    assert needs([undecided]) == {Need.JUDGED}
    judged = only(event(patchset=SAME), layout(), unjudged=frozenset())
    assert (judged.starts, judged.waits, judged.lacks) == (False, False, frozenset())
    assert only(event(patchset=SAME), layout(), unjudged=frozenset({"check"})).starts
    assert not only(event(patchset=SAME), layout(), unjudged=frozenset({"gate"})).starts


def test_skip_kinds_are_the_pipelines_choice_and_no_matter_for_a_recheck() -> None:
    every = Pipeline(name="check", connection="review", skip_kinds=())
    assert only(event(patchset=SAME), layout(pipelines=(every,))).starts
    assert only(comment("recheck", patchset=SAME), layout()).starts
    strict = Pipeline(name="check", connection="review", skip_kinds=("TRIVIAL_REBASE",))
    rebased = replace(SAME, kind="TRIVIAL_REBASE")
    assert not only(event(patchset=rebased), layout(pipelines=(strict,))).starts
    assert only(event(patchset=rebased), layout()).starts


def test_a_program_may_upload() -> None:
    assert only(event(author=Account(username="bot", name="Proposal Bot")), layout()).starts


def test_recheck_says_who_and_why() -> None:
    decision = only(comment("recheck bug 1"), layout())
    assert decision.jobs == ("unit",)
    assert decision.recheck == RecheckRequest(reason="bug 1")
    assert decision.reason == "ann asked for a recheck of patch set 3 of change 12 (bug 1)"


@pytest.mark.parametrize(
    ("text", "jobs"),
    [
        ("recheck", ("unit", "func", "lab")),
        ("recheck acme-ci", ("unit", "func", "lab")),
        ("recheck hypervouch", ("unit", "func", "lab")),
        ("run-Acme CI", ("unit", "func", "lab")),
        ("run-acme-ci func", ("func",)),
        ("recheck unit", ("unit",)),
        ("recheck unit lab", ("unit", "lab")),
        ("recheck check", ("unit", "func", "lab")),
        ("recheck check lab", ("lab",)),
        ("recheck xen", ("func", "lab")),
        ("recheck-xen", ("func", "lab")),
        ("recheck func xen", ("func",)),
        ("recheck other-ci", ("unit", "func", "lab")),
    ],
)
def test_recheck_of_a_part(text: str, jobs: tuple[str, ...]) -> None:
    config = layout(job("unit"), job("func", "xen"), job("lab", "xen"))
    assert only(comment(text), config).jobs == jobs


def test_recheck_that_fits_nothing_here() -> None:
    pipelines = tuple(Pipeline(name=name, connection="review") for name in ("check", "gate"))
    config = layout(job("unit"), job("lab", "xen"), pipelines=pipelines)
    assert match(comment("recheck gate"), config)[0].reason == ("the recheck is for pipeline gate")
    assert only(comment("recheck unit xen"), layout(job("unit"), job("lab", "xen"))).reason == (
        "the recheck is for unit xen, which fits no job here"
    )


DOCS: dict[str, Any] = {"irrelevant-files": ["docs/", r".*\.md$"]}


@pytest.mark.parametrize(
    ("filters", "files", "reason"),
    [
        (
            DOCS,
            ["docs/index.md"],
            "every changed file matches irrelevant-files of job unit: docs/index.md",
        ),
        (
            DOCS,
            ["/COMMIT_MSG", "README.md", "docs/a", "docs/b", "docs/c", "docs/d"],
            (
                "every changed file matches irrelevant-files of job unit: README.md, docs/a, "
                "docs/b and 2 more"
            ),
        ),
        (
            {"files": ["acme/"]},
            ["tests/acme/x.py"],
            "no changed file matches files of job unit: tests/acme/x.py",
        ),
        (
            {"files": [".*"], **DOCS},
            ["docs/\x1b[2J\u202e"],
            "every changed file matches irrelevant-files of job unit: docs/?[2J?",
        ),
    ],
)
def test_file_filters_skip(filters: dict[str, Any], files: list[str], reason: str) -> None:
    decision = only(event(), layout(job("unit", **filters)), files)
    assert decision == Decision(pipeline="check", starts=False, reason=reason)


@pytest.mark.parametrize(
    ("filters", "files"),
    [
        (DOCS, ["docs/a", "src/a.py"]),
        (DOCS, ["src/docs/a"]),
        (DOCS, ["/COMMIT_MSG"]),
        (DOCS, []),
        (DOCS, None),
        ({"files": ["acme/"]}, ["docs/a", "acme/x"]),
        ({"files": ["acme/"]}, ["/COMMIT_MSG", "/MERGE_LIST"]),
    ],
)
def test_file_filters_keep(filters: dict[str, Any], files: list[str] | None) -> None:
    assert only(event(), layout(job("unit", **filters)), files).starts


def test_some_jobs_left_out_are_named_in_the_reason() -> None:
    decision = only(event(), layout(job("unit", **DOCS), job("lint")), ["docs/a"])
    assert decision.jobs == ("lint",)
    assert decision.reason == (
        "patch set 3 of change 12 was uploaded; every changed file matches irrelevant-files of "
        "job unit: docs/a"
    )


def test_files_are_needed_only_for_a_candidate_with_filters() -> None:
    plain, filtered = layout(), layout(job("unit", **DOCS), job("lint"))

    def wanted(happened: Event, config: Layout) -> bool:
        return Need.FILES in needs(match(happened, config))

    assert not wanted(event(), plain)
    assert wanted(event(), filtered)
    assert wanted(event(), layout(job("unit", files=["a"])))
    assert wanted(comment("recheck"), filtered)
    assert not wanted(comment("recheck lint"), filtered)
    assert not wanted(comment("nice"), filtered)
    assert not wanted(event(project="acme/else"), filtered)
    assert not wanted(event(wip=True), filtered)
    assert not needs([only(event(), filtered, [])])


def test_match_needs_no_own_names() -> None:
    (decision,) = match(comment("recheck", author=Account()), layout())
    assert decision.reason.startswith("somebody asked for a recheck")


def test_hostile_names_are_printable_in_reasons() -> None:
    decision = only(event(project="a\x1b[2Jb\nc"), layout())
    assert decision.reason == "project a?[2Jb?c is not in the layout"


def test_explain() -> None:
    pipelines = tuple(Pipeline(name=name, connection="review") for name in ("check", "gate"))
    decisions = match(event(), layout(job("unit"), job("lab"), pipelines=pipelines))
    assert explain(decisions) == [
        "check starts unit, lab: patch set 3 of change 12 was uploaded.",
        "gate does not start: project acme/virt does not use this pipeline.",
    ]
    assert explain([]) == ["The layout has no pipelines."]


class TestTwoConnections:
    """One project that two accounts watch, each with a pipeline of its own."""

    def config(self) -> Layout:
        pipelines = (
            Pipeline(name="check", connection="review"),
            Pipeline(name="mirror", connection="other"),
        )
        plan = layout(job("unit"), job("lab"), pipelines=pipelines)
        project = Project.model_validate(
            {"name": "acme/virt", "check": {"jobs": ["unit"]}, "mirror": {"jobs": ["lab"]}}
        )
        return plan.model_copy(update={"projects": (project,)})

    @pytest.mark.parametrize("happened", [event(), comment("recheck"), comment("recheck mirror")])
    def test_an_event_starts_its_own_connections_pipeline_only(self, happened: Event) -> None:
        for connection, name in (("review", "check"), ("other", "mirror")):
            told = match(replace(happened, connection=connection), self.config())
            started = {one.pipeline for one in told if one.starts}
            assert started <= {name}
            (stranger,) = [one for one in told if one.pipeline != name]
            assert "listens to" in stranger.reason
            assert not stranger.lacks

    def test_the_name_of_the_other_pipeline_is_understood(self) -> None:
        told = match(comment("recheck mirror"), self.config())
        assert told[0].reason == "the recheck is for pipeline mirror"

    @pytest.mark.parametrize(("text", "asked"), [("run-acme-ci", True), ("run-xen-ci", False)])
    def test_run_names_one_account_of_ours(
        self,
        text: str,
        asked: bool,  # noqa: FBT001
    ) -> None:
        plan = self.config()
        other = plan.connection("other").model_copy(update={"user": "xen-ci"})
        plan = plan.model_copy(update={"connections": (plan.connection("review"), other)})
        told = match(comment(text), plan, own=frozenset({"acme-ci", "xen-ci"}))
        assert told[0].starts is asked
