# SPDX-License-Identifier: Apache-2.0
"""What a runner says to cmd.exe: quoted arguments, folders, the list of files. Pure.

WinRS hands a command line to `cmd.exe /c`, and so does OpenSSH on Windows. Our own lines begin
with `@` and hold nothing but fixed words and folders in quotes. In quotes cmd.exe still expands
`%NAME%`, and has no way to write a `%` or a `"`: a folder with one of these is refused.

Over SSH variables and folder have to be set by the line itself, see `job`, and each line begins
with the mark of its session, by which the process list shows whose it is.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ci.errors import ConfigError
from ci.runners.scripts import MARK, checked_directory, exports

# What CreateProcess takes is 32,767 characters; cmd.exe takes these.
MAX_LINE = 8191
NOT_THERE = 3
NO_FOLDER = 125
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_ENTRY = re.compile(r"(\d*) (\S*) (.+)", re.DOTALL)
# These end an argument, or mean something to cmd.exe outside of quotes.
_PLAIN = re.compile(r"[A-Za-z0-9_./:\\=@+-]+")
# What stands for a character that no cmd.exe on the way may act on, see `job`.
_HELD = {"%": "!hvp!", '"': "!hvq!", "!": "!hve!", "^": "!hvc!"}
_HOLDERS = 'set hvp=%&set hvq=^"&set hve=!&set "hvc=^"&'
# What stands around a line when it is given to cmd.exe: its path, `/c` and quotes.
_AROUND = 100
PROBE = "echo hypervouch-%OS%"
"""cmd.exe says `hypervouch-Windows_NT`; any other shell gives `%OS%` back."""


class Entry(NamedTuple):
    """A file on the node.

    Attributes:
        name: Relative to the folder that was asked for, with `/`.
        size_bytes: Its size.
        plain: Whether it is a file, and neither a link nor a device.
    """

    name: str
    size_bytes: int
    plain: bool


def argument(text: str) -> str:
    """One argument of a program, as cmd.exe and then the program's own C runtime read it.

    Raises:
        ConfigError: It cannot be written: a line break, NUL, a `%` or a `"`.
    """
    if any(c in text for c in '\r\n\0%"'):
        raise ConfigError(
            f"{text!r} cannot be written for cmd.exe", hint="leave out line breaks, % and quotes"
        )
    if _PLAIN.fullmatch(text):
        return text
    # Backslashes before the closing quote would make it a character of the argument.
    slashes = len(text) - len(text.rstrip("\\"))
    return f'"{text}{chr(92) * slashes}"'


def command_line(command: str) -> str:
    """A job's command, as it is given to cmd.exe.

    Raises:
        ConfigError: It is more than one line, too long, or begins as our own lines do.
    """
    line = command.strip()
    if not line or any(c in line for c in "\r\n\0") or len(line) > MAX_LINE:
        raise ConfigError(
            f"cmd.exe takes one line of at most {MAX_LINE} characters",
            hint="put the command into a .cmd file of the tree",
        )
    if line.startswith("@"):
        raise ConfigError("a command on Windows must not begin with @", hint="leave the @ out")
    return line


def folder(directory: str) -> str:
    r"""A folder that may be emptied, as the node writes it: C:/a/b becomes C:\a\b.

    Raises:
        ConfigError: It is relative, a drive's root or one below it, or has a `..`.
    """
    if not _DRIVE.match(directory):
        return checked_directory(directory)
    parts = [part for part in re.split(r"[\\/]", directory[3:]) if part not in {"", "."}]
    if ".." in parts or len(parts) < 2 or re.search(r'[<>:"|?*%\x00-\x1f]', directory[2:]):  # noqa: PLR2004
        raise ConfigError(
            f"{directory!r} is no directory that a build may fill",
            hint=r"set the node's workdir to a folder of its own, for instance C:/hypervouch/work",
        )
    return directory[:2].upper() + "\\" + "\\".join(parts)


def variables(env: Mapping[str, str]) -> dict[str, str]:
    """Variables of a shell.

    Raises:
        ConfigError: A name is none, or a value holds what XML cannot carry.
    """
    exports(env)
    for name, value in env.items():
        if any(ord(c) < 32 and c not in "\t\n" for c in value):  # noqa: PLR2004
            raise ConfigError(f"the variable {name} holds a control character")
    return dict(env)


def marked(line: str, mark: str) -> str:
    """A line for SSH, its output in UTF-8, whose mark the process list shows.

    Raises:
        ConfigError: It is too long.
    """
    made = f'chcp 65001 >nul 2>&1&set "{MARK}={mark}"&{line.removeprefix("@")}'
    size = len(made.encode("utf-16-le", "surrogatepass")) // 2  # as Windows counts
    if size > MAX_LINE - _AROUND:
        raise ConfigError(
            f"the command takes {size} characters with its variables, and cmd.exe takes "
            f"{MAX_LINE - _AROUND} over SSH",
            hint="put the command into a .cmd file of the tree, or reach the node over WinRM",
        )
    return made


def job(command: str, *, directory: str, env: Mapping[str, str], mark: str) -> str:
    """The line for SSH that runs a job's command in a folder, with variables.

    Three shells, for `%NAME%` is expanded when a line is read, before anything in it is done. The
    first is the server's; it sets what stands for `% " ! ^`, and starts the second with delayed
    expansion (`/v:on`), all its words escaped by carets. The second sets the variables, goes to
    the folder, and starts the third with the job's command, as it was written. The last status of
    each is that of the next. Standard error goes where standard output goes, in order.

    Args:
        command: One line.
        directory: The folder, as `folder` gives it.
        env: Variables; an empty one is not set, for Windows knows none.
        mark: By which its process is found again.

    Raises:
        ConfigError: It cannot be written for cmd.exe, or is too long.
    """
    text = _held(command_line(command))
    exports(env)
    for name, value in env.items():
        if f"!{name.lower()}!" in _HELD.values():
            raise ConfigError(
                f"the variable {name} has a name that is ours on Windows over SSH",
                hint="give it another name, or reach the node over WinRM",
            )
        if any(ord(c) < 32 and c != "\t" for c in value):  # noqa: PLR2004
            raise ConfigError(
                f"the variable {name} holds a line break or a control character: cmd.exe cannot be "
                "given it over SSH",
                hint="leave it out of the job's env, or reach the node over WinRM",
            )
    sets = "".join(f'set "{name}={_held(value)}"&' for name, value in env.items())
    where = f'"{_held(directory)}"'
    goes = f"(if not exist {where} exit {NO_FOLDER})&cd /d {where}"
    # At the end `2>&1` would leave a blank there: `echo a>f` would write it, too.
    line = f'{sets}{goes}&&cmd 2>&1 /d /s /c "{text}"'
    carets = re.sub(r'[&|<>()"]', r"^\g<0>", line)
    return marked(f'{_HOLDERS}cmd /d /v:on /s /c ^"{carets}^"', mark)


def clear(directory: str) -> str:
    """Remove a folder with all that is in it, then make it and those above it.

    It fails where something of the folder is still there.
    """
    where = _quoted(directory)
    return f"@rmdir /s /q {where} 2>nul & mkdir {where}"


def unpack(directory: str) -> str:
    """Unpack a tar stream from standard input; Windows has a tar since 1803."""
    return f"@tar -xof - -C {_quoted(directory)}"


def pack(directory: str) -> str:
    """Pack the files whose names come on standard input, NUL-terminated."""
    return f"@tar -cf - -C {_quoted(directory)} --null -T -"


def exists(directory: str) -> str:
    """Status NOT_THERE where a folder is not there."""
    return f"@if not exist {_quoted(directory)} exit {NOT_THERE}"


def listing(directory: str) -> str:
    """Size, attributes and full name of every file below a folder, one a line."""
    return f"@for /r {_quoted(directory)} %f in (*) do @echo %~zf %~af %f"


def entries(said: bytes, directory: str) -> list[Entry]:
    """Read what `listing` printed; lines that are none of it are left out."""
    found: list[Entry] = []
    for line in said.split(b"\n"):
        text = line.rstrip(b"\r").decode("utf-8", "surrogateescape")
        match = _ENTRY.fullmatch(text)
        if match is None:
            continue
        size, attributes, path = match.groups()
        inside = _below(path, directory)
        if inside:
            found.append(Entry(inside, int(size or 0), not set(attributes) & set("ld")))
    return found


def names(wanted: Sequence[str]) -> bytes:
    """Names for `pack`. None begins with a dash: `./` stands before each."""
    return b"".join(b"./" + name.encode("utf-8", "surrogateescape") + b"\0" for name in wanted)


def _below(path: str, directory: str) -> str:
    windows = bool(_DRIVE.match(directory))
    if windows:
        path, directory = path.replace("\\", "/"), directory.replace("\\", "/")
    start = directory.rstrip("/") + "/"
    same = path[: len(start)].lower() == start.lower() if windows else path.startswith(start)
    return path[len(start) :] if same else ""


def _held(text: str) -> str:
    return re.sub(r'[%"!^]', lambda found: _HELD[found[0]], text)


def _quoted(directory: str) -> str:
    written = argument(directory)
    return written if written.startswith('"') else f'"{written}"'
