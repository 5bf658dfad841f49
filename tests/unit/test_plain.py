# SPDX-License-Identifier: Apache-2.0
"""Others' names and words, wherever a person reads them."""

import logging
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner

from ci import log, plain
from ci.cli import ErrorGroup
from ci.errors import NodeUnavailable
from nodes.hypervisors.vcenter_place import _pick
from nodes.leftovers import Fate, Kind, Left, trouble_of

HOSTILE = (
    "hv-'; $(reboot) \"",
    "hv-a\nnode is fit",
    "hv-\x1b]0;owned\x07\x1b[2J",
    "\u202ehv-txt",
    "hv-\x9b31m\x00\x7f",
    "hv-\ud800",
    "x" * 300,
)


def is_harmless(shown: str) -> bool:
    return all(one.isprintable() for one in shown.split("\n"))


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_what_a_terminal_would_obey_is_told_and_not_done(name: str) -> None:
    assert is_harmless(plain.text(name))
    assert plain.line(name).isprintable()
    assert len(plain.names([name])) <= 4 * plain.NAME
    plain.line(name).encode()  # half a character cannot be written anywhere


def test_what_is_harmless_stays_as_it_is() -> None:
    for words in ("", "a guest", "öäü ☃ שלום", "two\nlines"):
        assert plain.text(words) == words
    assert plain.line("a\x1b[2J\u202e\n") == "a\\x1b[2J\\u202e\\n"
    assert plain.line("x" * 300, 10) == "x" * 9 + "…"


def test_of_many_names_some_are_told() -> None:
    assert plain.names([]) == "none"
    assert plain.names({"b", "a\n"}) == "a\\n, b"
    assert plain.names([f"n{at:02}" for at in range(12)], most=2) == "n00, n01 and 10 more"


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_an_error_at_the_command_line(name: str) -> None:
    @click.group(cls=ErrorGroup)
    def verbs() -> None:
        """One verb."""

    @verbs.command()
    def go() -> None:
        raise NodeUnavailable(f"there is {name}", hint=f"rename {name}")

    told = CliRunner().invoke(verbs, ["go"])
    assert told.exit_code == 1
    assert is_harmless(told.output)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_what_a_build_left(name: str) -> None:
    left = Left(kind=Kind.GUEST, name=name, fate=Fate.STAYS)
    assert left.record("n")["name"].isprintable()
    assert trouble_of([left]).isprintable()
    assert len(trouble_of([left] * 9)) < 2000


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_log_line(
    capsys: pytest.CaptureFixture[str], name: str, restored: Callable[[], None], form: str
) -> None:
    log.configure(json_lines=form == "json")
    log.get("lease").warning("not cleaned", action="leftovers", reason=f"there is{name}")
    told = capsys.readouterr().err
    bare = told.replace("\x1b[", "") if "\x1b[" in told and "\x1b[2J" not in told else told
    assert "\x1b]" not in bare
    assert "\x1b[2J" not in bare
    assert "\u202e" not in bare
    restored()


@pytest.fixture
def restored() -> Callable[[], None]:
    root = logging.getLogger()
    before = list(root.handlers), root.level

    def back() -> None:
        root.handlers[:], level = before[0], before[1]
        root.setLevel(level)

    return back


def test_a_hint_with_names_of_others() -> None:
    from nodes.hypervisors.faults import CallerFault  # noqa: PLC0415 - beside what raises it

    with pytest.raises(CallerFault) as told:
        _pick("network", dict.fromkeys([*HOSTILE, *map(str, range(2000))]), "mine")
    assert told.value.hint.isprintable()
    assert len(told.value.hint) < 2000
    assert "more" in told.value.hint
