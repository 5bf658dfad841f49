# SPDX-License-Identifier: Apache-2.0
"""Secrets never pass, wherever a chunk ends."""

import pytest

from ci.results.redact import MARK, MIN_SECRET, Redactor

SECRET = "hunter2-token"


def whole(secrets: list[str], *chunks: bytes) -> bytes:
    redactor = Redactor(secrets)
    return b"".join(redactor.feed(chunk) for chunk in chunks) + redactor.flush()


def test_without_secrets_everything_passes_at_once():
    redactor = Redactor([])
    assert redactor.feed(b"abc") == b"abc"
    assert redactor.flush() == b""


def test_a_secret_is_replaced_everywhere():
    text = f"a {SECRET} b {SECRET}{SECRET}".encode()
    assert whole([SECRET], text) == b"a [redacted] b [redacted][redacted]"


@pytest.mark.parametrize("cut", range(len(SECRET) + 8))
def test_a_secret_split_at_any_place_is_replaced(cut: int):
    text = f"--{SECRET}--\n".encode()
    assert whole([SECRET], text[:cut], text[cut:]) == b"--" + MARK + b"--\n"


def test_a_secret_that_comes_byte_by_byte():
    text = f"x{SECRET}y".encode()
    assert whole([SECRET], *(text[n : n + 1] for n in range(len(text)))) == b"x[redacted]y"


def test_only_a_possible_beginning_is_held_back():
    redactor = Redactor([SECRET])
    assert redactor.feed(b"progress 10% hun") == b"progress 10% "
    assert redactor.feed(b"gry\n") == b"hungry\n"


def test_a_beginning_that_came_to_nothing_is_shown_at_the_end():
    assert whole([SECRET], b"end: hunter2-tok") == b"end: hunter2-tok"


@pytest.mark.parametrize("cut", range(1, 24))
def test_a_secret_inside_another_one_leaves_nothing_behind(cut: int):
    text = b"<prefix-inner-suffix-abc>"
    secrets = ["inner-", "prefix-inner-suffix-abc"]
    assert whole(secrets, text[:cut], text[cut:]) == b"<[redacted]>"


@pytest.mark.parametrize("cut", range(1, 12))
def test_overlapping_secrets_show_no_whole_one(cut: int):
    text = b"abcabcabcabd"
    shown = whole(["abcabd", "abcabc"], text[:cut], text[cut:])
    assert b"abcabc" not in shown
    assert b"abcabd" not in shown


def test_the_quoted_form_is_taken_out_too():
    assert whole(["p@ss/word"], b"http://u:p%40ss%2Fword@h p@ss/word") == (
        b"http://u:[redacted]@h [redacted]"
    )


def test_a_secret_over_several_lines():
    assert whole(["line-one\nline-two"], b"a line-one\n", b"line-two b") == b"a [redacted] b"


def test_short_secrets_would_spoil_the_log():
    assert whole(["x" * (MIN_SECRET - 1), ""], b"xxxxx") == b"xxxxx"


def test_bytes_that_are_no_text_pass():
    every = bytes(range(256)) * 3
    assert whole([SECRET], every) == every
