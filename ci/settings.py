# SPDX-License-Identifier: Apache-2.0
"""YAML files to a Layout: every mistake at once, each as `file:line:col: path: message`.

A configuration is one file, or all `*.yaml` and `*.yml` of a directory in the order of their
names. Each file is a list in Zuul's shape, each entry a mapping with one key: `hypervouch`
(once), `connection`, `pipeline`, `job`, `project` or `provider`. Relative paths start at the
directory of the file they stand in.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ci import config_checks, log
from ci.config_checks import Checked, CheckProvider
from ci.config_items import Item, items_of, project_pipelines, validate
from ci.config_schema import json_schema
from ci.errors import ConfigError
from ci.layout import (
    Connection,
    Job,
    LabelConfig,
    Layout,
    Maintenance,
    Model,
    Pipeline,
    Project,
    ProviderConfig,
    ReporterConfig,
    SecretRef,
    Service,
)
from ci.yaml_marks import Problem, read

__all__ = ["InvalidConfig", "Problem", "check", "json_schema", "load", "resolve_secret"]

_SECRET_LIMIT_BYTES = 64 * 1024
_PATH_KEYS = frozenset(
    {"state-dir", "key-file", "known-hosts", "from-file", "ca-file", "comment-template"}
)
_KINDS_WITH_PATHS = frozenset({"hypervouch", "connection", "pipeline", "provider", "reporter"})
_PROVIDER_PATHS = ("-file", "known-hosts", "cache-dir")


class InvalidConfig(ConfigError):
    """The configuration has mistakes.

    Attributes:
        problems: All of them, by file, line and column.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        count = f"{len(problems)} mistakes" if len(problems) > 1 else "a mistake"
        lines = "\n".join(str(problem) for problem in problems)
        super().__init__(f"the configuration has {count}:\n{lines}")
        self.problems = tuple(problems)


def load(path: Path, check_provider: CheckProvider | None = None) -> Layout:
    """The layout that a file or a directory describes.

    Args:
        path: File or directory.
        check_provider: What a driver's own model says of a provider's options, as
            (keys that lead there, message) pairs; without it the options are not looked at.

    Raises:
        InvalidConfig: With every mistake found.
    """
    layout, problems = _read(path, check_provider)
    if layout is None:
        raise InvalidConfig(problems)
    return layout


def check(path: Path, check_provider: CheckProvider | None = None) -> tuple[Problem, ...]:
    """Every mistake of a configuration, by file, line and column; empty for a good one."""
    return _read(path, check_provider)[1]


def resolve_secret(ref: SecretRef) -> str:
    """The secret behind a reference, without the line end a file may have.

    From then on no log line of this process shows it.

    Raises:
        ConfigError: The variable or the file is missing or empty; never says the secret.
    """
    if ref.from_env is not None:
        secret = os.environ.get(ref.from_env, "")
        if not secret:
            hint = f"set it in the environment of the service: export {ref.from_env}=..."
            raise ConfigError(f"the variable {ref.from_env} is not set or empty", hint=hint)
        log.hide(secret)
        return secret
    file = cast("Path", ref.from_file)
    hint = f"write the secret alone into it and let the service read it: chmod 600 {file}"
    try:
        with file.open("rb") as stream:
            raw = stream.read(_SECRET_LIMIT_BYTES + 1)
        secret = raw.decode().strip("\r\n")
    except OSError as error:
        message = f"the secret's file {file} cannot be read: {error.strerror}"
        raise ConfigError(message, hint=hint) from error
    except UnicodeDecodeError:
        # The cause would show the bytes.
        raise ConfigError(f"the secret's file {file} is not text", hint=hint) from None
    if not secret or len(raw) > _SECRET_LIMIT_BYTES:
        what = "too large" if secret else "empty"
        raise ConfigError(f"the secret's file {file} is {what}", hint=hint)
    log.hide(secret)
    return secret


def _read(
    path: Path, check_provider: CheckProvider | None
) -> tuple[Layout | None, tuple[Problem, ...]]:
    items, problems, complete = _items(path)
    checked, complaints = _validated(items)
    problems += complaints
    problems += config_checks.names_are_unique(items)
    problems += config_checks.files_are_usable(checked)
    if check_provider is not None:
        problems += config_checks.providers_agree(checked, check_provider)
    if complete:
        # What an unreadable part would have defined is not missing.
        problems += config_checks.all_kinds_present(items, path)
        problems += config_checks.references_exist(items, checked)
        problems += config_checks.trust_can_be_met(checked)
        problems += config_checks.votes_do_not_collide(checked)
    if problems:
        return None, tuple(sorted(dict.fromkeys(problems), key=_place))
    return _layout([model for _, model in checked]), ()


def _items(path: Path) -> tuple[list[Item], list[Problem], bool]:
    """All items, the problems of reading them, and whether none was lost to a problem."""
    items: list[Item] = []
    problems: list[Problem] = []
    files = _files(path)
    complete = bool(files)
    if not files:
        message = "the directory holds no *.yaml or *.yml file"
        problems.append(Problem(file=path, line=1, column=1, path="", message=message))
    for file in files:
        tree, found = read(file)
        problems += found
        if tree is None:
            complete = complete and not found
            continue
        more, found_in_shape = items_of(file, tree)
        items += more
        problems += found_in_shape
        complete = complete and not found_in_shape
    return items, problems, complete


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    # Editors leave hidden copies beside the file they edit.
    return sorted(
        file
        for file in path.iterdir()
        if file.suffix in {".yaml", ".yml"} and not file.name.startswith(".")
    )


def _validated(items: Sequence[Item]) -> tuple[list[Checked], list[Problem]]:
    checked: list[Checked] = []
    problems: list[Problem] = []
    pipelines = {item.name for item in items if item.kind == "pipeline"}
    for item in items:
        model, complaints = validate(item, _resolved(item))
        if model is not None:
            checked.append((item, model))
        # A key that is no pipeline gets one complaint, from the check of references.
        strays = set(project_pipelines(item)) - pipelines if item.kind == "project" else set()
        for loc, message in complaints:
            if not (loc and loc[0] in strays):
                at_key = message.startswith("unknown key")
                problems.append(item.problem(loc, message, at_key=at_key))
    return checked, problems


def _resolved(item: Item) -> Mapping[str, Any]:
    """The item's value with its relative paths made absolute."""
    raw: Mapping[str, Any] = item.mark.value
    if item.kind not in _KINDS_WITH_PATHS:
        return raw
    base = item.file.parent.absolute()
    return {key: _absolute(item.kind, key, value, base) for key, value in raw.items()}


def _absolute(kind: str, key: str, value: Any, base: Path) -> Any:
    if isinstance(value, dict):
        return {inner: _absolute(kind, inner, below, base) for inner, below in value.items()}
    is_path = key in _PATH_KEYS or (kind == "provider" and key.endswith(_PROVIDER_PATHS))
    if not is_path or not isinstance(value, str):
        return value
    try:
        return os.path.normpath(base / Path(value).expanduser())
    except RuntimeError:
        # `~nobody` of an account that does not exist: the check of files shows it as written.
        return value


def _layout(models: Sequence[Model]) -> Layout:
    return Layout(
        service=next(model for model in models if isinstance(model, Service)),
        connections=tuple(model for model in models if isinstance(model, Connection)),
        pipelines=tuple(model for model in models if isinstance(model, Pipeline)),
        jobs=tuple(model for model in models if isinstance(model, Job)),
        projects=tuple(model for model in models if isinstance(model, Project)),
        providers=tuple(model for model in models if isinstance(model, ProviderConfig)),
        reporters=tuple(model for model in models if isinstance(model, ReporterConfig)),
        labels=tuple(model for model in models if isinstance(model, LabelConfig)),
        maintenance=tuple(model for model in models if isinstance(model, Maintenance)),
    )


def _place(problem: Problem) -> tuple[str, int, int, str, str]:
    return (str(problem.file), problem.line, problem.column, problem.path, problem.message)
