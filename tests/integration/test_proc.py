# SPDX-License-Identifier: Apache-2.0
"""The only caller of subprocess, on real processes."""

import os
import tempfile
import time
from pathlib import Path

import pytest

from ci import proc
from ci.errors import BuildCanceled

pytestmark = pytest.mark.integration


def alive(pid: int) -> bool:
    return proc.start_tick(pid) is not None


def test_output_status_and_complaint_of_a_command():
    done = proc.run(["sh", "-c", "echo out; echo first >&2; echo last >&2; exit 3"], check=False)
    assert (done.text, done.status, done.complaint) == ("out\n", 3, "last")


def test_a_failure_is_raised_with_what_was_said():
    with pytest.raises(proc.CommandFailed) as caught:
        proc.run(["sh", "-c", "echo no such thing >&2; exit 4"])
    assert caught.value.status == 4
    assert "sh failed with status 4: no such thing" in str(caught.value)
    assert proc.run(["sh", "-c", "exit 4"], ok=(0, 4)).status == 4


def test_a_missing_program_is_named_with_its_fix():
    with pytest.raises(proc.CommandFailed) as caught:
        proc.run(["no-such-program"])
    assert (caught.value.message, caught.value.hint) == (
        "no-such-program is not installed",
        "install no-such-program",
    )
    with pytest.raises(proc.CommandFailed):
        proc.spawn(["no-such-program"])


def test_a_late_command_is_killed_with_its_children(tmp_path: Path):
    note = tmp_path / "pid"
    began = time.monotonic()
    with pytest.raises(proc.CommandFailed) as caught:
        proc.run(["sh", "-c", f"sleep 60 & echo $! >{note}; wait"], timeout_s=0.5)
    assert "did not end within 0.5 s" in str(caught.value)
    assert time.monotonic() - began < 20
    child = int(note.read_text())
    for _ in proc.wait_until(time.monotonic() + 5):
        if not alive(child):
            break
    assert not alive(child)


def test_input_from_bytes_and_from_a_file(tmp_path: Path):
    assert proc.run(["cat"], stdin=b"\0bytes").stdout == b"\0bytes"
    source = tmp_path / "in"
    source.write_bytes(b"file")
    with source.open("rb") as handle, tempfile.TemporaryFile() as target:
        proc.run(["cat"], stdin=handle, stdout=target)
        target.seek(0)
        assert target.read() == b"file"
    assert proc.run(["cat"]).stdout == b""


def test_environment_is_added_to_by_run_and_replaced_by_spawn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OURS", "1")
    assert proc.run(["sh", "-c", "echo $OURS$MORE"], env={"MORE": "2"}).text == "12\n"
    process = proc.spawn(["/bin/sh", "-c", "echo $OURS-$MORE"], stdout=proc.PIPE, env={"MORE": "2"})
    out, _ = process.communicate(timeout=10)
    assert out == b"-2\n"


def test_a_kept_descriptor_reaches_the_command():
    read, write = os.pipe()
    try:
        proc.run(["sh", "-c", f"echo through >/proc/self/fd/{write}"], keep_open=[write])
        assert os.read(read, 100) == b"through\n"
    finally:
        os.close(read)
        os.close(write)


def test_an_interruptible_command_ends_when_the_check_raises(tmp_path: Path) -> None:
    asked: list[float] = []

    def check() -> None:
        asked.append(time.monotonic())
        if len(asked) == 2:
            raise BuildCanceled("superseded")

    began = time.monotonic()
    with proc.interruptible(check), pytest.raises(BuildCanceled):
        proc.run(["sh", "-c", f"echo $$ >{tmp_path}/pid; cat >/dev/null; sleep 60"], stdin=b"fed")
    assert time.monotonic() - began < 10
    assert proc.start_tick(int((tmp_path / "pid").read_text())) is None
    assert proc.run(["echo", "not watched any more"]).status == 0
    assert len(asked) == 2


def test_an_interruptible_command_keeps_its_output_input_and_deadline() -> None:
    with proc.interruptible(lambda: None):
        done = proc.run(["sh", "-c", "cat; sleep 0.7; echo end"], stdin=b"x" * 200_000 + b"\n")
        assert len(done.stdout) == 200_005
        with pytest.raises(proc.CommandFailed, match=r"within 0\.8 s"):
            proc.run(["sleep", "60"], timeout_s=0.8)
