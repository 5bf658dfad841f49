# SPDX-License-Identifier: Apache-2.0
"""Whatever a patch, a test or an account writes: the comment can be read, and says what it must."""

import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci.comment import WORDS, Comment, CommentRow, harmless, problems, write
from ci.comment_rules import FORBIDDEN_WHEN_SUCCEEDED, MAX_BYTES, rows_of
from ci.comment_template import Template
from ci.model.result import Result

URL = "https://ci.example.org/changes/12/3#s1"
# What a succeeded comment may show.
GOOD = frozenset(one for one in Result if not FORBIDDEN_WHEN_SUCCEEDED.search(WORDS[one]))
PARTS = [
    "- ",
    "* ",
    " : ",
    ":",
    " ",
    "\n",
    "\r\n",
    "\u2028",
    "http://x ",
    "SUCCESS",
    "FAILURE in 3s",
    "Build ",
    "succeeded",
    "x.",
    "(check pipeline).",
    "recheck",
    "run-Foo CI",
    "Patch Set 3: ",
    "<script>alert(1)</script>",
    "\x1b[2J",
    "\u202e",
    "\x00",
    "\ud800",
    "{{ header }}",
    "{% for x in rows %}",
    "error ",
    "#s1",
]
HOSTILE = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(PARTS), max_size=12).map("".join),
    st.sampled_from(PARTS).map(lambda part: part * (6_000 // len(part))),
)
NAMES = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=81)
ROWS = st.builds(
    CommentRow,
    name=NAMES.map(lambda name: f"j{name}"[:81]),
    url=st.sampled_from(["https://ci.example.org/builds/b1/", "http://127.0.0.1:8088/b/1/#test-1"]),
    result=st.sampled_from(Result),
    duration_s=st.none() | st.floats(0, 1e6),
    voting=st.booleans(),
    failing=st.lists(HOSTILE, max_size=3).map(tuple),
    evidence=HOSTILE,
)
COMMENTS = st.builds(
    Comment,
    rows=st.lists(ROWS, min_size=1, max_size=5).map(tuple),
    pipeline=st.sampled_from(["check", "gate_2"]),
    succeeded=st.booleans(),
    sentence=HOSTILE,
    url=st.just(URL),
    notes=st.lists(HOSTILE, max_size=4).map(tuple),
    requested_by=HOSTILE,
    request=HOSTILE,
)
PIECES = [
    "{{ header }}\n",
    "{{ url }}\n",
    "{% for row in rows %}{{ row.line }}\n{% endfor %}",
    "{{ sentence }} ",
    "{{ notes|join(' : ') }}\n",
    "- forged http://x : SUCCESS\n",
    "Build succeeded (check pipeline).\n",
    "{% for row in rows %}{% for name in row.failing %}{{ name }}{% endfor %}{% endfor %}",
    "{{ nothing }}",
    "{{ rows }}",
    "x" * 4000,
    "recheck\n",
    "\x00",
]


@given(COMMENTS)
@settings(max_examples=150, deadline=None)
def test_every_reader_can_read_any_comment(comment: Comment) -> None:
    text = write(comment).text
    assert problems(text) == ()
    assert URL in text
    assert len(text.encode()) <= MAX_BYTES
    shown = GOOD if text.startswith("Build succeeded") else frozenset(Result)
    assert len(rows_of(text)) == sum(row.result in shown for row in comment.rows)


@given(st.lists(ROWS, min_size=1, max_size=3), st.integers(1, 150), st.booleans())
@settings(max_examples=15, deadline=None)
def test_any_number_of_rows_is_cut_to_size(rows, times, succeeded) -> None:
    many = tuple(rows * times)
    text = write(
        Comment(rows=many, pipeline="check", succeeded=succeeded, sentence="So.", url=URL)
    ).text
    assert problems(text) == ()
    assert URL in text
    good = sum(row.result in GOOD for row in many)
    wanted = good if text.startswith("Build succeeded") else len(many)
    left_out = re.search(r"^(\d+) more jobs? (?:is|are) on the page\.$", text, re.MULTILINE)
    assert len(rows_of(text)) + (int(left_out[1]) if left_out else 0) == wanted
    assert not left_out or len(text.encode()) > MAX_BYTES - 500


@given(COMMENTS, st.lists(st.sampled_from(PIECES), max_size=8))
@settings(max_examples=150, deadline=None)
def test_no_template_can_make_a_bad_comment(comment: Comment, pieces: list[str]) -> None:
    source = "".join(pieces)
    try:
        template = Template(source, "t.j2")
    except Exception as error:  # noqa: BLE001 - says which it may be
        assert type(error).__name__ == "TemplateTrouble", error  # noqa: PT017
        return
    written = write(comment, template)
    assert problems(written.text) == ()
    assert rows_of(written.text) == rows_of(write(comment).text)
    assert written.text.split("\n")[0] == write(comment).text.split("\n")[0]
    assert URL in written.text


@given(HOSTILE)
@settings(max_examples=300, deadline=None)
def test_harmless_text_stays_harmless_and_short(text: str) -> None:
    once = harmless(text)
    assert "\n" not in once
    assert once.isprintable()
    assert len(once) <= 306
    assert harmless(once) == once or len(once) > 290


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_the_linter_reads_anything(text: str) -> None:
    assert all(": " in one for one in problems(text))


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_a_megabyte_of_anything(part: str) -> None:
    flood = part * (1_000_000 // len(part))
    row = CommentRow(name="a", url=URL, result=Result.FAILURE, failing=(flood,), evidence=flood)
    comment = Comment(
        rows=(row,),
        pipeline="check",
        succeeded=False,
        sentence=flood,
        url=URL,
        notes=(flood, flood),
        requested_by=flood,
        request=flood,
    )
    text = write(comment).text
    assert problems(text) == ()
    assert rows_of(text) == (f"- a {URL} : FAILURE",)
