# SPDX-License-Identifier: Apache-2.0
"""The items of a configuration file, and what its models say against them, in plain words."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

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
    Service,
)
from ci.yaml_marks import Marked, Problem

MODELS: Mapping[str, type[Model]] = {
    "hypervouch": Service,
    "connection": Connection,
    "pipeline": Pipeline,
    "job": Job,
    "project": Project,
    "provider": ProviderConfig,
    "reporter": ReporterConfig,
    "label": LabelConfig,
    "maintenance": Maintenance,
}
OPTIONAL = frozenset({"reporter", "label", "maintenance"})

Loc = tuple[str | int, ...]
Complaint = tuple[Loc, str]

_PROJECT_KEYS = frozenset({"name", "branches", "sandbox"})


@dataclass(frozen=True, kw_only=True)
class Item:
    """One `- kind:` entry of a file.

    Attributes:
        file: Where it stands.
        kind: one of `MODELS`.
        mark: What it says, with positions.
    """

    file: Path
    kind: str
    mark: Marked

    @property
    def name(self) -> str | None:
        """Its name as written, even where the rest is wrong; None without a usable one."""
        name = self.mark.value.get("name")
        return name if isinstance(name, str) else None

    def problem(self, loc: Sequence[str | int], message: str, *, at_key: bool = False) -> Problem:
        """A problem with the value at `loc` or its key; a missing one is put at its parent."""
        found = self.mark.find(loc)
        at = found.at if loc and self.mark.has(loc) and not at_key else found.key_at
        path = f"{self.kind}[{self.name}]" if self.name else self.kind
        path += "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
        return Problem(file=self.file, line=at.line, column=at.column, path=path, message=message)


def items_of(file: Path, tree: Marked) -> tuple[list[Item], list[Problem]]:
    """The items that a file lists, and what is wrong with its outer shape."""
    if not isinstance(tree.value, list):
        message = f"a configuration file is a list of items: {_choice()}"
        return [], [_shape_problem(file, tree, "", message)]
    items: list[Item] = []
    problems: list[Problem] = []
    for index, entry in tree.children.items():
        complaint = _shape(entry)
        if complaint is not None:
            where, message = complaint
            problems.append(_shape_problem(file, where, f"[{index}]", message))
            continue
        ((kind, mark),) = entry.children.items()
        items.append(Item(file=file, kind=str(kind), mark=mark))
    return items, problems


def _shape(entry: Marked) -> tuple[Marked, str] | None:
    if not isinstance(entry.value, dict) or not entry.value:
        return entry, f"an item is a mapping with one key: {_choice()}"
    first = next(iter(entry.children.values()))
    kind = next(iter(entry.value))
    if kind not in MODELS:
        return first, f"unknown item {kind!r}{nearest(kind, MODELS)}: use {_choice()}"
    if len(entry.value) > 1:
        extra = list(entry.children.values())[1]
        return extra, f"an item has one key only: indent what belongs to `{kind}:` further"
    if not isinstance(first.value, dict):
        return first, f"`{kind}:` needs a mapping of keys below it"
    return None


def _choice() -> str:
    return ", ".join(f"`- {kind}:`" for kind in MODELS)


def _shape_problem(file: Path, mark: Marked, path: str, message: str) -> Problem:
    at = mark.key_at
    return Problem(file=file, line=at.line, column=at.column, path=path, message=message)


def validate(item: Item, raw: Mapping[str, Any]) -> tuple[Model | None, tuple[Complaint, ...]]:
    """The model of an item, or what it says against `raw`, the item's value with paths resolved.

    Returns:
        (model, ()) or (None, complaints); a complaint's loc leads through the YAML as written.
    """
    model = MODELS[item.kind]
    if item.kind != "project":
        return _validated(model, raw)
    nested = {key: value for key, value in raw.items() if key not in _PROJECT_KEYS}
    named = {key: value for key, value in raw.items() if key in _PROJECT_KEYS}
    made, found = _validated(model, {**named, "pipelines": nested})
    return made, tuple((loc[1:] if loc[:1] == ("pipelines",) else loc, text) for loc, text in found)


def project_pipelines(item: Item) -> tuple[str, ...]:
    """The keys of a project item that name pipelines, as written."""
    return tuple(key for key in item.mark.value if key not in _PROJECT_KEYS)


def complaints(model: type[BaseModel], raw: Mapping[str, Any]) -> tuple[Complaint, ...]:
    """What a model says against a mapping: (keys that lead there, message) each; empty if good.

    For the composition root: a driver's own options model checks `ProviderConfig.options`.
    """
    try:
        model.model_validate(raw, by_alias=True, by_name=False)
    except ValidationError as error:
        return tuple(_complaint(model, detail) for detail in error.errors(include_url=False))
    return ()


def nearest(word: str, known: Iterable[str]) -> str:
    """`: did you mean 'x'?` where a known word is near, else nothing."""
    found = difflib.get_close_matches(word[:80], sorted(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _validated(
    model: type[Model], raw: Mapping[str, Any]
) -> tuple[Model | None, tuple[Complaint, ...]]:
    found = complaints(model, raw)
    if found:
        return None, found
    return model.model_validate(raw, by_alias=True, by_name=False), ()


def _complaint(model: type[BaseModel], detail: ErrorDetails) -> Complaint:
    # A bad key of a mapping is marked by a last part that is no place in the file.
    loc = tuple(part for part in detail["loc"] if part != "[key]")
    return loc, _message(model, loc, detail)


def _message(model: type[BaseModel], loc: Loc, detail: ErrorDetails) -> str:
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key{nearest(str(loc[-1]), _keys(_model_at(model, loc[:-1])))}"
    if kind in {"model_type", "dict_type", "model_attributes_type"}:
        keys = ", ".join(_keys(_model_at(model, loc))) if kind != "dict_type" else ""
        return f"should be a mapping with the keys {keys}" if keys else "should be a mapping"
    if kind == "too_short" and loc == ("pipelines",):
        return "should name at least one pipeline with its jobs"
    fixed = {
        "missing": "this key is required",
        "value_error": str(context.get("error", "")),
        "tuple_type": "should be a list",
        "too_short": f"should have at least {context.get('min_length')} entry",
        "string_too_short": "should not be empty",
        "string_type": "should be text",
    }
    text = fixed.get(kind) or detail["msg"].replace("Input should be", "should be", 1)
    if kind == "string_type" and isinstance(given, int | float):
        return f"{text}: put it in quotes"
    if kind == "string_pattern_mismatch":
        text = text.replace("String should", "should", 1) + _described(model, loc)
    shown = isinstance(given, str | int | float) and kind != "string_too_short"
    return f"{text}, not {str(given)[:80]!r}" if shown else text


def _described(model: type[BaseModel], loc: Loc) -> str:
    fields = _model_at(model, loc[:-1]).model_fields
    for name, field in fields.items():
        if loc[-1] in {name, field.alias} and field.description:
            return f" ({field.description})"
    return ""


def _keys(model: type[BaseModel]) -> tuple[str, ...]:
    return tuple(field.alias or name for name, field in model.model_fields.items())


def _model_at(model: type[BaseModel], loc: Loc) -> type[BaseModel]:
    here = model
    for part in loc:
        for name, field in here.model_fields.items():
            if part in {name, field.alias}:
                here = _model_in(field.annotation) or here
                break
    return here


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
