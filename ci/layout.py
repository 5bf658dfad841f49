# SPDX-License-Identifier: Apache-2.0
"""Pipelines, jobs, projects and providers as frozen models: what the YAML may say.

Zuul's shape and kebab-case keys. Unknown keys are refused; durations are in seconds. How
files become these models, and how an error finds its line, is `ci/settings.py`.
"""

from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field, PositiveInt, field_validator, model_validator

from ci.layout_rules import (
    ApprovalRule,
    ConflictPolicy,
    Filters,
    Model,
    Name,
    Origin,
    ProjectName,
    RecheckLimit,
    Regex,
    StalePolicy,
    SuiteKind,
    TriggerKind,
    Trust,
    VotePolicy,
)
from ci.model.notice import NoticeKind

__all__ = [
    "ApprovalRule",
    "ConflictPolicy",
    "Connection",
    "Filters",
    "Job",
    "Layout",
    "Model",
    "Pipeline",
    "Project",
    "ProjectPipeline",
    "ProviderConfig",
    "RecheckLimit",
    "ReporterConfig",
    "SecretRef",
    "Service",
    "StalePolicy",
    "SuiteKind",
    "TriggerKind",
    "Trust",
    "VotePolicy",
]


class SecretRef(Model):
    """Where a secret is found; the secret itself never stands in the configuration."""

    from_env: str | None = None
    from_file: Path | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.from_env is None) == (self.from_file is None):
            raise ValueError("give exactly one of from-env and from-file")
        return self


class Connection(Model):
    """A Gerrit server and the account we use there."""

    name: Name
    driver: str = Field(default="gerrit", pattern="^gerrit$")
    server: str = Field(min_length=1, description="Host name of the SSH daemon")
    port: PositiveInt = 29418
    user: Name
    key_file: Path = Field(description="Private SSH key, OpenSSH or PEM, without passphrase")
    known_hosts: Path = Field(description="File that holds the server's host key")
    url: str = Field(pattern=r"^https?://\S+$", description="Base URL of the web and REST side")
    password: SecretRef = Field(description="HTTP password of the account")
    git: str = Field(
        default="http", pattern="^(http|ssh)$", description="How patch sets are fetched"
    )
    keepalive_s: PositiveInt = 30
    catch_up_overlap_s: PositiveInt = 120
    catch_up_every_s: PositiveInt = 300
    silence_s: PositiveInt = Field(
        default=60, description="After so long without an event we ask whether there were any"
    )
    catch_up_builds: PositiveInt = Field(
        default=8, description="Buildsets of missed events that may be open at once"
    )

    @field_validator("url")
    @classmethod
    def _slash(cls, url: str) -> str:
        return url if url.endswith("/") else url + "/"


class Pipeline(Model):
    """When to run, and how the outcome is told."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_]{1,40}$",
        description="Letters, digits and underscore: parsers rely on it",
    )
    connection: Name
    trigger: tuple[TriggerKind, ...] = (TriggerKind.PATCHSET_CREATED, TriggerKind.RECHECK)
    policy: VotePolicy = VotePolicy.COMMENT
    label: Name = "Verified"
    success: int = Field(default=1, ge=0, le=2)
    failure: int = Field(default=-1, le=0, ge=-2)
    merge_conflict: ConflictPolicy = ConflictPolicy.SILENT
    known_failure_vote: int = Field(default=1, ge=0, le=1)
    skip_kinds: tuple[str, ...] = ("NO_CODE_CHANGE",)
    skip_wip: bool = True
    require: Filters = Field(
        default=Filters(), description="Starts only for changes that match; every approval stands"
    )
    reject: Filters = Field(
        default=Filters(), description="Never starts for changes that match one of these keys"
    )
    trust: Trust = Field(default=Trust(), description="For jobs with requires-trust")
    recheck_limit: RecheckLimit = RecheckLimit()
    stale: StalePolicy = StalePolicy.DROP
    dependency_trouble: ConflictPolicy = Field(
        default=ConflictPolicy.COMMENT, description="When a Depends-On cannot be followed"
    )
    comment_template: Path | None = Field(
        default=None, description="Jinja2 file for the comment; ours by default"
    )


class Job(Model):
    """What to run on a node, for how long, and what to bring home."""

    name: Name
    suite: SuiteKind
    run: str = Field(min_length=1, description="Shell command, run on the node in the checkout")
    node_label: Name
    trusted: bool = Field(default=False, description="May run on a `local` node, without isolation")
    requires_trust: bool = Field(
        default=False, description="Waits until the pipeline's trust rule is met"
    )
    voting: bool = True
    setup_timeout_s: PositiveInt = 300
    timeout_s: PositiveInt = 3600
    collect_timeout_s: PositiveInt = 120
    node_attempts: int = Field(default=3, ge=1, le=10, description="Nodes tried before RETRY_LIMIT")
    results: tuple[str, ...] = Field(default=(), description="Globs of JUnit files in the checkout")
    artifacts: tuple[str, ...] = Field(default=(), description="Globs of further files to keep")
    files: tuple[Regex, ...] = Field(default=(), description="Run only when a changed file matches")
    irrelevant_files: tuple[Regex, ...] = Field(
        default=(), description="Skip when all changed files match"
    )
    env: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _results_where_they_exist(self) -> Self:
        if self.suite is SuiteKind.SHELL and self.results:
            raise ValueError("a shell job has only an exit status: use suite driver for results")
        if self.suite is SuiteKind.TESTINFRA and self.results:
            raise ValueError("a testinfra job writes its own results: leave results out")
        if self.suite is SuiteKind.DRIVER and not self.results:
            raise ValueError("a driver job needs results: globs of its JUnit files")
        return self


class ProjectPipeline(Model):
    """The jobs that one pipeline runs for a project, and what differs there from the pipeline."""

    jobs: tuple[Name, ...] = Field(min_length=1)
    policy: VotePolicy | None = None
    label: Name | None = None
    success: int | None = Field(default=None, ge=0, le=2)
    failure: int | None = Field(default=None, le=0, ge=-2)


class Project(Model):
    """A Gerrit project and what each pipeline runs for it; other keys are pipeline names."""

    name: ProjectName
    branches: tuple[Regex, ...] = Field(
        default=(), description="Only these branches; all by default"
    )
    sandbox: bool = Field(default=False, description="Where the policy `sandbox` may vote")
    pipelines: dict[str, ProjectPipeline] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _pipelines_by_name(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or "pipelines" in raw:
            return raw
        known = {"name", "branches", "sandbox"}
        return {
            **{key: value for key, value in raw.items() if key in known},
            "pipelines": {key: value for key, value in raw.items() if key not in known},
        }


class ProviderConfig(Model):
    """A source of nodes; further keys belong to its driver and are checked by it."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
    )

    name: Name
    driver: Name
    label: Name

    @property
    def options(self) -> dict[str, Any]:
        """Everything the driver's own model has to check, name and label included."""
        return {"name": self.name, "label": self.label, **(self.model_extra or {})}


class ReporterConfig(Model):
    """Whom to tell besides the review server; further keys belong to its driver."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
    )

    name: Name
    driver: Name
    notices: tuple[NoticeKind, ...] = Field(min_length=1, description="What it is told of")

    @property
    def options(self) -> dict[str, Any]:
        """Everything the driver's own model has to check, the name included."""
        return {"name": self.name, **(self.model_extra or {})}


class Service(Model):
    """This installation: where it keeps its state and where people find it."""

    state_dir: Path
    url: str = Field(default="http://127.0.0.1:8088/", pattern=r"^https?://\S+$")
    listen: str = Field(default="127.0.0.1:8088", pattern=r"^\S+:\d{1,5}$")
    lease_s: PositiveInt = 60
    worker_slots: int = Field(default=4, ge=1, le=64)
    log_limit_mib: PositiveInt = 1024
    free_disk_mib: PositiveInt = 256
    operator_token: SecretRef | None = Field(
        default=None, description="Lets operators act on the pages; without it pages only show"
    )
    checks_origins: tuple[Origin, ...] = Field(
        default=(), description="Review servers whose pages may read our Checks endpoint"
    )
    undelivered_after_s: PositiveInt = Field(
        default=900, description="When a review that cannot be given becomes a notice"
    )

    @field_validator("url")
    @classmethod
    def _slash(cls, url: str) -> str:
        return url if url.endswith("/") else url + "/"


PROJECT_OVERRIDES = ("policy", "label", "success", "failure")


class Layout(Model):
    """Everything that the configuration says, cross-checked. Frozen: a reload makes a new one."""

    service: Service
    connections: tuple[Connection, ...] = Field(min_length=1)
    pipelines: tuple[Pipeline, ...] = Field(min_length=1)
    jobs: tuple[Job, ...] = Field(min_length=1)
    projects: tuple[Project, ...] = Field(min_length=1)
    providers: tuple[ProviderConfig, ...] = Field(min_length=1)
    reporters: tuple[ReporterConfig, ...] = ()

    def connection(self, name: str) -> Connection:
        """The connection of that name; the cross-check made sure that it exists."""
        return next(item for item in self.connections if item.name == name)

    def pipeline(self, name: str) -> Pipeline:
        """The pipeline of that name."""
        return next(item for item in self.pipelines if item.name == name)

    def effective(self, pipeline: str, project: str) -> Pipeline:
        """A pipeline as it applies to a project: its own keys, then the project's.

        The policy `sandbox` comes out as what it means there: `vote` or `silent`.
        """
        found = self.pipeline(pipeline)
        owner = self.project(project)
        wanted = owner.pipelines.get(pipeline) if owner else None
        changes: dict[str, Any] = {}
        if wanted is not None:
            given = {name: getattr(wanted, name) for name in PROJECT_OVERRIDES}
            changes = {name: value for name, value in given.items() if value is not None}
        if changes.get("policy", found.policy) is VotePolicy.SANDBOX:
            proving = owner is not None and owner.sandbox
            changes["policy"] = VotePolicy.VOTE if proving else VotePolicy.SILENT
        return found.model_copy(update=changes)

    def job(self, name: str) -> Job:
        """The job of that name."""
        return next(item for item in self.jobs if item.name == name)

    def project(self, name: str) -> Project | None:
        """The project of that name, or None where we do not watch it."""
        return next((item for item in self.projects if item.name == name), None)
