# SPDX-License-Identifier: Apache-2.0
"""An operator's template may say anything, cost little, and never cost a comment."""

import threading
from dataclasses import fields
from pathlib import Path

import pytest

from ci.comment import Comment, CommentRow, problems, write
from ci.comment_content import Content, Row
from ci.comment_samples import complaint_of, samples
from ci.comment_template import (
    BUILTIN,
    SOURCE_LIMIT_BYTES,
    Template,
    TemplateTrouble,
    builtin,
    load,
)
from ci.model.result import Result

URL = "https://ci.example.org/changes/12/3#s1"
FRAME = "{{ header }}\n{{ url }}\n{% for row in rows %}\n{{ row.line }}\n{% endfor %}\n"


def comment(*, rows: int = 2, **more: object) -> Comment:
    values: dict[str, object] = {
        "pipeline": "check",
        "succeeded": False,
        "sentence": "One test does not pass.",
        "url": URL,
        "notes": ("a note",),
        "project": "acme/virt",
        "change": 12,
        "patchset": 3,
    }
    made = tuple(
        CommentRow(
            name=f"job-{n}",
            url=f"https://ci.example.org/builds/{n}/",
            result=Result.FAILURE,
            duration_s=62,
            failing=("test_a", "test_b"),
        )
        for n in range(rows)
    )
    return Comment(rows=made, **(values | more))  # type: ignore[arg-type]


def made(source: str, **more: object) -> str:
    written = write(comment(**more), Template(source, "own.j2"))
    assert written.complaint == ""
    return written.text


def complaint(source: str, **more: object) -> str:
    """Of a template that has to be refused, when it is read or when it is used."""
    own = write(comment(**more))
    try:
        template = Template(source, "own.j2")
    except TemplateTrouble as trouble:
        return trouble.message
    written = write(comment(**more), template)
    assert written.text == own.text
    assert written.complaint
    return written.complaint


def test_prose_is_the_operators() -> None:
    text = made(FRAME + "Ask the virtualisation team of {{ project }} about {{ change }}.\n")
    assert text.split("\n")[0] == "Build failed (check pipeline)."
    assert text.endswith("Ask the virtualisation team of acme/virt about 12.")
    assert problems(text) == ()


def test_what_a_template_can_do() -> None:
    source = FRAME + (
        "{% for row in rows if row.failing and row.voting %}"
        "{{ loop.index }}/{{ loop.length }} {{ row.name|upper }}: "
        "{{ row.failing|join(', ') }} ({{ row.failing|length + row.more }}, {{ row.took }})"
        "{% if not loop.last %}; {% endif %}{% endfor %}.\n"
        "{% if request is defined and not request %}patch set {{ patchset }}{% endif %}.\n"
        "{{ 'good' if succeeded else 'bad' }} {{ 'x' ~ recheck }} "
        "{{ 'yes' if 'a note' in notes }}\n"
        "{% if rows|length != 1 and notes|first == 'a note' %}"
        "{{ sentence|truncate(10) }}{% endif %}"
    )
    assert made(source).split("\n")[4:] == [
        "1/2 JOB-0: test_a, test_b (2, 1m 02s); 2/2 JOB-1: test_a, test_b (2, 1m 02s).",
        "patch set 3.",
        "bad xrecheck yes",
        "One...",
    ]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ header }", "own.j2:1: "),
        ("\n\n{% if %}", "own.j2:3: "),
        ("{% for row in rows %}", "own.j2:1: "),
        ("a\n{{ rowz }}", "own.j2:2: there is no 'rowz'; there are change, cut"),
        ("{{ header|shout }}", "No filter named 'shout'"),
        (FRAME + "{% for row in rows %}\n{{ row.nmae }}\n{% endfor %}", "own.j2:7: "),
        (FRAME + "\n{{ header.upper }}", "own.j2:7: access to attribute 'upper' of 'str'"),
        ("{{ ''.__class__ }}", "unsafe"),
        ("{{ rows.count }}", "unsafe"),
        ("{{ header['__class__'] }}", "getitem"),
        ("{{ header.upper() }}", "'call' is not offered"),
        ("{{ range(9) }}", "'call' is not offered"),
        ("{% set x = 1 %}", "'assign' is not offered"),
        ("{% macro m() %}{% endmacro %}", "'macro' is not offered"),
        ("{% include 'x' %}", "'include' is not offered"),
        ("{% extends 'x' %}", "'extends' is not offered"),
        ("{% import 'x' as x %}", "'import' is not offered"),
        ("{% with x = 1 %}{% endwith %}", "'with' is not offered"),
        ("{% block b %}{% endblock %}", "'block' is not offered"),
        ("{% filter upper %}x{% endfilter %}", "'filterblock' is not offered"),
        ("{% for r in rows recursive %}{% endfor %}", "'for' is not offered"),
        ("{{ 'x' * 1000000000 }}", "'mul' is not offered"),
        ("{{ 9 ** 99999999 }}", "'pow' is not offered"),
        ("{{ '%1000000000d' % 1 }}", "'mod' is not offered"),
        ("{{ rows[:1] }}", "not offered"),
        ("{{ rows|counted }}", "'counted' is not offered"),
        ("{{ _steps }}", "'_steps' is not offered"),
        ("{% for a in 'aaaa' %}{% endfor %}", "`for` goes over"),
        ("{% for a in [1, 2] %}{% endfor %}", "`for` goes over"),
        ("{{ rows }}", "cannot be printed"),
        ("{{ none }}", "cannot be printed"),
        ("{{ 'x'|join('y') }}", "`join` takes"),
        (FRAME + "{{ notes|join(header) + 1 }}", "own.j2:6: "),
        ("(" * 5 + "{{ " + "(" * 5000 + " }}", "own.j2:1: "),
        ("{{ " + "not " * 4000 + "header }}", "own.j2:1: "),
        ("{% if header %}" * 300 + "{% endif %}" * 300, "own.j2:1: "),
        ("x" * (SOURCE_LIMIT_BYTES + 1), "it is longer than 16384 bytes"),
    ],
)
def test_what_it_cannot_do(source: str, said: str) -> None:
    found = complaint(source)
    assert said in found
    assert found.startswith("own.j2:")
    assert "\n" not in found


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ url }}\n" + FRAME, "the first line has to be {{ header }}"),
        (FRAME.replace("{{ header }}", "Build succeeded (check pipeline)."), "the first line has"),
        (FRAME.replace("{{ url }}", ""), "it has to hold {{ url }}"),
        (FRAME.replace("{{ row.line }}", "{{ row.name }}"), "{{ row.line }} of each of the rows"),
        (FRAME.replace("{{ row.line }}", "{{ row.line|lower }}"), "{{ row.line }} of each"),
        (FRAME + "- more http://x : SUCCESS\n", "no other row"),
        (FRAME + "{% for row in rows %}\n{{ row.line }}\n{% endfor %}", "once, in order"),
        (FRAME + "- see our page\n", "summary tab: not a row"),
        (FRAME + "Build succeeded (check pipeline).\n", "summary tab: a further line"),
        (FRAME + "recheck\n", "recheck triggers: "),
        (FRAME + "{{ '\\x1b[31m' }}", "Gerrit: it holds the character U+001B"),
        (FRAME + "{{ '\\ud800' }}", "Gerrit: it holds the character U+D800"),
        ("", "the first line has to be"),
    ],
)
def test_what_it_makes_has_to_pass_the_linter(source: str, said: str) -> None:
    assert said in complaint(source)


def test_a_word_of_failure_is_refused_where_the_build_succeeded() -> None:
    passed = (CommentRow(name="a", url="https://x/", result=Result.SUCCESS),)
    good = Comment(rows=passed, pipeline="check", succeeded=True, sentence="So.", url=URL)
    written = write(good, Template(FRAME + "Questions about failures: the team.", "own.j2"))
    assert written.text == write(good).text
    assert "scoreboard: it succeeded but holds the word 'fail'" in written.complaint


def test_a_template_is_not_blamed_for_our_own_address() -> None:
    passed = (CommentRow(name="a", url="https://failsafe.example/b/", result=Result.SUCCESS),)
    good = Comment(rows=passed, pipeline="check", succeeded=True, sentence="So.", url=URL)
    written = write(good, Template(FRAME + "Ours.", "own.j2"))
    assert written.complaint == ""
    assert written.text.endswith("\nOurs.")


def test_loops_end() -> None:
    nested = "".join(f"{{% for r{n} in rows %}}" for n in range(6)) + "{% endfor %}" * 6
    assert "own.j2:6: its loops take more than 400000 steps" in complaint(FRAME + nested, rows=20)


def test_a_turn_costs_what_it_does() -> None:
    costly = "~".join(["sentence"] * 1200)
    loop = "{% for a in rows %}{% for b in rows %}{% if (" + costly + ")|length > 9 %}x{% endif %}"
    found = complaint(FRAME + loop + "{% endfor %}" * 2, rows=60)
    assert "its loops take more than 400000 steps" in found


def test_filters_count_as_well() -> None:
    nested = "notes|join(" * 12 + "' '" + ")" * 12
    found = complaint(FRAME + "{{ " + nested + " }}", notes=("note " * 50,) * 20)
    assert "`join` makes too long a text" in found


@pytest.mark.parametrize(
    "extra", ["x" * 16_000, "{% for r in rows %}" + "x" * 15_500 + "{% endfor %}"]
)
def test_a_huge_text_is_cut_off(extra: str) -> None:
    assert "it makes more than 15000 bytes of one row" in complaint(FRAME + extra)


def test_prose_of_the_operators_takes_its_room_from_notes_then_rows() -> None:
    text = made(FRAME + "x" * 12_000, rows=100)
    rows = text.count("\n- job-")
    assert 20 < rows < 60
    assert problems(text) == ()


def test_the_built_in_template_is_one_that_an_operator_could_have_written(tmp_path: Path) -> None:
    copy = tmp_path / "mine.j2"
    copy.write_text(BUILTIN.read_text())
    assert complaint_of(copy, "check") == ""
    assert load(copy).render is not None
    for sample in samples("check").values():
        assert write(sample, load(copy)).text == write(sample).text
        assert problems(write(sample).text) == ()


def test_windows_line_ends_are_line_ends() -> None:
    assert made(FRAME.replace("\n", "\r\n")) == made(FRAME)


def test_a_file_is_read_again_when_it_changed(tmp_path: Path) -> None:
    file = tmp_path / "mine.j2"
    file.write_text(FRAME + "One.")
    assert write(comment(), load(file)).text.endswith("\nOne.")
    assert load(file) is load(file)
    file.write_text(FRAME + "Two, longer.")
    assert write(comment(), load(file)).text.endswith("\nTwo, longer.")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "mine.j2"
    with pytest.raises(TemplateTrouble, match=r"mine\.j2 cannot be read: No such file"):
        load(file)
    with pytest.raises(TemplateTrouble, match="cannot be read: Is a directory"):
        load(tmp_path)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(TemplateTrouble, match="it is not UTF-8"):
        load(file)
    file.write_text("x" * 100_000)
    assert "longer than" in complaint_of(file, "check")


@pytest.mark.parametrize(
    ("source", "sample"),
    [
        (FRAME + "{% if request %}recheck{% endif %}", "recheck"),
        (FRAME + "{% if succeeded %}no error{% endif %}", "succeeded"),
        (FRAME + "{% for r in rows %}" * 3 + "{% endfor %}" * 3, "hundreds"),
    ],
)
def test_a_sample_finds_it_before_an_author_does(tmp_path: Path, source: str, sample: str) -> None:
    file = tmp_path / "mine.j2"
    file.write_text(source)
    assert f"(in the sample '{sample}" in complaint_of(file, "check")


def test_one_template_serves_several_threads() -> None:
    wanted, seen = write(comment(rows=50)).text, []
    threads = [
        threading.Thread(target=lambda: seen.append(write(comment(rows=50), builtin()).text))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [wanted] * 8


@pytest.mark.parametrize("model", [Content, Row])
def test_every_name_is_said_where_it_is_defined_and_in_the_manual(model: type) -> None:
    manual = (Path(__file__).parents[2] / "docs/reference/comment-template.md").read_text()
    prefix = "row." if model is Row else ""
    for field in fields(model):
        assert f"    {field.name}: " in (model.__doc__ or "")
        assert f"| `{prefix}{field.name}` |" in manual
