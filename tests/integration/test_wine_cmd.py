# SPDX-License-Identifier: Apache-2.0
"""Our lines for cmd.exe, given to Wine's: another cmd.exe than Windows', yet none of ours.

Asked for by installing Wine; see CONTRIBUTING. Each line is started as OpenSSH on Windows does it:
the path of cmd.exe in quotes, `/c`, and the line in quotes. A cmd.exe with delayed expansion takes
this from a variable, so that nothing on the way reads or quotes it. What Wine 8.0 itself does
otherwise is left out: `&&` goes on whatever the status, `||` after `cd` as if it had failed.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.runners import windows_words
from tests.kit.require import require

require(
    "wine",
    present=shutil.which("wine") is not None,
    why="apt-get install --no-install-recommends wine64 wine",
)
pytestmark = pytest.mark.timeout(300)

MARK = "hypervouch-0123456789abcdef-00"
START_S = 240.0


class Wine:
    """A machine of its own, with drive C below a folder."""

    def __init__(self, folder: Path) -> None:
        self.drive = folder / "drive_c"
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder.parent),
            "LANG": "C.UTF-8",
            "WINEPREFIX": str(folder),
            "WINEDEBUG": "-all",
            "WINEDLLOVERRIDES": "mscoree,mshtml=",
        }

    def cmd(self, line: str) -> tuple[int, str]:
        """Status and output of a line."""
        raw = f'"C:\\windows\\system32\\cmd.exe" /c "{line}"'
        done = subprocess.run(
            ["wine", "cmd.exe", "/v:on", "/c", "!LINE!"],
            env={**self._env, "LINE": raw},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=START_S,
            check=False,
        )
        return done.returncode, done.stdout.decode("utf-8", "replace").replace("\r\n", "\n")

    def stop(self) -> None:
        """End all that runs in it."""
        subprocess.run(["wineserver", "-k"], env=self._env, timeout=60, check=False)


@pytest.fixture(scope="module")
def wine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wine]:
    machine = Wine(tmp_path_factory.mktemp("wine") / "prefix")
    try:
        machine.cmd("exit 0")  # it tells of the drive that it makes
        assert machine.cmd(windows_words.PROBE) == (0, "hypervouch-Windows_NT\n")
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def folder(wine: Wine) -> Iterator[str]:
    where = windows_words.folder("C:/ci work & (so)/it's here")
    assert wine.cmd(windows_words.marked(windows_words.clear(where), MARK)) == (0, "")
    yield where
    shutil.rmtree(wine.drive / "ci work & (so)")


def test_a_folder_is_made_filled_listed_and_cleared(wine: Wine, folder: str) -> None:
    here = wine.drive.joinpath(*folder.split("\\")[1:])
    assert here.is_dir()
    (here / "r d").mkdir()
    (here / "r d" / "a&b.xml").write_bytes(b"12345")
    (here / "plain.txt").write_bytes(b"")
    status, said = wine.cmd(windows_words.marked(windows_words.listing(folder), MARK))
    found = windows_words.entries(said.encode(), folder)
    assert status == 0
    assert sorted((one.name, one.size_bytes, one.plain) for one in found) == [
        ("plain.txt", 0, True),
        ("r d/a&b.xml", 5, True),
    ]
    assert wine.cmd(windows_words.marked(windows_words.clear(folder), MARK))[0] == 0
    assert list(here.iterdir()) == []


def test_a_folder_that_is_not_there(wine: Wine, folder: str) -> None:
    line = windows_words.marked(windows_words.exists(f"{folder}\\gone"), MARK)
    assert wine.cmd(line)[0] == windows_words.NOT_THERE
    assert wine.cmd(windows_words.marked(windows_words.exists(folder), MARK))[0] == 0


@pytest.mark.parametrize("value", ["x", 'a "b c" d', "100% of %OS%", "a&b|c<d>e", "^ ! x", "it's"])
def test_a_variable_arrives_as_it_is(wine: Wine, folder: str, value: str) -> None:
    line = windows_words.job("set V_1&rem", directory=folder, env={"V_1": value}, mark=MARK)
    assert wine.cmd(line) == (0, f"V_1={value}\n")


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("exit 7", 7, ""),
        ("exit -1073741510", 3221225786 % 256, ""),
        ("echo %V_1%", 0, "x y\n"),
        ('if "%V_1%"=="x y" (exit 4) else exit 5', 4, ""),
        ("cmd /c exit 3 || exit 8", 8, ""),
        ('echo "a & b" & echo c^&d', 0, '"a & b" \nc&d\n'),
        ("echo out&echo err>&2&echo end", 0, "out\nerr\nend\n"),
        ("for %i in (1 2) do @echo %i", 0, "1\n2\n"),
        ("echo hi>f.txt&type f.txt", 0, "hi\n"),
    ],
)
def test_a_command_is_what_the_job_wrote(
    wine: Wine, folder: str, command: str, status: int, said: str
) -> None:
    line = windows_words.job(command, directory=folder, env={"V_1": "x y"}, mark=MARK)
    got, heard = wine.cmd(line)
    assert (got, [one.rstrip() for one in heard.splitlines()]) == (
        status,
        [one.rstrip() for one in said.splitlines()],
    )


def test_what_ends_a_command_is_written_without_a_blank(wine: Wine, folder: str) -> None:
    line = windows_words.job("echo hi>f.txt", directory=folder, env={}, mark=MARK)
    assert wine.cmd(line) == (0, "")
    here = wine.drive.joinpath(*folder.split("\\")[1:])
    assert (here / "f.txt").read_bytes() == b"hi\r\n"


def test_a_job_runs_in_its_folder_and_says_its_mark(wine: Wine, folder: str) -> None:
    command = "echo %CD%&echo %HYPERVOUCH_SESSION%&rem"
    line = windows_words.job(command, directory=folder, env={}, mark=MARK)
    assert wine.cmd(line) == (0, f"{folder}\n{MARK}\n")
    gone = windows_words.job(command, directory=f"{folder}\\gone", env={}, mark=MARK)
    assert wine.cmd(gone)[0] == windows_words.NO_FOLDER
