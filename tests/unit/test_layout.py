# SPDX-License-Identifier: Apache-2.0
"""The models of the configuration: defaults, limits, and that nothing can change them later."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ci.layout import (
    Connection,
    Job,
    Layout,
    Pipeline,
    Project,
    ProviderConfig,
    SecretRef,
    Service,
    SuiteKind,
    TriggerKind,
    VotePolicy,
)

JOB = {"name": "unit", "suite": "shell", "run": "make", "node-label": "qemu"}
CONNECTION = {
    "name": "review",
    "server": "review.example.org",
    "user": "acme-ci",
    "key-file": "k",
    "known-hosts": "h",
    "url": "https://review.example.org/gerrit",
    "password": {"from-env": "P"},
}


def test_a_new_pipeline_votes_nothing_until_it_is_told_to() -> None:
    pipeline = Pipeline.model_validate({"name": "check", "connection": "review"})
    assert pipeline.policy is VotePolicy.COMMENT
    assert pipeline.trigger == (TriggerKind.PATCHSET_CREATED, TriggerKind.RECHECK)
    assert pipeline.skip_kinds == ("NO_CODE_CHANGE",)
    assert (pipeline.success, pipeline.failure) == (1, -1)


def test_connection_defaults_and_trailing_slash() -> None:
    connection = Connection.model_validate(CONNECTION)
    assert connection.port == 29418
    assert connection.git == "http"
    assert connection.url == "https://review.example.org/gerrit/"
    assert connection.password == SecretRef(from_env="P")


def test_job_defaults() -> None:
    job = Job.model_validate(JOB)
    assert job.suite is SuiteKind.SHELL
    assert not job.trusted
    assert job.voting
    assert job.node_attempts == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suite": "driver"}, "a driver job needs results"),
        ({"suite": "testinfra", "results": ["a"]}, "a testinfra job writes its own results"),
        ({"results": ["r.xml"]}, "a shell job has only an exit status"),
        ({"node-attempts": 11}, "less than or equal to 10"),
        ({"timeout-s": 0}, "greater than 0"),
        ({"name": "two words"}, "use letters"),
        ({"name": "a/b"}, "use letters"),
        ({"files": ["["]}, "not a regular expression"),
        ({"more": 1}, "Extra inputs are not permitted"),
    ],
)
def test_jobs_that_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Job.model_validate({**JOB, **change})


@pytest.mark.parametrize("name", ["check-it", "", "a b", "x" * 41, "check\n"])
def test_pipeline_names_are_words(name: str) -> None:
    with pytest.raises(ValidationError, match="pattern"):
        Pipeline(name=name, connection="review")


@pytest.mark.parametrize("value", [{"success": 3}, {"failure": 1}, {"known-failure-vote": -1}])
def test_votes_stay_in_their_range(value: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Pipeline.model_validate({"name": "check", "connection": "review", **value})


@pytest.mark.parametrize("raw", [{}, {"from-env": "A", "from-file": "b"}])
def test_a_secret_has_one_source(raw: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="exactly one"):
        SecretRef.model_validate(raw)


def test_a_project_takes_its_pipelines_by_name() -> None:
    project = Project.model_validate(
        {"name": "a/b", "branches": ["main"], "check": {"jobs": ["x"]}, "gate": {"jobs": ["y"]}}
    )
    assert {name: listed.jobs for name, listed in project.pipelines.items()} == {
        "check": ("x",),
        "gate": ("y",),
    }


@pytest.mark.parametrize("name", ["../etc", "a//b", "-a", "a.git/b", "a b", "a;b", "a\nb", ""])
def test_project_names_are_checked(name: str) -> None:
    with pytest.raises(ValidationError, match="not a Gerrit project name"):
        Project.model_validate({"name": name, "check": {"jobs": ["x"]}})


def test_provider_options_belong_to_the_driver() -> None:
    provider = ProviderConfig.model_validate(
        {"name": "p", "driver": "qemu", "label": "q", "slots": 2, "boot-timeout-s": 9}
    )
    assert provider.options == {"name": "p", "label": "q", "slots": 2, "boot-timeout-s": 9}


@pytest.mark.parametrize("listen", ["8088", "localhost:", "a b:1"])
def test_listen_is_host_and_port(listen: str) -> None:
    with pytest.raises(ValidationError):
        Service.model_validate({"state-dir": "s", "listen": listen})


def test_look_up_by_name_and_frozen() -> None:
    layout = Layout(
        service=Service(state_dir=Path("s")),
        connections=(Connection.model_validate(CONNECTION),),
        pipelines=(Pipeline(name="check", connection="review"),),
        jobs=(Job.model_validate(JOB),),
        projects=(Project.model_validate({"name": "a/b", "check": {"jobs": ["unit"]}}),),
        providers=(ProviderConfig(name="p", driver="qemu", label="q"),),
    )
    assert layout.connection("review").name == "review"
    assert layout.pipeline("check").name == "check"
    assert layout.job("unit").name == "unit"
    assert layout.project("a/b") is layout.projects[0]
    assert layout.project("a/c") is None
    with pytest.raises(ValidationError, match="frozen"):
        layout.jobs[0].run = "rm"


def _layout(project: dict[str, Any], **pipeline: Any) -> Layout:
    fields = {"name": "check", "connection": "review", "policy": "vote", **pipeline}
    return Layout(
        service=Service(state_dir=Path("/s")),
        connections=(Connection.model_validate(CONNECTION),),
        pipelines=(Pipeline.model_validate(fields),),
        jobs=(Job.model_validate(JOB),),
        projects=(Project.model_validate({"name": "acme", **project}),),
        providers=(ProviderConfig(name="q", driver="dummy", label="qemu"),),
    )


def test_a_project_overrides_what_its_pipeline_says_and_nothing_else() -> None:
    own = {"jobs": ["unit"], "label": "Xen-CI", "success": 2, "policy": "comment"}
    effective = _layout({"check": own}).effective("check", "acme")
    assert (effective.label, effective.success, effective.failure) == ("Xen-CI", 2, -1)
    assert effective.policy is VotePolicy.COMMENT
    assert _layout({"check": {"jobs": ["unit"]}}).effective("check", "acme").label == "Verified"


@pytest.mark.parametrize(
    ("sandbox", "becomes"), [(True, VotePolicy.VOTE), (False, VotePolicy.SILENT)]
)
def test_the_sandbox_rung_votes_on_sandbox_projects_alone(
    sandbox: bool,  # noqa: FBT001
    becomes: VotePolicy,
) -> None:
    layout = _layout({"sandbox": sandbox, "check": {"jobs": ["unit"]}}, policy="sandbox")
    assert layout.effective("check", "acme").policy is becomes


def test_one_value_of_an_approval_is_a_list_of_one() -> None:
    pipeline = Pipeline.model_validate(
        {
            "name": "check",
            "connection": "review",
            "require": {"approval": [{"label": "Verified", "value": 1, "by": ["zuul"]}]},
        }
    )
    assert pipeline.require.approval[0].value == (1,)
    assert pipeline.require.given
    assert not pipeline.reject.given
