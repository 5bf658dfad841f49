# SPDX-License-Identifier: Apache-2.0
"""YAML to Layout: the good configuration loads, each mistake is told with file, line and column."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pydantic import BaseModel, ConfigDict, Field

from ci.config_items import complaints
from ci.errors import ConfigError
from ci.layout import Layout, ProviderConfig, SecretRef
from ci.settings import InvalidConfig, check, json_schema, load, resolve_secret

ROOT = Path(__file__).parents[2]
KEY = Ed25519PrivateKey.generate().private_bytes(
    Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
)
GOOD = """\
- hypervouch:
    state-dir: state
- connection:
    name: review
    server: review.example.org
    user: acme-ci
    key-file: key
    known-hosts: hosts
    url: https://review.example.org
    password:
      from-env: GERRIT_PASSWORD
- pipeline:
    name: check
    connection: review
- job:
    name: unit
    suite: shell
    run: make test
    node-label: qemu
- project:
    name: acme/virt
    check:
      jobs: [unit]
- provider:
    name: here
    driver: qemu
    label: qemu
    slots: 2
"""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a configuration with its key files beside it."""
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "hosts").write_text("review.example.org ssh-ed25519 AAAA\n")

    def _write(text: str) -> Path:
        file = tmp_path / "c.yaml"
        file.write_text(text)
        return file

    return _write


def said(file: Path) -> list[str]:
    """The problems, with the directory cut off."""
    return [str(problem).replace(f"{file.parent}/", "") for problem in check(file)]


def cases(name: str) -> list[dict[str, Any]]:
    found = yaml.safe_load((ROOT / f"tests/data/settings/{name}.yaml").read_text())
    assert isinstance(found, list)
    return found


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def test_a_good_file_loads(write: Write, tmp_path: Path) -> None:
    layout = load(write(GOOD))
    assert isinstance(layout, Layout)
    assert layout.service.state_dir == tmp_path / "state"
    assert layout.connection("review").key_file == tmp_path / "key"
    assert layout.connection("review").known_hosts == tmp_path / "hosts"
    assert layout.connection("review").url == "https://review.example.org/"
    assert layout.job("unit").node_label == "qemu"
    project = layout.project("acme/virt")
    assert project is not None
    assert project.pipelines["check"].jobs == ("unit",)
    assert layout.providers[0].options == {"name": "here", "label": "qemu", "slots": 2}
    assert check(tmp_path / "c.yaml") == ()


def test_a_directory_is_one_configuration(write: Write, tmp_path: Path) -> None:
    first, second = GOOD[: GOOD.index("- job:")], GOOD[GOOD.index("- job:") :]
    write(first)
    (tmp_path / "d.yml").write_text(second)
    (tmp_path / "e.yaml").write_text("# nothing yet\n")
    (tmp_path / ".#c.yaml").write_text("- broken: [")
    (tmp_path / "notes.txt").write_text("- broken: [")
    assert load(tmp_path) == load(tmp_path)
    assert load(tmp_path).jobs[0].name == "unit"


def test_paths_start_at_their_file(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    text = changed("state-dir: state", "state-dir: ~/state")
    text = text.replace("from-env: GERRIT_PASSWORD", "from-file: secrets/password")
    options = "image-file: a.img\n    cache-dir: c\n    known-hosts: hosts\n    workdir: w\n"
    layout = load(write(text + "    " + options))
    assert layout.service.state_dir == Path("/home/ann/state")
    assert layout.connections[0].password.from_file == tmp_path / "secrets/password"
    assert layout.providers[0].options == {
        "name": "here",
        "label": "qemu",
        "slots": 2,
        "image-file": f"{tmp_path}/a.img",
        "cache-dir": f"{tmp_path}/c",
        "known-hosts": f"{tmp_path}/hosts",
        "workdir": "w",
    }


def test_an_unknown_home_stays_as_written(write: Write) -> None:
    (problem,) = said(write(changed("key-file: key", "key-file: ~no-such-account/key")))
    assert problem.startswith(
        "c.yaml:7:15: connection[review].key-file: ~no-such-account/key does not exist; make it: "
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (".", "is not a regular file"),
        ("x" * 300, "cannot be read: File name too long"),
        ("key/hosts", "cannot be read: Not a directory"),
    ],
)
def test_known_hosts_that_cannot_be_read(write: Write, name: str, why: str) -> None:
    (problem,) = said(write(changed("known-hosts: hosts", f"known-hosts: {name}")))
    assert problem.startswith("c.yaml:8:18: connection[review].known-hosts: ")
    assert problem.endswith(why)


def test_a_value_of_the_wrong_kind_breaks_no_other_check(write: Write) -> None:
    text = changed("driver: qemu", "driver: {a: 1}").replace("state-dir: state", "state-dir: []")
    assert [problem.split(": ")[1] for problem in said(write(text))] == [
        "hypervouch.state-dir",
        "provider[here].driver",
    ]


@pytest.mark.parametrize("case", cases("mistakes"), ids=lambda case: case["says"][0])
def test_mistakes(write: Write, case: dict[str, Any]) -> None:
    found = said(write(changed(case["replace"], case["by"])))
    assert found == [f"c.yaml:{text}" for text in case["says"]]


@pytest.mark.parametrize("case", cases("shapes"), ids=lambda case: case["says"][0])
def test_outer_shape(write: Write, case: dict[str, Any]) -> None:
    assert said(write(case["file"])) == [f"c.yaml:{text}" for text in case["says"]]


def test_the_secret_itself_in_the_file_is_refused_and_not_shown(write: Write) -> None:
    text = changed("    password:\n      from-env: GERRIT_PASSWORD", "    password: hunter2")
    assert said(write(text)) == [
        (
            "c.yaml:10:15: connection[review].password: should be a mapping with the keys "
            "from-env, from-file"
        )
    ]


def test_all_mistakes_at_once_over_all_files_in_order(write: Write, tmp_path: Path) -> None:
    write(changed("    run: make test", "    run: ''").replace("state-dir: state", "state-dir: 1"))
    (tmp_path / "d.yaml").write_text("- job:\n    name: unit\n- projct: {}\n")
    (tmp_path / "e.yaml").write_text("- a: [\n")
    with pytest.raises(InvalidConfig) as caught:
        load(tmp_path)
    places = [
        (problem.file.name, problem.line, problem.column) for problem in caught.value.problems
    ]
    assert places == [
        ("c.yaml", 2, 16),
        ("c.yaml", 18, 10),
        ("d.yaml", 1, 3),
        ("d.yaml", 1, 3),
        ("d.yaml", 2, 11),
        ("d.yaml", 3, 3),
        ("e.yaml", 2, 1),
    ]
    message = str(caught.value)
    assert message.startswith("the configuration has 7 mistakes:\n")
    assert all(str(problem) in message for problem in caught.value.problems)
    assert isinstance(caught.value, ConfigError)


def test_an_unreadable_file_hides_no_names(write: Write, tmp_path: Path) -> None:
    write(GOOD[: GOOD.index("- job:")])
    (tmp_path / "d.yaml").write_text("- job: [\n")
    assert [problem.file.name for problem in check(tmp_path)] == ["d.yaml"]


def test_nothing_to_read(tmp_path: Path) -> None:
    assert [str(problem) for problem in check(tmp_path)] == [
        f"{tmp_path}:1:1: the directory holds no *.yaml or *.yml file"
    ]
    missing = tmp_path / "none.yaml"
    assert [str(problem) for problem in check(missing)] == [
        f"{missing}:1:1: cannot be read: No such file or directory"
    ]


def test_an_empty_file_lacks_every_kind(write: Write) -> None:
    kinds = ["connection", "hypervouch", "job", "pipeline", "project", "provider"]
    assert said(write("# to be written\n")) == [
        f"c.yaml:1:1: {kind}: no `- {kind}:` item in the configuration" for kind in kinds
    ]


class Options(BaseModel):
    """A driver's options, as a driver would declare them."""

    model_config = ConfigDict(extra="forbid", alias_generator=lambda name: name.replace("_", "-"))

    name: str
    label: str
    slots: int = Field(default=1, le=8)
    boot_timeout_s: float = 60


@pytest.mark.parametrize(
    ("new", "problem"),
    [
        ("slots: 99", "28:12: provider[here].slots: should be less than or equal to 8, not '99'"),
        (
            "boot-timeout: 5",
            "28:5: provider[here].boot-timeout: unknown key (did you mean 'boot-timeout-s'?)",
        ),
        (
            "boot-timeout-s: {a: 1}",
            "28:21: provider[here].boot-timeout-s: should be a valid number",
        ),
    ],
)
def test_a_drivers_own_model_speaks_with_positions(write: Write, new: str, problem: str) -> None:
    seen: list[ProviderConfig] = []

    def ask(provider: ProviderConfig) -> Sequence[tuple[Sequence[str | int], str]]:
        seen.append(provider)
        return complaints(Options, provider.options)

    file = write(changed("slots: 2", new))
    assert [str(found) for found in check(file, ask)] == [f"{file.parent}/c.yaml:{problem}"]
    with pytest.raises(InvalidConfig):
        load(file, ask)
    assert seen[0].driver == "qemu"
    assert load(write(GOOD), ask).providers[0].name == "here"


def test_the_example_configuration_loads(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "keys").mkdir()
    for file in (ROOT / "config").glob("*.yaml"):
        shutil.copy(file, config)
    for name in ("gerrit", "lab"):
        (config / "keys" / name).write_bytes(KEY)
    for name in ("known_hosts", "lab_known_hosts"):
        (config / "keys" / name).write_text("host ssh-ed25519 AAAA\n")
    layout = load(config)
    assert [provider.driver for provider in layout.providers] == ["qemu", "static"]
    assert layout.connections[0].server == "review.example.org"
    assert {job.suite.value for job in layout.jobs} == {"driver"}


def test_the_committed_schema_is_current() -> None:
    file = ROOT / "config/schema/hypervouch.schema.json"
    expected = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    assert file.read_text() == expected, "write ci.settings.json_schema() to it again"


def test_the_schema_knows_every_kind_and_every_reference() -> None:
    schema = json_schema()
    kinds = [choice["required"] for choice in schema["items"]["oneOf"]]
    assert kinds == [
        ["hypervouch"],
        ["connection"],
        ["pipeline"],
        ["job"],
        ["project"],
        ["provider"],
        ["reporter"],
        ["label"],
        ["maintenance"],
    ]
    text = json.dumps(schema)
    for name in schema["$defs"]:
        assert f'"#/$defs/{name}"' in text
    assert "node-label" in schema["$defs"]["Job"]["properties"]
    assert schema["$defs"]["Job"]["additionalProperties"] is False
    assert "pipelines" not in schema["$defs"]["Project"]["properties"]


def test_secret_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    ref = SecretRef(from_env="GERRIT_PASSWORD")
    monkeypatch.setenv("GERRIT_PASSWORD", "hunter2")
    assert resolve_secret(ref) == "hunter2"
    for value in ("", None):
        if value is None:
            monkeypatch.delenv("GERRIT_PASSWORD")
        else:
            monkeypatch.setenv("GERRIT_PASSWORD", value)
        with pytest.raises(ConfigError, match="GERRIT_PASSWORD is not set or empty") as caught:
            resolve_secret(ref)
        assert "export GERRIT_PASSWORD=" in caught.value.hint


def test_secret_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    ref = SecretRef(from_file=file)
    file.write_text("hunter2 \n")
    assert resolve_secret(ref) == "hunter2 "


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"hunter2\xff", "is not text"),
        (b"x" * 70_000, "is too large"),
    ],
)
def test_secret_file_that_gives_none(tmp_path: Path, content: bytes | None, why: str) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        resolve_secret(SecretRef(from_file=file))
    assert caught.value.message == f"the secret's file {file} {why}"
    assert "chmod 600" in caught.value.hint
    assert "hunter2" not in str(caught.value)
