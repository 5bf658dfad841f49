# SPDX-License-Identifier: Apache-2.0
"""`hypervouch suite`, `matrix` and `lab` with what strangers give them: one sentence, no trace."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ci.cli import main
from ci.jobs.compute.run import NOT_TRIED
from tests.kit.core import database_in

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
ONE = ("--hypervisor", "dummy:///a", "--features", "operation.launch")


def run(*words: object) -> Result:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    assert "Traceback" not in done.output
    return done


def suite(*words: object) -> Result:
    return run("suite", "compute", *words)


@pytest.mark.parametrize("option", ["--report", "--junit"])
@pytest.mark.parametrize("where", [".", "none/report"])
def test_a_file_that_cannot_be_written_is_told_before_the_first_test(tmp_path, option, where):
    done = suite(*ONE, "--grade", "emulator", option, tmp_path / where)
    assert done.exit_code == NOT_TRIED, "1 would say that a feature fails"
    assert "cannot be written" in done.output
    assert "test_launch" not in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_working_directory_that_is_a_file_is_told(tmp_path):
    (tmp_path / "file").touch()
    done = suite(*ONE, "--work", tmp_path / "file")
    assert done.exit_code == NOT_TRIED
    assert "cannot be a working directory" in done.output


@pytest.mark.parametrize("second", ["dummy:///a", "dummy:///a/"])
def test_a_guest_that_moves_to_where_it_is_proves_nothing(second):
    done = suite("--hypervisor", "dummy:///a", "--second", second)
    assert done.exit_code == NOT_TRIED
    assert "the second host is the first one" in done.output
    assert "fix: " in done.output


def test_keys_that_are_none_are_told(tmp_path):
    for name in ("key", "hosts"):
        (tmp_path / name).write_text("nobody:x:65534:65534:none:/none:/bin/false\nb c d\n")
    keys = ("--key-file", tmp_path / "key", "--known-hosts", tmp_path / "hosts")
    done = suite("--hypervisor", "xl+ssh://root@127.0.0.1:1", *keys)
    assert done.exit_code == NOT_TRIED
    assert "is no known-hosts file" in done.output


def test_an_error_nobody_foresaw_is_no_feature_that_fails(monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("ci.jobs.compute.run.connect", broken)
    done = suite(*ONE)
    assert done.exit_code == NOT_TRIED
    assert "not tried: the suite met ZeroDivisionError: by zero" in done.output


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.json"
    assert suite(*ONE, "--report", path).exit_code == 0
    return path


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = database_in(tmp_path)
    made.close()
    monkeypatch.setattr("ci.matrix_listing.open_database", lambda _: database_in(tmp_path))


@pytest.mark.usefixtures("installed")
def test_a_report_counts_once_however_often_it_is_added(report):
    assert "1 new, 0 renewed, 0 known before" in run("matrix", "add", report).output
    again = run("matrix", "add", report)
    assert again.exit_code == 0
    assert "0 new, 0 renewed, 1 known before" in again.output


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"hypervouch-report": 2}', b"x" * 4096],
    ids=["empty", "cut", "no-text", "list", "null", "newer", "rubbish"],
)
def test_what_is_no_report_is_refused_in_a_sentence(tmp_path, content):
    path = tmp_path / "rubbish.json"
    path.write_bytes(content)
    done = run("matrix", "add", path)
    assert done.exit_code == 1
    assert f"{path} is not a report" in done.output
    assert "fix: " in done.output


@pytest.mark.usefixtures("installed")
def test_a_report_that_was_cut_off_adds_nothing(report):
    whole = report.read_bytes()
    json.loads(whole)
    report.write_bytes(whole[: len(whole) // 2])
    assert run("matrix", "add", report).exit_code == 1
    assert "no evidence" in run("matrix").output


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["none.json", ".", "fifo", "/dev/zero"])
def test_a_report_that_cannot_be_read_is_told(tmp_path, name):
    os.mkfifo(tmp_path / "fifo")
    done = run("matrix", "add", tmp_path / name)
    assert done.exit_code == 1
    assert "cannot be read" in done.output


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_suite_that_is_asked_to_end_leaves_nothing(tmp_path, signum):
    words = ["suite", "compute", "--hypervisor", "dummy:///a?slow=1"]
    output, status = ended(words, "1/", tmp_path, signum)
    assert status == NOT_TRIED, output
    assert "not tried: the suite was interrupted" in output
    assert "Traceback" not in output
    assert {path.name for path in tmp_path.iterdir()} == {"screen"}


def ended(words: Sequence[str], sign: str, home: Path, signum: signal.Signals) -> tuple[str, int]:
    """Run a verb of ours and end it once it shows a sign; what it said and its exit status."""
    screen = home / "screen"
    with screen.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "ci.cli", *words],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={"PATH": "/usr/bin:/bin", "TMPDIR": str(home), "HOME": str(home)},
        )
    deadline = time.monotonic() + 60
    while sign not in screen.read_text() and process.poll() is None:
        assert time.monotonic() < deadline, screen.read_text()
        time.sleep(0.1)
    process.send_signal(signum)
    status = process.wait(timeout=60)
    return screen.read_text(), status
