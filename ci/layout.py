# SPDX-License-Identifier: Apache-2.0
"""Pipelines, jobs, projects and providers as frozen models: what the YAML may say.

Zuul's shape and kebab-case keys. Unknown keys are refused; durations are in seconds. How
files become these models, and how an error finds its line, is `ci/settings.py`.
"""

from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field, PositiveInt, field_validator, model_validator

from ci.cron import trigger
from ci.layout_database import DatabaseUrl
from ci.layout_retention import Retention
from ci.layout_rules import (
    ApprovalRule,
    ConflictPolicy,
    FeatureKey,
    Filters,
    Model,
    Name,
    NodePath,
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
from ci.scheduling import Needs

__all__ = [
    "ApprovalRule",
    "ConflictPolicy",
    "Connection",
    "Filters",
    "Job",
    "LabelConfig",
    "Layout",
    "LogStoreOptions",
    "Maintenance",
    "Model",
    "Pipeline",
    "Project",
    "ProjectPipeline",
    "ProviderConfig",
    "RecheckLimit",
    "ReporterConfig",
    "Retention",
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


class LogStoreOptions(Model):
    """How an S3 bucket is reached; AWS's own variables and roles count where a key is absent."""

    endpoint: str = Field(
        default="", pattern=r"^(https?://\S+)?$", description="Of a server that is not AWS"
    )
    region: str = Field(default="us-east-1", pattern=r"^[a-z0-9-]+$")
    access_key_id: SecretRef | None = None
    secret_access_key: SecretRef | None = None


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


class Retries(Model):
    """How often each kind of attempt is made again, by what ended it.

    A class that is not named has one less than the job's `node-attempts`. In all there are at
    most as many tries as the largest of them allows.
    """

    setup: int | None = Field(default=None, ge=0, le=20, description="No node came up, or no tree")
    node: int | None = Field(default=None, ge=0, le=20, description="The node broke in the suite")
    lost: int | None = Field(default=None, ge=0, le=20, description="The lease ended under it")
    collect: int | None = Field(default=None, ge=0, le=20, description="No results came home")
    timeout: int | None = Field(default=None, ge=0, le=20, description="The suite took too long")
    error: int | None = Field(
        default=None, ge=0, le=20, description="No test ran, in a baseline or a repeat"
    )


class Job(Model):
    """What to run on a node, for how long, and what to bring home."""

    name: Name
    suite: SuiteKind
    run: str = Field(
        default="", min_length=1, description="Shell command, run on the node in the checkout"
    )
    features: tuple[FeatureKey, ...] = Field(
        default=(), description="Rows of Nova's matrix that a compute job tries; all by default"
    )
    second_hypervisor: str = Field(
        default="", pattern=r"^([a-z0-9+.-]+:\S+)?$", description="For what takes two hosts"
    )
    node_label: Name
    peers: tuple[Name, ...] = Field(
        default=(), max_length=15, description="Labels of further nodes, leased with the first"
    )
    requires: tuple[Name, ...] = Field(
        default=(), description="Tags that its (first) node must have"
    )
    trusted: bool = Field(default=False, description="May run on a `local` node, without isolation")
    requires_trust: bool = Field(
        default=False, description="Waits until the pipeline's trust rule is met"
    )
    voting: bool = True
    setup_timeout_s: PositiveInt = 300
    timeout_s: PositiveInt = 3600
    collect_timeout_s: PositiveInt = 120
    interrupt_s: int = Field(default=10, ge=0, le=600, description="After SIGINT, before SIGTERM")
    terminate_s: int = Field(default=5, ge=0, le=600, description="After SIGTERM, before SIGKILL")
    kill_s: int = Field(default=5, ge=1, le=60, description="After SIGKILL, until all is gone")
    teardown_timeout_s: PositiveInt = Field(
        default=60, description="To end what runs and the machine; then the node is quarantined"
    )
    node_attempts: int = Field(default=3, ge=1, le=10, description="Nodes tried before RETRY_LIMIT")
    retries: Retries = Field(
        default=Retries(), description="Tries after the first, by what went wrong"
    )
    results: tuple[str, ...] = Field(default=(), description="Globs of JUnit files in the checkout")
    artifacts: tuple[str, ...] = Field(default=(), description="Globs of further files to keep")
    files: tuple[Regex, ...] = Field(default=(), description="Run only when a changed file matches")
    irrelevant_files: tuple[Regex, ...] = Field(
        default=(), description="Skip when all changed files match"
    )
    env: dict[str, str] = Field(default_factory=dict)

    @property
    def needs(self) -> Needs:
        """The set of nodes that it takes."""
        return Needs(label=self.node_label, peers=self.peers, requires=frozenset(self.requires))

    @model_validator(mode="before")
    @classmethod
    def _as_it_was_stored(cls, given: Any) -> Any:
        """Stored without a command, a compute job is read again without one."""
        if isinstance(given, dict) and given.get("suite") == SuiteKind.COMPUTE:
            return {key: one for key, one in given.items() if key != "run" or one != ""}
        return given

    @model_validator(mode="after")
    def _results_where_they_exist(self) -> Self:
        compute = self.suite is SuiteKind.COMPUTE
        if bool(self.run) is compute:
            raise ValueError(
                "a compute job has its own suite: leave run out" if compute else "run is missing"
            )
        if not compute and (self.features or self.second_hypervisor):
            raise ValueError("features and second-hypervisor belong to compute jobs")
        if compute and self.results:
            raise ValueError("a compute job writes its own results: leave results out")
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
    tags: tuple[Name, ...] = Field(default=(), description="What jobs may require of its nodes")
    pinned: dict[Name, str] = Field(
        default_factory=dict, description="Versions that its nodes must have, such as qemu: 7.2*"
    )
    scratch: tuple[NodePath, ...] = Field(
        default=(), description="Directories of a node where all that is new belongs to its build"
    )
    health_guest: bool = Field(
        default=False, description="The health job boots a guest on the node's hypervisor"
    )

    @property
    def options(self) -> dict[str, Any]:
        """Everything the driver's own model has to check, name and label included."""
        return {"name": self.name, "label": self.label, **(self.model_extra or {})}


class LabelConfig(Model):
    """A node label, where there is more to say of it than who offers it."""

    name: Name
    slots: PositiveInt | None = Field(
        default=None, description="Nodes of this label that may be in use at once"
    )


class Maintenance(Model):
    """A window of time, by the clock, in which nothing new starts at some places."""

    name: Name
    pipelines: tuple[Name, ...] = ()
    labels: tuple[Name, ...] = ()
    nodes: tuple[Name, ...] = ()
    cron: str = Field(description="When it begins, in UTC: minute hour day month weekday")
    minutes: int = Field(ge=1, le=7 * 24 * 60, description="How long it lasts")
    why: str = Field(min_length=1, max_length=200, description="Told wherever builds wait for it")

    @field_validator("cron")
    @classmethod
    def _cron_line(cls, line: str) -> str:
        trigger(line)
        return line

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if not (self.pipelines or self.labels or self.nodes):
            raise ValueError("say where: pipelines, labels or nodes")
        return self


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


class TraceConfig(Model):
    """Where traces are sent, by OTLP over HTTP."""

    endpoint: str = Field(pattern=r"^https?://\S+$", description="For instance .../v1/traces")
    service_name: Name = "hypervouch"
    headers: dict[Name, SecretRef] = Field(
        default_factory=dict, description="Sent with every request, such as a token"
    )


class Service(Model):
    """This installation: where it keeps its state and where people find it."""

    state_dir: Path
    database: DatabaseUrl = ""
    database_password: SecretRef | None = None
    url: str = Field(default="http://127.0.0.1:8088/", pattern=r"^https?://\S+$")
    listen: str = Field(default="127.0.0.1:8088", pattern=r"^\S+:\d{1,5}$")
    lease_s: PositiveInt = 60
    leader_term_s: PositiveInt = Field(
        default=15, description="After so long without a renewal another process leads"
    )
    worker_slots: int = Field(default=4, ge=1, le=64)
    log_limit_mib: PositiveInt = 1024
    free_disk_mib: PositiveInt = 256
    disk_high_water_percent: int = Field(
        default=90, ge=20, le=99, description="At so much use of the disk no new build is started"
    )
    disk_budget_mib: PositiveInt | None = Field(
        default=None, description="What logs and caches of this process may fill"
    )
    log_store: str = Field(
        default="",
        pattern=r"^(file:///\S+|s3://[a-z0-9][a-z0-9.-]*(/[A-Za-z0-9._/-]*)?)?$",
        description="Where all processes read logs: file:///DIRECTORY or s3://BUCKET/PREFIX",
    )
    log_store_options: LogStoreOptions = LogStoreOptions()
    log_mirror_mib: PositiveInt = Field(
        default=2048, description="Local copies of what the log store has"
    )
    retention: Retention = Retention()
    operator_token: SecretRef | None = Field(
        default=None, description="Lets operators act on the pages; without it pages only show"
    )
    checks_origins: tuple[Origin, ...] = Field(
        default=(), description="Review servers whose pages may read our Checks endpoint"
    )
    node_health_every_s: int = Field(
        default=86400, ge=0, description="Between full health jobs of nodes that stay; 0: none"
    )
    node_looping_after: int = Field(
        default=3, ge=1, le=20, description="Failures in a row before any test: Looping"
    )
    undelivered_after_s: PositiveInt = Field(
        default=900, description="When a review that cannot be given becomes a notice"
    )
    health_listen: str | None = Field(
        default=None,
        pattern=r"^\S+:\d{1,5}$",
        description="Where a process without pages serves /healthz, /readyz and /metrics",
    )
    traces: TraceConfig | None = Field(default=None, description="Sends traces of every build")

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
    labels: tuple[LabelConfig, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()

    @property
    def label_slots(self) -> dict[str, int]:
        """Nodes of a label that may be in use at once, where that is limited."""
        return {one.name: one.slots for one in self.labels if one.slots is not None}

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
