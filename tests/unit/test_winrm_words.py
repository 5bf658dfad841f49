# SPDX-License-Identifier: Apache-2.0
"""What a runner says to cmd.exe, read back as the programs of Windows would read it."""

import pytest

from ci.errors import ConfigError
from ci.runners import winrm_words
from ci.runners.winrm_words import Entry
from nodes.stand_ins.winrs import words

ODD = ["", "a b", "a&b", "a|b", "a^b", "(a)", "a<b>c", "a;b,c", "!a!", "it's", "ü", "C:\\a b\\"]


@pytest.mark.parametrize("text", ["plain", "C:\\a\\b", "--null", *ODD, "\\\\host\\share\\", "\\"])
def test_an_argument_comes_through_as_it_is(text: str) -> None:
    written = winrm_words.argument(text)
    assert words.split(f"tar {written} end") == ["tar", text, "end"]


@pytest.mark.parametrize("text", [*ODD[1:8], "a\tb"])
def test_what_cmd_would_act_on_stands_in_quotes(text: str) -> None:
    written = winrm_words.argument(text)
    assert written.startswith('"')
    assert written.endswith('"')


@pytest.mark.parametrize("text", ["%PATH%", 'a"b', "a\nb", "a\rb", "a\0b", "100%"])
def test_what_cannot_be_written_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        winrm_words.argument(text)


def test_a_jobs_command_goes_as_it_is() -> None:
    assert winrm_words.command_line(" pytest -q & echo %CD% \n") == "pytest -q & echo %CD%"


@pytest.mark.parametrize("text", ["", " \n", "a\nb", "a\0b", "@echo off", "x" * 9000])
def test_a_command_that_cmd_would_cut_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        winrm_words.command_line(text)
    assert error.value.hint


def test_folders_of_windows_and_of_the_emulator() -> None:
    assert winrm_words.folder("c:/ci work/checkout/") == "C:\\ci work\\checkout"
    assert winrm_words.folder("D:\\ci\\./x") == "D:\\ci\\x"
    assert winrm_words.folder("/srv/work/checkout") == "/srv/work/checkout"


@pytest.mark.parametrize(
    "text", ["C:\\", "C:/", "C:/windows", "C:/a/../b", "C:a\\b", "C:/a/b%X%", 'C:/a/b"', "a/b", "/"]
)
def test_a_folder_that_must_not_be_emptied(text: str) -> None:
    with pytest.raises(ConfigError):
        winrm_words.folder(text)


def test_variables_that_xml_cannot_carry_are_refused() -> None:
    assert winrm_words.variables({"A": "x\n\ty ü"}) == {"A": "x\n\ty ü"}
    for env in ({"A": "\x1b[1m"}, {"A;B": "x"}, {"A": "\0"}):
        with pytest.raises(ConfigError):
            winrm_words.variables(env)


def test_our_own_lines() -> None:
    where = winrm_words.folder("C:/ci work/x")
    assert winrm_words.remove(where) == '@rmdir /s /q "C:\\ci work\\x"'
    assert winrm_words.make(where) == '@mkdir "C:\\ci work\\x"'
    assert winrm_words.unpack(where) == '@tar -xof - -C "C:\\ci work\\x"'
    assert winrm_words.pack(where) == '@tar -cf - -C "C:\\ci work\\x" --null -T -'
    assert winrm_words.exists(where) == '@if not exist "C:\\ci work\\x" exit 3'
    assert winrm_words.listing(where) == (
        '@for /r "C:\\ci work\\x" %f in (*) do @echo %~zf %~af %f'
    )


def test_the_list_of_files_is_read_with_distrust() -> None:
    said = (
        b"12 --a------ C:\\ci\\x\\r\\a b.xml\r\n"
        b"7 --a-----l C:\\ci\\x\\link\r\n"
        b" --a------ c:\\CI\\x\\odd\r\n"
        b"9 --a------ C:\\elsewhere\\b\r\n"
        b"File Not Found\r\n\r\n"
        b"1 --a------ C:\\ci\\x\\\xff\r\n"
    )
    assert winrm_words.entries(said, "C:\\ci\\x") == [
        Entry("r/a b.xml", 12, plain=True),
        Entry("link", 7, plain=False),
        Entry("odd", 0, plain=True),
        Entry("\udcff", 1, plain=True),
    ]
    assert winrm_words.names(["-x", "a b"]) == b"./-x\0./a b\0"
