# SPDX-License-Identifier: Apache-2.0
"""What no item can know alone: names that must be unique or exist, and files that must be there."""

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ci import comment_samples, ssh_keys
from ci.config_items import MODELS, OPTIONAL, Item, nearest, project_pipelines
from ci.layout import (
    Connection,
    Job,
    LabelConfig,
    Maintenance,
    Model,
    Pipeline,
    Project,
    ProviderConfig,
    ReporterConfig,
    VotePolicy,
)
from ci.yaml_marks import Problem

Checked = tuple[Item, Model]
CheckProvider = Callable[
    [ProviderConfig | ReporterConfig], Sequence[tuple[Sequence[str | int], str]]
]

_VOTING = frozenset({VotePolicy.SANDBOX, VotePolicy.PLUS_ONE_ONLY, VotePolicy.VOTE})
_PORT = {"connection": 29418}


def names_are_unique(items: Sequence[Item]) -> Iterator[Problem]:
    """Each name once per kind, and the service once over all files."""
    first: dict[tuple[str, str], Item] = {}
    for item in items:
        name = "" if item.kind == "hypervouch" else item.name
        if name is None:
            continue
        earlier = first.setdefault((item.kind, name), item)
        if earlier is not item:
            place = f"{earlier.file}:{earlier.mark.key_at.line}"
            message = f"already given at {place}"
            yield item.problem(("name",) if name else (), message)


def all_kinds_present(items: Sequence[Item], root: Path) -> Iterator[Problem]:
    """At least one item of each kind, else there is nothing to do."""
    present = {item.kind for item in items}
    for kind in MODELS:
        if kind not in present and kind not in OPTIONAL:
            message = f"no `- {kind}:` item in the configuration"
            yield Problem(file=root, line=1, column=1, path=kind, message=message)


def references_exist(items: Sequence[Item], checked: Sequence[Checked]) -> Iterator[Problem]:
    """Connections, pipelines, jobs and node labels that are named are also defined.

    Args:
        items: All of them: a name counts as defined even where its item has other faults.
        checked: Those that are good in themselves.
    """
    for item in items:
        if item.kind == "project":
            yield from _project_keys(item, _names(items, "pipeline"))
    for item, model in checked:
        if isinstance(model, Pipeline):
            known = _names(items, "connection")
            yield from _known(item, ("connection",), model.connection, "connection", known)
        elif isinstance(model, Project):
            yield from _project_jobs(item, model, _names(items, "job"))
        elif isinstance(model, Job):
            yield from _job_label(item, model, items)
            yield from _job_set(item, model, items)
        elif isinstance(model, LabelConfig):
            yield from _known(item, ("name",), model.name, "node label", _labels(items))
        elif isinstance(model, Maintenance):
            yield from _windows(item, model, items)


def votes_do_not_collide(checked: Sequence[Checked]) -> Iterator[Problem]:
    """An account has one vote per label on a change: two pipelines would overwrite each other."""
    pipelines = {m.name: m for _, m in checked if isinstance(m, Pipeline)}
    for item, model in checked:
        if not isinstance(model, Project):
            continue
        taken: dict[tuple[str, str], str] = {}
        for name, own in model.pipelines.items():
            pipeline = pipelines.get(name)
            if pipeline is None or (own.policy or pipeline.policy) not in _VOTING:
                continue
            label = own.label or pipeline.label
            first = taken.setdefault((pipeline.connection, label), name)
            if first != name:
                message = (
                    f"the pipelines {first!r} and {name!r} would vote {label} by the same account, "
                    "and the later vote would replace the earlier: give one another `label`, or "
                    "`policy: comment`"
                )
                yield item.problem((name,), message)


def trust_can_be_met(checked: Sequence[Checked]) -> Iterator[Problem]:
    """A job that requires trust stands only in pipelines which say whom they trust."""
    careful = {m.name for _, m in checked if isinstance(m, Job) and m.requires_trust}
    open_to_all = {
        m.name
        for _, m in checked
        if isinstance(m, Pipeline) and not (m.trust.owner or m.trust.approval)
    }
    for item, model in checked:
        if not isinstance(model, Project):
            continue
        for pipeline, wanted in model.pipelines.items():
            for index, job in enumerate(wanted.jobs):
                if job in careful and pipeline in open_to_all:
                    message = (
                        f"the job {job!r} requires trust, and the pipeline {pipeline!r} trusts "
                        "nobody, so that it would never run: give the pipeline `trust:`"
                    )
                    yield item.problem((pipeline, "jobs", index), message)


def files_are_usable(checked: Sequence[Checked]) -> Iterator[Problem]:
    """Key files, known-hosts files and comment templates can be read and used."""
    for item, model in checked:
        if isinstance(model, Connection):
            yield from _key_file(item, model.key_file)
            yield from _known_hosts(item, model.known_hosts)
        elif isinstance(model, Pipeline):
            yield from _comment_template(item, model)
        elif isinstance(model, ProviderConfig):
            for key, check in (("key-file", _key_file), ("known-hosts", _known_hosts)):
                option = model.options.get(key)
                if isinstance(option, str):
                    yield from check(item, Path(option))


def providers_agree(checked: Sequence[Checked], check: CheckProvider) -> Iterator[Problem]:
    """What each driver's own model says of its provider's or reporter's options."""
    for item, model in checked:
        if isinstance(model, ProviderConfig | ReporterConfig):
            for loc, message in check(model):
                yield item.problem(tuple(loc), message, at_key=message.startswith("unknown key"))


def _names(items: Iterable[Item], kind: str) -> frozenset[str]:
    return frozenset(item.name for item in items if item.kind == kind and item.name)


def _known(
    item: Item, loc: tuple[str | int, ...], name: str, kind: str, known: frozenset[str]
) -> Iterator[Problem]:
    if name not in known:
        yield item.problem(loc, f"there is no {kind} {name!r}{nearest(name, known)}")


def _project_keys(item: Item, pipelines: frozenset[str]) -> Iterator[Problem]:
    for key in project_pipelines(item):
        if key not in pipelines:
            hint = nearest(key, pipelines | {"name", "branches", "sandbox"})
            message = f"neither `name`, `branches`, `sandbox` nor a pipeline{hint}"
            yield item.problem((key,), message, at_key=True)


def _project_jobs(item: Item, project: Project, jobs: frozenset[str]) -> Iterator[Problem]:
    for pipeline, wanted in project.pipelines.items():
        for index, job in enumerate(wanted.jobs):
            loc = (pipeline, "jobs", index)
            yield from _known(item, loc, job, "job", jobs)
            if job in wanted.jobs[:index]:
                yield item.problem(loc, f"the job {job!r} is listed twice")


def _job_label(item: Item, job: Job, items: Iterable[Item]) -> Iterator[Problem]:
    providers = [other.mark.value for other in items if other.kind == "provider"]
    drivers: dict[str, set[str]] = {}
    for provider in providers:
        drivers.setdefault(str(provider.get("label")), set()).add(str(provider.get("driver")))
    if job.node_label not in drivers:
        known = ", ".join(sorted(drivers)) or "none"
        message = f"no provider offers the label {job.node_label!r}; offered: {known}"
        yield item.problem(("node-label",), message)
    elif "local" in drivers[job.node_label] and not job.trusted:
        message = (
            f"the label {job.node_label!r} is offered by a `local` provider, which runs the patch "
            "on this machine without isolation: set `trusted: true` or use another label"
        )
        yield item.problem(("node-label",), message)


def _labels(items: Iterable[Item]) -> frozenset[str]:
    """The node labels that providers offer, as written."""
    found = (item.mark.value.get("label") for item in items if item.kind == "provider")
    return frozenset(label for label in found if isinstance(label, str))


def _job_set(item: Item, job: Job, items: Sequence[Item]) -> Iterator[Problem]:
    """The further nodes of a job exist, and some node can have the tags that it requires."""
    for index, label in enumerate(job.peers):
        yield from _known(item, ("peers", index), label, "node label", _labels(items))
    offered: set[str] = set()
    for other in items:
        if other.kind == "provider" and other.mark.value.get("label") == job.node_label:
            tags = other.mark.value.get("tags")
            offered.update(tag for tag in tags or () if isinstance(tag, str))
    for index, tag in enumerate(job.requires):
        if tag not in offered:
            message = f"no provider of the label {job.node_label!r} has the tag {tag!r}"
            yield item.problem(("requires", index), message + nearest(tag, offered))


def _windows(item: Item, window: Maintenance, items: Sequence[Item]) -> Iterator[Problem]:
    """Pipelines and labels of a maintenance window exist; nodes are known at run time only."""
    for index, name in enumerate(window.pipelines):
        yield from _known(item, ("pipelines", index), name, "pipeline", _names(items, "pipeline"))
    for index, name in enumerate(window.labels):
        yield from _known(item, ("labels", index), name, "node label", _labels(items))


def _key_file(item: Item, file: Path) -> Iterator[Problem]:
    complaint = ssh_keys.complaint(file)
    if complaint is not None:
        yield item.problem(("key-file",), complaint)


def _known_hosts(item: Item, file: Path) -> Iterator[Problem]:
    try:
        if file.exists() and not file.is_file():
            yield item.problem(("known-hosts",), f"{file} is not a regular file")
        else:
            file.open("rb").close()
    except FileNotFoundError:
        message = f"{file} does not exist; write it and compare the fingerprint: "
        yield item.problem(("known-hosts",), message + _scan(item, file))
    except OSError as error:
        yield item.problem(("known-hosts",), f"{file} cannot be read: {error.strerror}")


def _comment_template(item: Item, pipeline: Pipeline) -> Iterator[Problem]:
    if pipeline.comment_template is not None:
        complaint = comment_samples.complaint_of(pipeline.comment_template, pipeline.name)
        if complaint:
            yield item.problem(("comment-template",), complaint)


def _scan(item: Item, file: Path) -> str:
    said = item.mark.value
    host = said.get("server") or said.get("host") or "HOST"
    port = said.get("port") or _PORT.get(item.kind, 22)
    return f"ssh-keyscan -p {port} {shlex.quote(str(host))} > {shlex.quote(str(file))}"
