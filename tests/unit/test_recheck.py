# SPDX-License-Identifier: Apache-2.0
"""The recheck grammar: what asks for a run, what does not, and how hostile text ends."""

import re
import time

import pytest

from ci import recheck
from ci.recheck import RecheckRequest, comment_texts, parse, printable

ALIASES = frozenset({"hypervouch", "foo-ci", "Foo CI"})
TARGETS = frozenset({"xen", "acme-functional", "acme-lab", "check"})


def asked(comment: str, *patchset_level: str) -> RecheckRequest | None:
    return parse(comment_texts(comment, patchset_level), ALIASES, TARGETS)


@pytest.mark.parametrize(
    ("comment", "words", "reason"),
    [
        ("recheck", (), ""),
        ("Patch Set 3:\n\nrecheck", (), ""),
        ("Patch Set 3: Code-Review-1\n\nrecheck bug 1", (), "bug 1"),
        ("Patch Set 3: Code-Review+2 Verified-1\n\nrecheck xen\n\nthe node fell", ("xen",), ""),
        ("Patch Set 3:\n\n(1 comment)\n\nrecheck", (), ""),
        ("Patch Set 3:\r\n\r\nrecheck xen\r\n", ("xen",), ""),
        ("RECHECK", (), ""),
        ("  \n recheck", (), ""),
        ("recheck-xen", ("xen",), ""),
        ("recheck: xen", ("xen",), ""),
        ("recheck, please", (), "please"),
        ("recheck XEN", ("xen",), ""),
        ("recheck xen.", ("xen",), ""),
        ("recheck xen-next", (), "xen-next"),
        ("recheck acme-functional : bug #1", ("acme-functional",), "bug #1"),
        ("recheck acme-functional acme-lab", ("acme-functional", "acme-lab"), ""),
        ("recheck hypervouch", (), ""),
        ("recheck hypervouch xen it hung", ("xen",), "it hung"),
        ("recheck Foo CI acme-lab", ("acme-lab",), ""),
        ("recheck xen xen", ("xen",), ""),
        ("recheck other-ci", (), "other-ci"),
        ("recheck flaky xen", (), "flaky xen"),
        ("run-Foo CI", (), ""),
        ("RUN-foo ci", (), ""),
        ("Patch Set 1:\n\nrun-foo-ci xen", ("xen",), ""),
    ],
)
def test_fires(comment: str, words: tuple[str, ...], reason: str) -> None:
    assert asked(comment) == RecheckRequest(words=words, reason=reason)


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "   \n\t",
        "rechecking this",
        "recheck_xen",
        "recheck2",
        "> recheck",
        "> recheck\n\nwhy?",
        "please do not recheck",
        "I think\nrecheck",
        "(1 comment)",
        "Patch Set 3:\n\n(12 comments)",
        "Uploaded patch set 4.",
        "Patch Set 3: recheck",
        "run-Other CI",
        "run-Foo CIs",
        "run-",
        "run-\n",
        "rerun",
        "`recheck`",
    ],
)
def test_does_not_fire(comment: str) -> None:
    assert asked(comment) is None


def test_new_event_shape_has_the_text_beside_the_comment() -> None:
    assert asked("Patch Set 3:\n\n(1 comment)", "recheck xen") == RecheckRequest(words=("xen",))


def test_the_first_request_counts() -> None:
    found = asked("Patch Set 3:\n\nlooks odd", "thanks", "recheck one", "recheck two")
    assert found == RecheckRequest(reason="one")


def test_without_aliases_or_targets_everything_is_a_reason() -> None:
    assert parse(["recheck xen"], ()) == RecheckRequest(reason="xen")
    assert parse(["run-Foo CI"], ()) is None
    assert parse([], ALIASES) is None


def test_the_longest_name_wins() -> None:
    found = parse(["recheck xen 4.17 now"], (), {"xen", "xen 4.17"})
    assert found == RecheckRequest(words=("xen 4.17",), reason="now")


def test_a_dot_inside_a_name_does_not_end_it() -> None:
    assert parse(["recheck xen.old"], (), {"xen"}) == RecheckRequest(reason="xen.old")


@pytest.mark.parametrize(
    ("comment", "levels", "texts"),
    [
        ("Patch Set 3:\n\n(1 comment)", (), ()),
        ("Patch Set 3: Verified+1\n\nBuild done", (), ("Build done",)),
        ("Patch Set 3:\n\n(1 comment)\n\nrecheck", ("recheck",), ("recheck",)),
        ("Patch Set 3:\n\n(2 comments)", ("recheck", " recheck ", "why"), ("recheck", "why")),
        ("no line of Gerrit's", (), ("no line of Gerrit's",)),
        ("Patch Set 3x\n\nhello", (), ("Patch Set 3x\n\nhello",)),
        ("Patch Set 3:\n\none\n\ntwo", (), ("one\n\ntwo",)),
        ("Patch Set 3:\n\n(1 comment) is few", (), ("(1 comment) is few",)),
        ("", ("", "\n"), ()),
    ],
)
def test_comment_texts(comment: str, levels: tuple[str, ...], texts: tuple[str, ...]) -> None:
    assert comment_texts(comment, levels) == texts


def test_reason_is_printable_and_short() -> None:
    found = parse(["recheck \x1b[31mred\u202e " + "x" * 5000], ALIASES)
    assert found is not None
    assert found.reason.startswith("?[31mred? xxx")
    assert len(found.reason) <= 200
    assert printable("a\x00b\u2028c\u00e9") == "a?b?c\u00e9"


@pytest.mark.parametrize(
    "text",
    [
        " " * 50_000,
        "recheck" + " " * 50_000,
        "recheck" + "-" * 50_000 + "xen",
        "recheck " + "xen " * 12_500,
        "run-" + " " * 50_000,
        "run-Foo" + " " * 50_000 + "CI",
        "Patch Set " + "9" * 50_000,
        "Patch Set 1:" + "\n" * 50_000 + "recheck",
        "(" + "1" * 50_000 + " comments)",
        "(1 comment)\n" * 4_000,
        "\n" * 50_000 + "> recheck",
    ],
)
def test_hostile_text_ends_quickly(text: str) -> None:
    started = time.monotonic()
    parse(comment_texts(text, [text]), ALIASES, TARGETS)
    assert time.monotonic() - started < 2


def test_every_expression_is_bounded() -> None:
    expressions = [value for value in vars(recheck).values() if isinstance(value, re.Pattern)]
    assert expressions
    for expression in expressions:
        assert not re.search(r"(?<!\\)[*+]", expression.pattern), expression.pattern
