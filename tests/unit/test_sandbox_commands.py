# SPDX-License-Identifier: Apache-2.0
"""Command lines, the hook's packets and file lists, as the sandbox reads them."""

import io

import pytest

from ci.sandbox.git_hook import FLUSH, packet, read_packets
from ci.sandbox.repositories import FileChange, parse_files
from ci.sandbox.ssh_commands import BadCommand, read_query_line, split


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gerrit version", ["gerrit", "version"]),
        ("git-upload-pack '/a/b.git'", ["git-upload-pack", "/a/b.git"]),
        ("gerrit query 'a b' \"c d\"", ["gerrit", "query", "a b", "c d"]),
        (r"after:\"2026-01-01 10:00:00\"", ['after:"2026-01-01', '10:00:00"']),
        ("'after:\"2026-01-01\"'", ['after:"2026-01-01"']),
        ('status:open"', ["status:open"]),
        ("  a\tb\n", ["a", "b"]),
        ("''", [""]),
        ("a\\", ["a"]),
        ("", []),
    ],
)
def test_a_command_line_is_divided_as_gerrit_does(line: str, words: list[str]):
    assert split(line) == words


def test_a_query_line_is_read():
    words = ["--format=JSON", "--files", "--start", "20", "status:open", "project:a"]
    asked = read_query_line(words)
    assert (asked.query, asked.start) == ("status:open project:a", 20)
    assert asked.flags == {"--files"}
    assert read_query_line(["--format", "json", "--", "7"]).query == "7"


@pytest.mark.parametrize(
    "words", [["--format=JSON", "--bogus", "x"], ["--format=JSON", "-is:wip"], ["status:open"]]
)
def test_a_query_line_that_cannot_be_answered(words: list[str]):
    with pytest.raises(BadCommand):
        read_query_line(words)


def test_packets_go_there_and_back():
    sent = packet("version=1") + packet("ok refs/heads/master") + FLUSH + packet("later")
    source = io.BytesIO(sent)
    assert read_packets(source) == ["version=1", "ok refs/heads/master"]
    assert read_packets(source) == ["later"]
    assert packet("a") == b"0006a\n"


def test_a_file_list_is_read():
    zeros = "0" * 40
    fields = [
        f":000000 100644 {zeros} {zeros} A",
        "new name",
        f":100644 000000 {zeros} {zeros} D",
        "gone",
        f":100644 100644 {zeros} {zeros} M",
        "picture",
        "3\t0\tnew name",
        "0\t2\tgone",
        "-\t-\tpicture",
        "",
    ]
    assert parse_files(fields) == [
        FileChange(path="new name", status="A", insertions=3, deletions=0),
        FileChange(path="gone", status="D", insertions=0, deletions=2),
        FileChange(path="picture", status="M", insertions=0, deletions=0, binary=True),
    ]
