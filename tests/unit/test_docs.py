# SPDX-License-Identifier: Apache-2.0
"""The documents say what the code does: keys, verbs, routes, errors, results, links, examples."""

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ci import cli, errors, settings
from ci.config_items import MODELS
from ci.layout import (
    ApprovalRule,
    Filters,
    LogStoreOptions,
    ProjectPipeline,
    RecheckLimit,
    ReporterConfig,
    Retention,
    Retries,
    SecretRef,
    Trust,
)
from ci.model.result import FailureClass, Grade, Result
from ci.recheck import comment_texts, parse
from ci.reporters import table as notifiers
from ci.store.database import Database
from nodes.providers.table import BUILT_IN, driver
from webui.app import PAGES, create_app

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES_OF_TEXT = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^( *)```yaml( fragment)?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
# An example's key files are on no machine.
ABOUT_FILES = re.compile(r"\.(key-file|known-hosts)$")


def _name(value: Any) -> str:
    return value.relative_to(ROOT).as_posix() if isinstance(value, Path) else str(value)


def _blocks(*, fragment: bool) -> Iterator[Any]:
    for page in PAGES_OF_TEXT:
        for number, (indent, kind, body) in enumerate(BLOCK.findall(page.read_text())):
            if bool(kind) is fragment:
                text = re.sub(f"^{indent}", "", body, flags=re.MULTILINE)
                yield pytest.param(text, id=f"{_name(page)}-{number}")


def _check_driver(config: Any) -> list[tuple[tuple[str | int, ...], str]]:
    find: Any = notifiers.driver if isinstance(config, ReporterConfig) else driver
    find(config.driver).Options.model_validate(config.options)
    return []


@pytest.mark.parametrize("text", list(_blocks(fragment=False)))
def test_a_yaml_block_is_a_good_configuration(text: str, tmp_path: Path):
    file = tmp_path / "example.yaml"
    file.write_text(text)
    problems = settings.check(file, _check_driver)
    assert not [str(problem) for problem in problems if not ABOUT_FILES.search(problem.path)]


def test_the_example_in_config_lacks_nothing_but_its_key_files():
    problems = settings.check(ROOT / "config", _check_driver)
    assert not [str(problem) for problem in problems if not ABOUT_FILES.search(problem.path)]


@pytest.mark.parametrize("text", list(_blocks(fragment=True)))
def test_a_yaml_fragment_holds_good_items(text: str):
    for item in yaml.safe_load(text):
        ((kind, body),) = item.items()
        model = MODELS[kind].model_validate(body)
        if kind in {"provider", "reporter"}:
            _check_driver(model)


@pytest.mark.parametrize("page", PAGES_OF_TEXT, ids=_name)
def test_links_lead_somewhere(page: Path):
    targets = [t for t in LINK.findall(page.read_text()) if not t.startswith(("http", "mailto:"))]
    dead = []
    for target in targets:
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        if not there.exists() or (anchor and anchor not in _anchors(there)):
            dead.append(target)
    assert not dead


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}


def _section(page: Path, heading: str) -> str:
    """From one heading to the next."""
    parts = re.split(r"^#+ ", page.read_text(), flags=re.MULTILINE)
    return next((part for part in parts if part.split("\n", 1)[0] == heading), "")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "`{}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else format(value, _format(value))}`"


def _format(value: object) -> str:
    return "g" if isinstance(value, float) else ""


def _documented_models() -> list[tuple[str, type[Any]]]:
    return [
        *MODELS.items(),
        ("Secrets", SecretRef),
        ("project", ProjectPipeline),
        ("Filters", Filters),
        ("Approval", ApprovalRule),
        ("Trust", Trust),
        ("Recheck limit", RecheckLimit),
        ("Retries", Retries),
        ("retention", Retention),
        ("log-store-options", LogStoreOptions),
        *((f"driver: {name}", driver(name).Options) for name in BUILT_IN),
        *((f"reporter: {name}", notifiers.driver(name).Options) for name in notifiers.BUILT_IN),
    ]


def _fields(heading: str, model: type[Any]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        key = field.alias or name
        of_every_driver = ":" in heading and key in {"name", "label"}
        of_the_layout = heading == "project" and key == "pipelines"
        if not of_every_driver and not of_the_layout:
            yield key, field


def _keys() -> Iterator[Any]:
    for heading, model in _documented_models():
        for key, field in _fields(heading, model):
            yield pytest.param(heading, key, field, id=f"{heading}.{key}")


def _key_rows(heading: str) -> dict[str, str]:
    """The lines of a section's tables of keys, by key."""
    tables = re.split(r"\n\n", _section(REFERENCE / "configuration.md", heading))
    keys = [table for table in tables if table.startswith("| key | default | meaning |")]
    rows = [line for table in keys for line in table.splitlines()[2:]]
    return {line.split("`")[1]: line for line in rows}


def _limits(field: FieldInfo) -> str:
    """`1 to 64`, or nothing where an end is open."""
    lowest = next((m.ge for m in field.metadata if hasattr(m, "ge")), None)
    highest = next((m.le for m in field.metadata if hasattr(m, "le")), None)
    if lowest is None or highest is None:
        return ""
    return f"{lowest} {'or' if highest - lowest == 1 else 'to'} {highest}"


def _choices(annotation: Any) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [member.value for member in annotation]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [word for inner in get_args(annotation) for word in _choices(inner)]


@pytest.mark.parametrize(("heading", "key", "field"), list(_keys()))
def test_a_key_is_documented_with_its_default_and_limits(heading: str, key: str, field: FieldInfo):
    row = _key_rows(heading).get(key, "")
    assert row.startswith(f"| `{key}` | {_default(field)} | ")
    assert _limits(field) in row
    assert not [word for word in _choices(field.annotation) if f"`{word}`" not in row]


@pytest.mark.parametrize("heading", dict(_documented_models()))
def test_no_documented_key_is_gone(heading: str):
    models = [model for name, model in _documented_models() if name == heading]
    known = {key for model in models for key, _ in _fields(heading, model)}
    assert set(_key_rows(heading)) == known


def _verbs(group: click.Group, prefix: str = "hypervouch") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _verbs(command, f"{prefix} {name}")
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield f"{prefix} {name}", command


VERBS = dict(_verbs(cli.main))


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_documented_with_its_options(verb: str):
    section = _section(REFERENCE / "cli.md", f"`{verb}`")
    assert section, "no section"
    options = [
        max(parameter.opts, key=len)
        for parameter in VERBS[verb].params
        if isinstance(parameter, click.Option)
    ]
    assert not [option for option in options if f"`{option}" not in section]


def test_no_documented_verb_is_gone():
    said = re.findall(
        r"^### `(hypervouch [^`]+)`$", (REFERENCE / "cli.md").read_text(), re.MULTILINE
    )
    assert not set(said) - set(VERBS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_documented_with_its_twin(page: Any):
    assert f"| `{page.path}` | `{page.twin}` | " in (REFERENCE / "routes.md").read_text()


def test_every_route_is_documented(tmp_path: Path):
    text = (REFERENCE / "routes.md").read_text()
    app = create_app(Database.in_directory(tmp_path), tmp_path, "http://ci.example.org/")
    assert not [path for path in (route.path for route in app.routes) if f"`{path}" not in text]


def test_errors_are_documented():
    text = (REFERENCE / "errors.md").read_text()
    ours = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.HypervouchError)
    ]
    assert not [name for name in ours if f"| `{name}` | " not in text]


@pytest.mark.parametrize("words", [Result, FailureClass, Grade])
def test_results_are_documented(words: Any):
    text = (REFERENCE / "results.md").read_text()
    assert not [word.value for word in words if f"`{word.value}`" not in text]


def _vectors() -> Iterator[Any]:
    page = _section(ROOT / "docs" / "explanation" / "triggers.md", "Recheck")
    for comment, asked in re.findall(r"^\| `(.+)` \| (.+) \|$", page, re.MULTILINE):
        yield pytest.param(comment.replace("\\n", "\n"), asked, id=comment)


@pytest.mark.parametrize(("comment", "asked"), list(_vectors()))
def test_a_comment_asks_for_what_the_page_says(comment: str, asked: str):
    aliases, targets = {"hypervouch", "acme-ci", "Acme CI"}, {"acme-functional", "lab", "check"}
    found = parse(comment_texts(comment), aliases, targets)
    if found is None:
        assert asked == "nothing"
        return
    words = " ".join(f"`{word}`" for word in found.words) or "everything"
    assert asked == f"{words}: {found.reason}".removesuffix(": ")


def test_named_tests_are_there():
    pages = [page.read_text() for page in PAGES_OF_TEXT]
    named = {name for page in pages for name in re.findall(r"`(test_\w+)`", page)}
    files = [*(ROOT / "tests").rglob("test_*.py")]
    there = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    assert named
    assert not named - there - {file.stem for file in files}


def test_every_decision_is_listed_in_the_first():
    first, *others = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert not [page.name for page in others if f"({page.name})" not in first.read_text()]


def test_the_schema_for_editors_is_current():
    committed = (ROOT / "config" / "schema" / "hypervouch.schema.json").read_text()
    assert yaml.safe_load(committed) == yaml.safe_load(yaml.dump(settings.json_schema()))
