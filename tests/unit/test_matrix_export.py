# SPDX-License-Identifier: Apache-2.0
"""The matrix in other programs' forms, read back by those programs' own readers."""

import configparser
import csv
import io
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci.errors import ConfigError
from ci.matrix import export, nova, report
from ci.matrix.cells import build, only
from ci.model.evidence import Shown
from ci.model.feature import Feature
from tests.kit.evidence_rows import HOSTILE, QEMU, XEN, story, word
from tests.kit.rows import NOW, ago

WHOLE = build(story(), now=NOW)


def parsed(text: str, **options) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(**options)
    parser.read_string(text)
    return parser


def failing(reason: str, title: str = "Q", test: str = "t"):
    system = replace(QEMU, key="q", title=title)
    words = [word(system, Feature.PAUSE, Shown.FAILS, reason=reason, test=test)]
    matrix = only(build(words, now=NOW), systems=["q"])
    return replace(matrix, lines=tuple(x for x in matrix.lines if x.feature == Feature.PAUSE))


def test_nova_reads_its_ini():
    found = parsed(export.to_ini(WHOLE))
    drivers = [name for name in found.sections() if name.startswith("driver.")]
    assert "driver.libvirt-qemu-x86" in drivers
    assert "driver.powervm" not in drivers
    features = [name for name in found.sections() if name not in drivers]
    assert features == [line.feature for line in WHOLE.lines]
    for name in features:
        section = found[name]
        assert section["title"]
        assert "status" in section
        assert "cli" in section
        said = {key for key in section if key.startswith("driver.")}
        assert said == {*drivers}
        assert {section[key] for key in said} <= {"complete", "partial", "missing", "unknown"}
        assert {key[13:] for key in section if key.startswith("driver-notes.")} <= {
            key[7:] for key in drivers
        }
    snapshot = found["operation.snapshot"]
    assert snapshot["driver.libvirt-qemu-x86"] == "partial"
    assert snapshot["driver-notes.libvirt-qemu-x86"].startswith("works in part, bare, 2 of 3 tests")
    rescue = found["operation.rescue"]
    assert rescue["driver.libvirt-qemu-x86"] == "missing"
    assert "fails, bare" in rescue["driver-notes.libvirt-qemu-x86"]
    assert rescue["notes"] == nova.rows()["operation.rescue"].notes


def test_novas_own_rows_keep_their_titles_commands_and_status():
    found = parsed(export.to_ini(WHOLE))
    for key, row in nova.rows().items():
        if key not in {*Feature}:
            continue
        assert found[key]["title"] == row.title
        assert found[key]["status"] == row.status
        assert found[key]["cli"] == ";".join(row.cli)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200), st.text(min_size=1, max_size=60))
def test_no_text_breaks_out_of_the_ini(reason, title):
    text = export.to_ini(failing(reason, title))
    for options in ({}, {"interpolation": None}):
        found = parsed(text, **options)
        assert found.sections()[0] == "driver.q"
        assert found.sections()[1:] == ["operation.pause"]
        assert found["operation.pause"]["driver.q"] == "missing"
    plain = export.one_line(reason)
    assert found["operation.pause"]["driver-notes.q"].replace("%%", "%").endswith(plain)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200), st.text(min_size=1, max_size=60))
def test_no_text_breaks_out_of_the_csv_or_is_a_formula(reason, title):
    rows = list(csv.reader(io.StringIO(export.to_csv(failing(reason, title)))))
    assert {len(row) for row in rows} == {len(export.CSV_COLUMNS)}
    assert len(rows) == 2
    assert not [value for row in rows for value in row if value.startswith(("=", "+", "-", "@"))]
    found = dict(zip(*rows, strict=True))
    line = export.one_line(reason)
    assert found["reason"] in {line, f"'{line}"}


def test_csv_has_a_line_for_each_cell():
    rows = list(csv.DictReader(io.StringIO(export.to_csv(WHOLE))))
    assert len(rows) == len(WHOLE.lines) * len(WHOLE.columns)
    place = [r for r in rows if (r["feature"], r["system"]) == ("operation.launch", "powervm")]
    assert (place[0]["state"], place[0]["grade"], place[0]["nova_2020"]) == (
        "no node",
        "",
        "complete",
    )


def test_json_is_what_the_matrix_says():
    document = json.loads(export.to_json(WHOLE))
    assert [column["key"] for column in document["columns"]] == [c.key for c in WHOLE.columns]
    cell = document["lines"][0]["cells"][0]
    assert (cell["state"], cell["grade"], cell["declared"]["2026"]) == (
        "complete",
        "bare",
        "complete",
    )


def test_the_html_stands_alone_and_escapes():
    text = export.to_html(WHOLE)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "src=" not in text
    assert "href=" not in text
    assert "no node" in text
    assert "≠ Nova 2026: missing" in text


def test_a_report_comes_back_as_it_was(tmp_path):
    path = tmp_path / "report.json"
    words = [*story(), word(XEN, Feature.PAUSE, Shown.FAILS, reason=HOSTILE)]
    report.write(path, name="nightly", evidence=words)
    name, found = report.read(path, now=NOW)
    assert name == "nightly"
    clean = [
        replace(one, reason=" ".join(one.reason.split()), source="report: nightly") for one in words
    ]
    assert list(found) == clean
    assert [one.name for one in tmp_path.iterdir()] == ["report.json"]


def broken(**changes):
    document = {
        "hypervouch-report": 1,
        "name": "x",
        "systems": [{"key": "q", "title": "Q", "grade": "bare", "versions": {}}],
        "evidence": [
            {
                "system": 0,
                "feature": "operation.pause",
                "shown": "works",
                "test_id": "t",
                "at": "2026-11-22T17:00:00Z",
            }
        ],
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = document
        for key in parents:
            place = place[int(key) if key.isdigit() else key]
        place[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "the file"),
        ("[]", "the file"),
        ('{"hypervouch-report": 2}', "hypervouch-report"),
        (broken(more=1), "more"),
        (broken(systems__0__grade="none"), "grade"),
        (broken(systems__0__key="../x"), "key"),
        (broken(evidence__0__feature="operation.fly"), "feature"),
        (broken(evidence__0__shown="maybe"), "shown"),
        (broken(evidence__0__system=1), "not listed"),
        (broken(evidence__0__at="2026-11-22T17:00:00"), "at"),
        (broken(evidence__0__at="2027-11-22T17:00:00Z"), "still to come"),
        (broken(evidence__0__duration_s=-1), "duration_s"),
    ],
)
def test_what_is_no_report_is_refused_by_name(tmp_path, text, named):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        report.read(path, now=NOW)


def test_a_missing_or_huge_report_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="No such file"):
        report.read(tmp_path / "none", now=NOW)
    monkeypatch.setattr(report, "MAX_FILE_BYTES", 10)
    (tmp_path / "r.json").write_text(broken())
    with pytest.raises(ConfigError, match="more than the 10"):
        report.read(tmp_path / "r.json", now=NOW)


def test_a_clock_a_little_ahead_is_forgiven(tmp_path):
    path = tmp_path / "r.json"
    report.write(path, name="n", evidence=[word(QEMU, Feature.PAUSE, at=ago(-60))])
    assert len(report.read(path, now=NOW)[1]) == 1
