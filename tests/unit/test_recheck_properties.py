# SPDX-License-Identifier: Apache-2.0
"""The recheck grammar under any text: it never fails, ends soon, and a quote asks for nothing."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ci.clock import FakeClock
from ci.recheck import comment_texts, parse, printable
from ci.triggers import Known, match
from tests.kit.core import comment, job, layout

ALIASES = frozenset({"hypervouch", "foo-ci", "Foo CI"})
TARGETS = frozenset({"xen", "acme-functional", "acme-lab", "check"})
PIECES = st.sampled_from(
    [
        "recheck",
        "RECHECK",
        "run-",
        "Foo CI",
        "xen",
        "acme-lab",
        "check",
        " ",
        "\n",
        "\t",
        "-",
        ":",
        ",",
        ".",
        "> ",
        "Patch Set 3:",
        "(1 comment)",
        "\x1b[31m",
        "\u202e",
        "\x00",
        "\ud800",
        "İ",
        "ß",
        "bug #1",
    ]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=30).map("".join))
SOON = settings(max_examples=300)


@SOON
@given(TEXTS, st.lists(TEXTS, max_size=3))
def test_any_text_gives_an_answer_or_none(text: str, more: list[str]) -> None:
    found = parse(comment_texts(text, more), ALIASES, TARGETS)
    if found is not None:
        assert set(found.words) <= TARGETS
        assert len(set(found.words)) == len(found.words)
        assert found.reason.isprintable()
        assert len(found.reason) <= 200


@SOON
@given(TEXTS, st.integers(min_value=1, max_value=99))
def test_a_quote_asks_for_nothing(text: str, number: int) -> None:
    quoted = "\n".join(f"> {line}" for line in text.splitlines() or [""])
    assert parse(comment_texts(f"Patch Set {number}:\n\n{quoted}", [quoted]), ALIASES) is None


@SOON
@given(st.text(alphabet=st.characters(categories=("L", "N")), min_size=1), TEXTS)
def test_a_word_before_it_asks_for_nothing(word: str, text: str) -> None:
    if word.casefold() in {"recheck", "run"}:
        return
    assert parse([f"{word} recheck {text}"], ALIASES, TARGETS) is None


@SOON
@given(st.lists(st.sampled_from(sorted(TARGETS)), max_size=4), st.sampled_from([" ", ", ", ": "]))
def test_known_names_are_taken_in_any_case_and_once(names: list[str], between: str) -> None:
    text = "recheck " + between.join(name.upper() for name in names)
    found = parse([text], ALIASES, TARGETS)
    assert found is not None
    assert found.words == tuple(dict.fromkeys(names))
    assert found.reason == ""


@SOON
@given(TEXTS)
@example("recheck unit because \x1b[2J\u202e it hung")
def test_whatever_is_said_the_decision_is_printable(text: str) -> None:
    said = comment(FakeClock(), text)
    for decision in match(said, layout(job("unit"), job("metal", "xen")), Known(files=[])):
        assert decision.reason.isprintable()


@SOON
@given(st.text())
def test_printable_is_and_keeps_the_length(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)


@pytest.mark.parametrize(
    "piece",
    ["recheck ", "recheck-", "run-", " ", "\n", "xen ", "Patch Set 1", "(1 comment)\n", "a"],
)
@pytest.mark.parametrize("start", ["", "recheck ", "run-Foo CI ", "Patch Set 1:\n\n"])
def test_a_megabyte_ends_soon(piece: str, start: str) -> None:
    text = start + piece * (1_000_000 // len(piece))
    started = time.monotonic()
    parse(comment_texts(text, [text]), ALIASES, TARGETS)
    assert time.monotonic() - started < 5


def test_a_thousand_names_end_soon() -> None:
    names = {f"job-{number}" for number in range(1_000)}
    started = time.monotonic()
    for _ in range(20):
        parse(["recheck " + "job-999 " * 100], ALIASES, names)
    assert time.monotonic() - started < 10
