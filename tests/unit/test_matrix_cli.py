# SPDX-License-Identifier: Apache-2.0
"""`hypervouch matrix`: what it prints, reads in and refuses."""

import configparser
import csv
import io
import json

import pytest
from click.testing import CliRunner

from ci import cli, matrix_listing
from ci.clock import FakeClock
from ci.matrix import nova, report
from ci.store import evidence, schema
from tests.kit.core import database_in
from tests.kit.evidence_rows import story
from tests.kit.rows import NOW


@pytest.fixture
def database(tmp_path, monkeypatch):
    made = database_in(tmp_path)
    monkeypatch.setattr(matrix_listing, "open_database", lambda _: made)
    monkeypatch.setattr(matrix_listing, "SystemClock", lambda: FakeClock(NOW))
    yield made
    made.close()


@pytest.fixture
def known(database):
    with database.write() as tx:
        evidence.add(tx, story())


def run(*arguments):
    done = CliRunner().invoke(cli.main, ["matrix", *map(str, arguments)])
    assert "Traceback" not in done.output
    return done.exit_code, done.output


def test_the_table_has_systems_with_evidence_and_marks_differences(known):
    status, said = run()
    assert status == 0
    assert "Libvirt QEMU" in said
    assert "PowerVM" not in said
    assert "works b" in said
    assert "works n*" in said
    assert "cannot b" in said
    assert "cannot: not supported" in said
    assert "\x1b" not in said
    assert "PowerVM" in run("--all")[1]


def test_all_of_novas_systems_are_there_with_the_words_no_node(known):
    document = json.loads(run("--json")[1])
    assert set(nova.drivers()) <= {one["key"] for one in document["columns"]}
    cells = [one for line in document["lines"] for one in line["cells"]]
    nowhere = {one["system"] for one in cells if one["state"] == "no node"}
    assert {"powervm", "ironic", "zvm", "hyperv", "libvirt-vz-vm", "libvirt-vz-ct"} <= nowhere
    assert "no node" in run("--all")[1]


def test_the_table_fits_the_terminal(known, monkeypatch):
    monkeypatch.setattr(matrix_listing, "PIPE_WIDTH", 80)
    said = run("--all")[1]
    assert max(map(len, said.splitlines())) <= 80
    assert said.count("Attach block volume to") >= 5


def test_differences_are_told_in_words(known):
    status, said = run("--differences")
    assert status == 0
    assert "operation.rescue on libvirt-qemu-x86: Nova 2026 says complete, here it fails" in said
    assert "operation.attach-volume on libvirt-xen: Nova 2020 says complete" in said
    assert "operation.attach-volume on libvirt-xen" not in run("--differences", "--against=2026")[1]


@pytest.mark.parametrize("form", ["json", "csv", "ini", "html"])
def test_each_form_is_one_document_of_what_was_asked_for(known, form):
    status, said = run("--format", form, "--system", "libvirt-xen", "--group", "console")
    assert status == 0
    assert "libvirt-xen" in said
    assert "libvirt-lxc" not in said
    assert "Attach block volume" not in said
    if form == "json":
        assert json.loads(said)["columns"][0]["key"] == "libvirt-xen"
        assert run("--json", "--system=libvirt-xen", "--group=console")[1] == said
    elif form == "csv":
        assert {row["group"] for row in csv.DictReader(io.StringIO(said))} == {"console"}
    elif form == "ini":
        parser = configparser.ConfigParser()
        parser.read_string(said)
        assert parser["console.vnc"]["driver.libvirt-xen"] == "unknown"


def test_an_empty_matrix_says_so(database):
    assert "there is no evidence yet" in run()[1]
    assert "nothing differs" in run("--differences")[1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--system", "vbox"], "there is no system vbox"), (["--group", "x"], "there is no group x")],
)
def test_what_there_is_not_is_refused_with_what_there_is(known, arguments, named):
    status, said = run(*arguments)
    assert status == 1
    assert named in said
    assert "fix: use one of" in said


def test_a_report_is_added_once(database, tmp_path):
    path = tmp_path / "report.json"
    report.write(path, name="nightly", evidence=story())
    status, said = run("add", path)
    assert status == 0
    assert said.startswith("nightly: ")
    assert " 0 renewed, 0 known before" in said
    assert "nightly: 0 new, 0 renewed" in run("add", path)[1]
    with database.read() as tx:
        (line,) = tx.execute(schema.audit.select()).all()
    assert line.by.endswith("(command line)")
    assert "works b" in run()[1]


def test_a_broken_report_is_refused_without_a_traceback(database, tmp_path):
    path = tmp_path / "report.json"
    path.write_text('{"hypervouch-report": 1}')
    status, said = run("add", path)
    assert status == 1
    assert "is not a report" in said
    assert "fix: make it with" in said
