# SPDX-License-Identifier: Apache-2.0
"""YAML with positions: values, marks, and every way a file can be refused."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from ci.yaml_marks import DEPTH_LIMIT, SIZE_LIMIT_BYTES, VALUE_LIMIT, Marked, Position, parse, read

FILE = Path("c.yaml")


def tree(text: str) -> Marked:
    found, problems = parse(FILE, text)
    assert problems == ()
    assert found is not None
    return found


def refusals(text: str) -> list[str]:
    return [str(problem) for problem in parse(FILE, text)[1]]


def test_values_and_positions() -> None:
    found = tree("- job:\n    name: unit\n    files: [a, b]\n")
    assert found.value == [{"job": {"name": "unit", "files": ["a", "b"]}}]
    name = found.find((0, "job", "name"))
    assert (name.at, name.key_at) == (Position(line=2, column=11), Position(line=2, column=5))
    assert found.find((0, "job", "files", 1)).at == Position(line=3, column=16)
    assert found.has((0, "job", "files", 1))
    assert not found.has((0, "job", "files", 2))
    assert found.find((0, "job", "no", "where")) is found.find((0, "job"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1.5", 1.5),
        ("yes", True),
        ("~", None),
        ("'1'", "1"),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}", {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}}),
        ("b: {<<: [{p: 1}, {p: 2, r: 3}]}", {"b": {"p": 1, "r": 3}}),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_plain_values(text: str, value: Any) -> None:
    assert tree(text).value == value


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_nothing_is_no_problem(text: str) -> None:
    found, problems = parse(FILE, text)
    assert problems == ()
    assert found is None or found.value is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "c.yaml:3:1: the key 'a' was already given in line 1"),
        ("x:\n  - {a: 1, a: 2}\n", "c.yaml:2:12: the key 'a' was already given in line 2"),
        ("a: [1\n", "c.yaml:2:1: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("a:\n\t- b\n", "c.yaml:2:1: not YAML: found character '\\t' that cannot start any token"),
        ("a: *no\n", "c.yaml:1:4: not YAML: found undefined alias 'no'"),
        ("a: 1\n---\nb: 2\n", "c.yaml:2:1: not YAML: but found another document"),
        ("8080: a\n", "c.yaml:1:1: the key 8080 is not text: put it in quotes"),
        ("on: a\n", "c.yaml:1:1: the key on is not text: put it in quotes"),
        ("[a]: b\n", "c.yaml:1:1: a key is not text: put it in quotes"),
        (
            "a: !!python/object/apply:os.system [id]\n",
            (
                "c.yaml:1:4: the tag 'tag:yaml.org,2002:python/object/apply:os.system' is not "
                "allowed"
            ),
        ),
        ("a: !secret x\n", "c.yaml:1:4: the tag '!secret' is not allowed"),
        ("a: !!binary eA==\n", "c.yaml:1:4: the tag 'tag:yaml.org,2002:binary' is not allowed"),
        (
            "a: 2020-13-45\n",
            "c.yaml:1:4: '2020-13-45' is no valid value: put text in quotes",
        ),
        ("a: {<<: 1}\n", "c.yaml:1:9: << needs a mapping or a list of mappings"),
        ('a: "x\\0y"\n', "c.yaml:1:4: holds a control character or half of a character"),
        ('a: "\\uD800"\n', "c.yaml:1:4: holds a control character or half of a character"),
        ("a: 1\nb: \x07\n", "c.yaml:2:4: character U+0007 is not allowed"),
        ("&a [*a]\n", "c.yaml:1:1: an alias refers to the value it stands in"),
    ],
)
def test_refused(text: str, said: str) -> None:
    assert refusals(text) == [said]


def test_all_duplicates_are_told_once_each() -> None:
    shared = "x: &x {a: 1, a: 2}\ny: *x\nz: 1\nz: 2\n"
    assert refusals(shared) == [
        "c.yaml:1:14: the key 'a' was already given in line 1",
        "c.yaml:4:1: the key 'z' was already given in line 3",
    ]


def test_alias_bombs_end_soon() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    started = time.monotonic()
    assert (
        f"more than {VALUE_LIMIT} values once aliases are expanded" in refusals("\n".join(lines))[0]
    )
    assert time.monotonic() - started < 5


def test_chains_of_aliases_do_not_exhaust_the_stack() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 150))]
    assert "levels once aliases are expanded" in refusals("\n".join(lines))[0]


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_is_refused(opening: str) -> None:
    (said,) = refusals(opening * 5000)
    assert f"nested deeper than {DEPTH_LIMIT} levels" in said


def test_too_many_values_are_refused() -> None:
    (said,) = refusals("- x\n" * (3 * VALUE_LIMIT))
    assert f"more than {VALUE_LIMIT} values" in said


def test_read_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbf- x\n")
    found, problems = read(file)
    assert problems == ()
    assert found is not None
    assert found.value == ["x"]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"a: 1\nb: caf\xe9\n", ":2:7: not UTF-8: byte 0xe9"),
        (b"a: \x00\n", ":1:4: character U+0000 is not allowed"),
        (
            b"#" * (SIZE_LIMIT_BYTES + 1),
            ":1:1: larger than 1048576 bytes: is this a configuration file?",
        ),
    ],
)
def test_read_refuses(tmp_path: Path, raw: bytes, said: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(raw)
    found, problems = read(file)
    assert found is None
    assert [str(problem) for problem in problems] == [f"{file}{said}"]


def test_read_refuses_what_is_no_file(tmp_path: Path) -> None:
    missing, pipe = tmp_path / "a.yaml", tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    assert [str(found) for found in read(missing)[1]] == [
        f"{missing}:1:1: cannot be read: No such file or directory"
    ]
    assert [str(found) for found in read(pipe)[1]] == [f"{pipe}:1:1: is not a regular file"]
