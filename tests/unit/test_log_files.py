# SPDX-License-Identifier: Apache-2.0
"""Windows of console logs: huge, growing, broken ones; and files that must stay out of reach."""

import json

import pytest

from webui import line_index
from webui.logs import LINE_BYTES, LogFiles


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "logs" / "b1" / "a1"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def files(tmp_path):
    return LogFiles(tmp_path / "logs")


def texts(window):
    return [line.text for line in window.lines]


def test_lines_are_parted_into_time_and_text(folder, files):
    (folder / "console.log").write_bytes(
        b"2026-11-22T17:41:00.123Z | hello\n2026-11-22T17:41:00.124Z | \nno time here\n"
    )
    path = files.console("b1", "a1")
    window = files.window(path, 1, 10)
    assert [(line.number, line.at, line.text) for line in window.lines] == [
        (1, "2026-11-22T17:41:00.123Z", "hello"),
        (2, "2026-11-22T17:41:00.124Z", ""),
        (3, "", "no time here"),
    ]
    assert (window.total, window.first, window.last) == (3, 1, 3)


@pytest.mark.parametrize("block", [7, 64, 1000, line_index.BLOCK_BYTES])
def test_any_window_of_any_file(folder, files, monkeypatch, block):
    monkeypatch.setattr(line_index, "BLOCK_BYTES", block)
    lines = [f"line {n} " + "x" * (n * 7 % 90) for n in range(1, 301)]
    (folder / "console.log").write_text("\n".join(lines) + "\n")
    path = files.console("b1", "a1")
    for first in range(1, 301, 13):
        window = files.window(path, first, 5)
        assert texts(window) == lines[first - 1 : first + 4]
        assert window.total == 300
    assert texts(files.tail(path, 3)) == lines[-3:]
    assert files.window(path, 301, 5).lines == ()


def test_a_growing_log_is_read_on(folder, files):
    console = folder / "console.log"
    console.write_bytes(b"one\ntw")
    path = files.console("b1", "a1")
    assert texts(files.window(path, 1, 9)) == ["one", "tw"]
    assert texts(files.window(path, 1, 9, complete=True)) == ["one"]
    with console.open("ab") as log:
        log.write(b"o\nthree\n")
    window = files.window(path, 2, 9, complete=True)
    assert texts(window) == ["two", "three"]
    assert window.total == 3


def test_a_log_that_began_anew(folder, files):
    console = folder / "console.log"
    console.write_bytes(b"old\n" * 50)
    path = files.console("b1", "a1")
    assert files.tail(path, 1).total == 50
    console.write_bytes(b"new\n")
    assert texts(files.tail(path, 5)) == ["new"]


def test_endless_lines_are_cut_and_counted_once(folder, files):
    (folder / "console.log").write_bytes(
        b"a" * 300_000 + b"\nshort\n" + b"b" * LINE_BYTES + b"\nlast"
    )
    window = files.window(files.console("b1", "a1"), 1, 10)
    assert [(len(line.text), line.cut) for line in window.lines] == [
        (LINE_BYTES, True),
        (5, False),
        (LINE_BYTES, False),
        (4, False),
    ]
    assert texts(files.window(files.console("b1", "a1"), 2, 1)) == ["short"]


def test_a_window_of_long_lines_is_bounded_and_goes_on_where_it_stopped(folder, files):
    (folder / "console.log").write_bytes((b"x" * 4000 + b"\n") * 2000)
    path = files.console("b1", "a1")
    window = files.window(path, 1, 1000)
    assert 500 <= len(window.lines) < 600
    assert files.window(path, window.last + 1, 1).lines[0].number == window.last + 1


def test_bytes_that_are_no_text(folder, files):
    (folder / "console.log").write_bytes(b"\xff\xfe\0\x1b[31m\xc3(\n\n")
    window = files.window(files.console("b1", "a1"), 1, 5)
    assert len(window.lines) == 2
    assert "\ufffd" in window.lines[0].text


def test_an_empty_log(folder, files):
    (folder / "console.log").touch()
    window = files.tail(files.console("b1", "a1"), 10)
    assert (window.lines, window.total, window.last) == ((), 0, 0)


def test_a_log_of_20_mb_keeps_a_small_index(folder, files):
    console = folder / "console.log"
    with console.open("wb") as log:
        for start in range(0, 200_000, 1000):
            log.write(b"".join(b"%0100d\n" % n for n in range(start, start + 1000)))
    path = files.console("b1", "a1")
    window = files.window(path, 123_457, 2)
    assert texts(window) == [f"{123_456:0100d}", f"{123_457:0100d}"]
    assert window.total == 200_000


@pytest.mark.parametrize(
    ("build", "attempt"), [("..", "a1"), ("b1", ".."), ("b1", ""), ("b1/a1", "x"), ("b1", "a\0")]
)
def test_ids_that_are_none(folder, files, build, attempt):
    (folder / "console.log").write_text("x\n")
    assert files.console(build, attempt) is None


@pytest.mark.parametrize(
    "path",
    ["../../../secret", "../manifest.json", "/etc/hostname", "x/../../console.log", "", "a\0b"],
)
def test_paths_that_would_leave_the_artifacts(tmp_path, folder, files, path):
    (tmp_path / "secret").write_text("s")
    (folder / "logs").mkdir()
    found = files.artifact("b1", "a1", path)
    assert found is None or found.is_relative_to(folder)
    if "secret" in path or path.startswith("/"):
        assert found is None


def test_a_link_out_of_the_attempt_leads_nowhere(tmp_path, folder, files):
    (tmp_path / "secret").write_text("s")
    (folder / "logs").mkdir()
    (folder / "logs" / "link").symlink_to(tmp_path / "secret")
    (folder / "logs" / "loop").symlink_to(folder / "logs" / "loop")
    assert files.artifact("b1", "a1", "link") is None
    assert files.artifact("b1", "a1", "loop") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b'{"files": {}}',
        b'{"files": [1, null, {}]}',
        b'{"files": [{"path": 1, "size_bytes": "x"}]}',
        b"\xff",
        b"[" * 99_999,
    ],
)
def test_a_broken_manifest_names_nothing(folder, files, content):
    (folder / "manifest.json").write_bytes(content)
    assert files.artifacts("b1", "a1") == ()


def test_a_manifest_names_files_below_its_folder(folder, files):
    listed = [
        {"path": "logs/a.xml", "size_bytes": 1, "sha256": "0"},
        {"path": "logs/deep/b.log", "size_bytes": 2, "sha256": "1"},
    ]
    (folder / "manifest.json").write_text(json.dumps({"files": listed}))
    assert [item.path for item in files.artifacts("b1", "a1")] == ["a.xml", "deep/b.log"]
