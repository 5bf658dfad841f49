# SPDX-License-Identifier: Apache-2.0
"""What a runner says to cmd.exe, read back as the programs of Windows would read it."""

import pytest

from ci.errors import ConfigError
from ci.runners import windows_end, windows_words
from ci.runners.stop import Grace
from ci.runners.windows_words import Entry
from nodes.stand_ins.winrs import words
from nodes.stand_ins.winssh import lines

ODD = ["", "a b", "a&b", "a|b", "a^b", "(a)", "a<b>c", "a;b,c", "!a!", "it's", "ü", "C:\\a b\\"]


@pytest.mark.parametrize("text", ["plain", "C:\\a\\b", "--null", *ODD, "\\\\host\\share\\", "\\"])
def test_an_argument_comes_through_as_it_is(text: str) -> None:
    written = windows_words.argument(text)
    assert words.split(f"tar {written} end") == ["tar", text, "end"]


@pytest.mark.parametrize("text", [*ODD[1:8], "a\tb"])
def test_what_cmd_would_act_on_stands_in_quotes(text: str) -> None:
    written = windows_words.argument(text)
    assert written.startswith('"')
    assert written.endswith('"')


@pytest.mark.parametrize("text", ["%PATH%", 'a"b', "a\nb", "a\rb", "a\0b", "100%"])
def test_what_cannot_be_written_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        windows_words.argument(text)


def test_a_jobs_command_goes_as_it_is() -> None:
    assert windows_words.command_line(" pytest -q & echo %CD% \n") == "pytest -q & echo %CD%"


@pytest.mark.parametrize("text", ["", " \n", "a\nb", "a\0b", "@echo off", "x" * 9000])
def test_a_command_that_cmd_would_cut_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        windows_words.command_line(text)
    assert error.value.hint


def test_folders_of_windows_and_of_the_emulator() -> None:
    assert windows_words.folder("c:/ci work/checkout/") == "C:\\ci work\\checkout"
    assert windows_words.folder("D:\\ci\\./x") == "D:\\ci\\x"
    assert windows_words.folder("/srv/work/checkout") == "/srv/work/checkout"


@pytest.mark.parametrize(
    "text", ["C:\\", "C:/", "C:/windows", "C:/a/../b", "C:a\\b", "C:/a/b%X%", 'C:/a/b"', "a/b", "/"]
)
def test_a_folder_that_must_not_be_emptied(text: str) -> None:
    with pytest.raises(ConfigError):
        windows_words.folder(text)


def test_variables_that_xml_cannot_carry_are_refused() -> None:
    assert windows_words.variables({"A": "x\n\ty ü"}) == {"A": "x\n\ty ü"}
    for env in ({"A": "\x1b[1m"}, {"A;B": "x"}, {"A": "\0"}):
        with pytest.raises(ConfigError):
            windows_words.variables(env)


def test_our_own_lines() -> None:
    where = windows_words.folder("C:/ci work/x")
    assert windows_words.clear(where) == (
        '@rmdir /s /q "C:\\ci work\\x" 2>nul & mkdir "C:\\ci work\\x"'
    )
    assert windows_words.unpack(where) == '@tar -xof - -C "C:\\ci work\\x"'
    assert windows_words.pack(where) == '@tar -cf - -C "C:\\ci work\\x" --null -T -'
    assert windows_words.exists(where) == '@if not exist "C:\\ci work\\x" exit 3'
    assert windows_words.listing(where) == (
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
    assert windows_words.entries(said, "C:\\ci\\x") == [
        Entry("r/a b.xml", 12, plain=True),
        Entry("link", 7, plain=False),
        Entry("odd", 0, plain=True),
        Entry("\udcff", 1, plain=True),
    ]
    assert windows_words.names(["-x", "a b"]) == b"./-x\0./a b\0"


class TestOverSsh:
    """The lines that OpenSSH on Windows is given, read back by the stand-in."""

    MARK = "hypervouch-0123456789abcdef-00"

    def job(self, command: str, **env: str) -> lines.Job:
        line = windows_words.job(command, directory="C:\\ci work\\x!", env=env, mark=self.MARK)
        read = lines.read(line)
        assert isinstance(read, lines.Job)
        assert (read.mark, read.directory) == (self.MARK, "C:\\ci work\\x!")
        return read

    @pytest.mark.parametrize(
        "text", ["pytest -q", 'a "b & c" | d > e', "echo %CD%%A%", "a ^& b", "!x! 100%", "hvp (ü)"]
    )
    def test_commands_and_values_come_through_as_they_are(self, text: str) -> None:
        assert self.job(text).command == text
        assert self.job("x", V_1=text, B="b").env == {"V_1": text, "B": "b"}

    def test_nothing_is_added_to_a_command(self) -> None:
        line = windows_words.job("echo a>f", directory="C:\\a\\b", env={}, mark=self.MARK)
        assert line.endswith('^"echo a^>f^"^"'), "what follows a redirection is written, too"

    @pytest.mark.parametrize("name", ["hvp", "HVQ", "Hve", "hvC"])
    def test_a_variable_that_holds_a_character_for_us_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match=f"the variable {name} has a name") as error:
            self.job("x", **{name: "y"})
        assert error.value.hint

    def test_what_the_first_shell_expands_is_nothing_of_ours(self) -> None:
        line = windows_words.job("%PATH%", directory="C:\\a\\b", env={"A": "%B%"}, mark=self.MARK)
        assert line.count("%") == 1

    @pytest.mark.parametrize("value", ["a\nb", "a\rb", "\x1b[1m"])
    def test_a_line_break_in_a_variable_is_refused_by_name(self, value: str) -> None:
        with pytest.raises(ConfigError, match="the variable PIN holds") as error:
            self.job("x", PIN=value)
        assert "WinRM" in error.value.hint

    def test_what_is_too_long_is_told_before_it_is_sent(self) -> None:
        with pytest.raises(ConfigError, match=r"takes \d+ characters") as error:
            self.job("x", A="y" * 8000)
        assert error.value.hint
        with pytest.raises(ConfigError, match=r"takes \d+ characters"):
            self.job("x", A="\N{GRINNING FACE}" * 4000)  # two of Windows' characters each

    def test_our_own_lines_carry_the_mark(self) -> None:
        line = windows_words.marked(windows_words.exists("C:\\a b\\c"), self.MARK)
        assert lines.read(line) == lines.Tool(self.MARK, 'if not exist "C:\\a b\\c" exit 3')

    def test_the_script_that_ends_fits_and_names_its_steps(self) -> None:
        grace = Grace(interrupt_s=1, terminate_s=0, kill_s=2.5)
        line = windows_end.line(self.MARK + "0" * 32, grace)
        assert len(line) < windows_words.MAX_LINE - 100
        assert lines.read(line) == lines.End(self.MARK + "0" * 32, [("INT", 1000), ("KILL", 2500)])
        assert windows_end.script(self.MARK, grace).isascii()
        assert self.MARK not in line, "it must not find its own cmd.exe"
