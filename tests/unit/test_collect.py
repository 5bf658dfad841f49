# SPDX-License-Identifier: Apache-2.0
"""The live log and what comes home from a node, on files and a node in memory."""

import errno
import hashlib
import io
import json
import os
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ci.cancel import CancelToken, Deadline
from ci.clock import FakeClock
from ci.collect import Collected, ConsoleLog, LogStore, collect
from ci.errors import CollectError, StorageError
from ci.jobs.base import Plan, PlanStep
from ci.model.node import Endpoint, Transport
from ci.model.result import Status
from ci.runners.archive import Intake, glob_regex, unpack
from ci.runners.base import Session
from ci.runners.table import runner_for

CLOCK = FakeClock(datetime(2026, 11, 22, 17, 41, 0, 123_456, tzinfo=UTC))
STAMP = "2026-11-22T17:41:00.123Z | "
WHERE = "/home/node/checkout"
SECRET = "hunter2-token"


@pytest.fixture
def store(tmp_path: Path) -> LogStore:
    return LogStore(tmp_path / "logs", limit_bytes=10_000_000, free_bytes=1, clock=CLOCK)


def log_of(path: Path, *, limit_bytes: int = 10_000, secrets: tuple[str, ...] = ()) -> ConsoleLog:
    return ConsoleLog(path, clock=CLOCK, limit_bytes=limit_bytes, free_bytes=1, secrets=secrets)


def test_every_line_has_a_stamp_and_is_visible_at_once(store: LogStore):
    with store.open_console("b1", "a1") as log:
        log.write(b"one\ntw")
        assert log.path.read_text() == f"{STAMP}one\n{STAMP}tw"
        log.write(b"o\n\nthree")
        assert log.path.read_text() == f"{STAMP}one\n{STAMP}two\n{STAMP}\n{STAMP}three"
        log.note("node qemu-1\nlease 7")
        log.write(b"four\n")
    assert log.path.read_text().splitlines() == [
        *(f"{STAMP}{text}" for text in ("one", "two", "", "three")),
        *(f"{STAMP}# {text}" for text in ("node qemu-1", "lease 7")),
        f"{STAMP}four",
    ]
    assert [path.name for path in log.path.parent.iterdir()] == ["console.log"]


def test_a_restart_appends_on_a_line_of_its_own(tmp_path: Path):
    first = log_of(tmp_path / "c.log")
    first.write(b"half")
    second = log_of(tmp_path / "c.log")
    second.write(b"whole\n")
    second.close()
    second.close()
    assert (tmp_path / "c.log").read_text() == f"{STAMP}half\n{STAMP}whole\n"
    with pytest.raises(StorageError, match="is closed"):
        second.write(b"late")


def test_secrets_are_taken_out_of_output_and_notes(tmp_path: Path):
    with log_of(tmp_path / "c.log", secrets=(SECRET,)) as log:
        log.write(b"pw: hunter2")
        log.write(b"-token\nhun")
        log.note(f"run: curl -u ci:{SECRET}")
    text = (tmp_path / "c.log").read_text()
    assert SECRET not in text
    assert text.count("[redacted]") == 2
    assert text.endswith("hun\n")


def test_the_limit_is_told_once_and_the_run_goes_on(tmp_path: Path):
    with log_of(tmp_path / "c.log", limit_bytes=400) as log:
        for number in range(100):
            log.write(b"line %d\nmore\n" % number)
        log.note("run ended with status 0")
    lines = (tmp_path / "c.log").read_text().splitlines()
    assert lines[-2].endswith("# log cut here: it reached its limit of 400 bytes; the run goes on")
    assert lines[-1].endswith("# run ended with status 0")
    assert sum("cut here" in line for line in lines) == 1
    assert all(line.startswith(STAMP) for line in lines)


def test_one_huge_chunk_is_cut_at_a_line(tmp_path: Path):
    with log_of(tmp_path / "c.log", limit_bytes=400) as log:
        log.write(b"0123456789\n" * 1000)
    *whole, last = (tmp_path / "c.log").read_text().splitlines()
    assert set(whole) == {f"{STAMP}0123456789"}
    assert "cut here" in last


def test_a_full_disk_ends_the_log_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = log_of(tmp_path / "c.log")
    log.write(b"before\n")
    real, full = os.write, [True]

    def write(handle: int, data: memoryview) -> int:
        if full.pop() if full else False:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data)

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StorageError, match="No space left") as error:
        log.write(b"after\n")
    assert error.value.retryable
    log.close()
    lines = (tmp_path / "c.log").read_text().splitlines()
    assert lines == [f"{STAMP}before", f"{STAMP}# log ends here: No space left on device"]


def test_a_nearly_full_disk_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ci.console.LOOK_EVERY_BYTES", 100)
    log = ConsoleLog(tmp_path / "c.log", clock=CLOCK, limit_bytes=10**9, free_bytes=2**62)
    with pytest.raises(StorageError, match="are free"):
        log.write(b"x\n" * 100)
    log.close()
    with pytest.raises(StorageError, match="bytes free and needs"):
        LogStore(tmp_path, limit_bytes=1, free_bytes=2**62).open_console("b", "a")


@pytest.mark.parametrize("name", ["..", "a/b", "", ".hidden", "x\n"])
def test_ids_cannot_lead_elsewhere(store: LogStore, name: str):
    with pytest.raises(StorageError, match="cannot name a directory"):
        store.attempt_dir("b1", name)


def plan_of(*results: str, artifacts: tuple[str, ...] = (), **options: object) -> Plan:
    step = PlanStep(phase="run", command="true", timeout_s=1)
    return Plan(steps=(step,), checkout=WHERE, results=results, artifacts=artifacts, **options)


def session_after(*commands: str) -> Session:
    within = Deadline("test", 60, FakeClock())
    session = runner_for(Transport.DUMMY).connect(Endpoint(transport=Transport.DUMMY), within)
    data = io.BytesIO()
    tarfile.open(fileobj=data, mode="w").close()
    data.seek(0)
    session.put_tree(data, WHERE, within)
    for command in commands:
        session.run(
            command, directory=WHERE, env={}, sink=len, deadline=within, cancel=CancelToken()
        )
    return session


def test_results_and_artifacts_come_home_with_a_manifest(tmp_path: Path):
    session = session_after(
        "write-junit r/a.xml pass=2 fail=test_resume",
        "write-junit r/b.xml pass=1",
        "write l/x.log x",
    )
    got = collect(session, plan_of("r/*.xml", artifacts=("l/*", "r/*")), tmp_path, 10_000)
    assert [(o.test_id, o.status) for o in got.outcomes] == [
        ("dummy::test_pass_1", Status.PASS),
        ("dummy::test_pass_2", Status.PASS),
        ("dummy::test_resume", Status.FAIL),
        ("dummy::test_pass_1#2", Status.PASS),
    ]
    assert [file.path for file in got.files] == ["logs/l/x.log", "logs/r/a.xml", "logs/r/b.xml"]
    assert got.problems == ()
    rows = json.loads((tmp_path / "manifest.json").read_text())["files"]
    digest = hashlib.sha256(b"x").hexdigest()
    assert rows[0] == {"path": "logs/l/x.log", "size_bytes": 1, "sha256": digest}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logs", "manifest.json"]


def test_collecting_again_replaces_what_was_there(tmp_path: Path):
    session = session_after("write-junit r.xml pass=1", "write x.log x")
    plan = plan_of("r.xml", artifacts=("*.log",))
    assert collect(session, plan, tmp_path, 10_000) == collect(session, plan, tmp_path, 10_000)


def test_nothing_to_bring_home(tmp_path: Path):
    got = collect(session_after(), plan_of(has_results=False), tmp_path, 10_000)
    assert got == Collected()
    assert collect(session_after(), plan_of("*.xml"), tmp_path, 10_000).outcomes == ()


def test_artifacts_left_behind_are_a_problem_and_results_an_error(tmp_path: Path):
    session = session_after("write-junit r.xml pass=1", f"write big.log {'x' * 2_000}")
    got = collect(session, plan_of("*.xml", artifacts=("*.log",)), tmp_path, 1_000)
    assert len(got.outcomes) == 1
    assert len(got.problems) == 1
    assert "big.log" in got.problems[0]
    with pytest.raises(CollectError, match=r"r\.xml"):
        collect(session, plan_of("*.xml"), tmp_path, 10)


def test_results_that_cannot_be_read_leave_the_artifacts(tmp_path: Path):
    session = session_after("write r.xml <broken", "write x.log x", "write-junit s.xml pass=1")
    with pytest.raises(CollectError, match=r"r\.xml is not well-formed"):
        collect(session, plan_of("*.xml", artifacts=("*.log",)), tmp_path, 1_000)
    assert (tmp_path / "logs" / "x.log").read_text() == "x"
    assert (tmp_path / "manifest.json").exists()


def test_a_node_that_went_away(tmp_path: Path):
    session = session_after("write-junit r.xml pass=1")
    late = Deadline("collect", 0, FakeClock())
    with pytest.raises(CollectError, match="went away") as error:
        collect(session, plan_of("r.xml"), tmp_path, 1_000, deadline=late)
    assert error.value.retryable


def test_results_of_the_controller_are_taken_too(tmp_path: Path):
    own = tmp_path / "testinfra.xml"
    own.write_text('<testsuite name="s"><testcase name="n"/></testsuite>')
    got = collect(session_after(), plan_of(local_results=(own,)), tmp_path, 1_000)
    assert [o.test_id for o in got.outcomes] == ["s::n"]
    assert [file.path for file in got.files] == ["logs/testinfra.xml"]


def test_text_files_are_redacted_and_binary_ones_are_left(tmp_path: Path):
    session = session_after(
        f"write x.log token {SECRET} end",
        f"write-junit r.xml fail={SECRET}",
        f"write b.bin \0{SECRET}",
    )
    plan = plan_of("*.xml", artifacts=("*.log", "*.bin"))
    got = collect(session, plan, tmp_path, 10_000, secrets=(SECRET,))
    assert (tmp_path / "logs" / "x.log").read_text() == "token [redacted] end"
    assert (tmp_path / "logs" / "b.bin").read_bytes() == b"\0" + SECRET.encode()
    assert got.outcomes[0].test_id == "dummy::[redacted]"
    assert len(got.files) == 3


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("r/*.xml", ["r/a.xml", "r/.xml"], ["r/d/a.xml", "a.xml", "r/a.xmlx"]),
        ("**/*.xml", ["a.xml", "r/d/a.xml"], ["a.txt"]),
        ("logs/", ["logs/a", "logs/b/c"], ["logs", "xlogs/a"]),
        ("a?.[ch]", ["ab.c", "ab.h"], ["a.c", "ab.d", "a/.c"]),
        ("[!a].log", ["b.log"], ["a.log", "/.log"]),
        ("a+(b).log", ["a+(b).log"], ["aab.log"]),
        ("./x", ["x"], ["./x"]),
    ],
)
def test_globs(pattern: str, yes: list[str], no: list[str]):
    regex = glob_regex(pattern)
    assert [name for name in yes + no if regex.fullmatch(name)] == yes


def archive(*entries: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for entry, content in entries:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    data.seek(0)
    return data


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize(
    "name", ["../x.log", "/etc/x.log", "a/../../x.log", "a//x.log", "./../x.log"]
)
def test_paths_that_lead_outside_are_refused(tmp_path: Path, name: str):
    intake = Intake(tmp_path / "in", ["**"], 1_000)
    unpack(archive((entry(name), b"x"), (entry("ok"), b"ok")), intake)
    with pytest.raises(CollectError, match="left on the node"):
        intake.finish()
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["in", "in/ok"]


def test_a_link_cannot_redirect_a_later_file(tmp_path: Path):
    intake = Intake(tmp_path / "in", ["**"], 1_000)
    unpack(
        archive(
            (entry("d", tarfile.SYMTYPE, str(tmp_path)), b""),
            (entry("d/owned"), b"x"),
            (entry("h", tarfile.LNKTYPE, "/etc/passwd"), b""),
        ),
        intake,
    )
    with pytest.raises(CollectError, match="'d' is a link"):
        intake.finish()
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "in" / "h").exists()


def test_a_name_that_comes_twice_keeps_the_first(tmp_path: Path):
    intake = Intake(tmp_path, ["**"], 1_000)
    unpack(archive((entry("a"), b"1"), (entry("a"), b"2"), (entry("a/b"), b"3")), intake)
    with pytest.raises(CollectError, match="came twice"):
        intake.finish()
    assert (tmp_path / "a").read_bytes() == b"1"


def test_a_header_that_wants_memory_is_refused(tmp_path: Path):
    giant = entry("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    giant.size = 2**33
    with pytest.raises(CollectError, match="oversized header"):
        unpack(io.BytesIO(giant.tobuf(tarfile.GNU_FORMAT)), Intake(tmp_path, ["**"], 1_000))


@pytest.mark.parametrize("data", [b"garbage" * 1000, b"\x01" * 512])
def test_a_stream_that_is_no_archive(tmp_path: Path, data: bytes):
    with pytest.raises(CollectError, match="broken archive"):
        unpack(io.BytesIO(data), Intake(tmp_path, ["**"], 1_000))


def test_a_stream_that_ends_early(tmp_path: Path):
    data = archive((entry("a"), b"x" * 5_000)).getvalue()[:2_000]
    intake = Intake(tmp_path, ["**"], 10_000)
    with pytest.raises(CollectError, match="broken archive"):
        unpack(io.BytesIO(data), intake)


def test_a_bomb_of_tiny_files_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ci.runners.archive.MAX_FILES", 5)
    intake = Intake(tmp_path, ["**"], 1_000)
    with pytest.raises(CollectError, match="more than 10 files"):
        unpack(archive(*((entry(f"f{n}"), b"") for n in range(20))), intake)
    assert len(list(tmp_path.iterdir())) == 5
