# SPDX-License-Identifier: Apache-2.0
"""The rules of the house that no linter knows."""

import ast
import configparser
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINE_LIMIT = 600
IGNORED = {".git", ".hypothesis", ".venv", "__pycache__"}
MADE_AT_THE_TOP = {"build", "dist", "demo", "state"}
GENERATED = {"requirements.lock", "requirements-dev.lock", "LICENSE"}
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".html", ".css", ".js", ".svg", ".cfg", ""}
# Put together here, so that this file does not hold what it forbids.
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:{})/".format("|".join(["wo" + "rk", "fa" + "rm"])))
HOSTS = [
    name.replace(" ", ".")
    for name in (
        "pypi org",
        "files pythonhosted",
        "repo1 maven",
        "repo maven",
        "central sonatype",
        "deb debian",
        "security debian",
        "registry npmjs",
        "static crates",
        "proxy golang",
    )
]
NOT_A_NAME = {"utils", "helpers", "manager", "data", "info"}


def _files() -> Iterator[Path]:
    pending = [ROOT]
    while pending:
        for path in pending.pop().iterdir():
            cache = path.name.startswith(".") and path.name.endswith("cache")
            made = path.parent == ROOT and path.name in MADE_AT_THE_TOP
            if path.name in IGNORED or cache or made or path.is_symlink():
                continue
            if path.is_dir():
                pending.append(path)
            else:
                yield path


FILES = sorted(_files())
SOURCES = [path for path in FILES if path.suffix == ".py"]
OURS = [path for path in SOURCES if "acme_virt" not in path.parts]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def test_a_source_opens_with_its_licence():
    line = "SPDX-License-Identifier: Apache-2.0"
    texts = {_name(path): path.read_text() for path in SOURCES}
    # A script may have its interpreter's line before.
    assert not [n for n, text in texts.items() if text and line not in text[:120]]


def test_a_module_says_what_it_is():
    assert not [_name(path) for path in OURS if path.read_text() and not _docstring(path)]


def test_a_source_stays_short():
    long = [path for path in SOURCES if len(path.read_text().splitlines()) > LINE_LIMIT]
    assert not [_name(path) for path in long]


def test_modules_are_named_after_ideas():
    assert not [_name(path) for path in OURS if path.stem in NOT_A_NAME]


def test_imports_are_absolute():
    relative = re.compile(r"^\s*from \.", re.MULTILINE)
    assert not [_name(path) for path in OURS if relative.search(path.read_text())]


def test_no_machine_and_no_registry_is_named():
    found = []
    for path in FILES:
        if path.suffix in TEXT and path.name not in GENERATED:
            text = path.read_text(errors="replace")
            named = [host for host in HOSTS if host in text]
            if at := MACHINE_PATH.search(text):
                named.append(at[0])
            found += [f"{_name(path)}: {what}" for what in named]
    assert not found


def test_no_lock_names_a_registry():
    lab = [f"nodes/lab/requirements-{name}.lock" for name in ("ironic", "redfish")]
    for name in ("requirements.lock", "requirements-dev.lock", *lab):
        text = (ROOT / name).read_text()
        assert "://" not in text
        assert not re.search(
            r"^\s*(--index|--extra-index|--find-links|-i |-f )", text, re.MULTILINE
        )


def test_every_module_has_its_layer():
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    layers = set(re.findall(r"[\w.]+", parser["importlinter:contract:layers"]["layers"]))
    modules = {
        f"ci.{path.stem if path.is_file() else path.name}"
        for path in (ROOT / "ci").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert not sorted(modules - layers - {"ci.__init__"}), "put them into .importlinter"


def test_the_nine_steps_say_which_step_they_are():
    openings = [
        re.match(r"Steps? (\d)(?: to (\d))? of 9", _docstring(path))
        for path in OURS
        if "tests" not in path.parts
    ]
    steps = {n for f in openings if f for n in range(int(f[1]), int(f[2] or f[1]) + 1)}
    assert steps == set(range(1, 10))
