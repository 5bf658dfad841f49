# SPDX-License-Identifier: Apache-2.0
"""The lines of cmd.exe that our runner sends, modelled.

They are `rmdir`, `mkdir`, `if not exist`, `tar`, and the `for /r` that lists files. Arguments are
split as the C runtime of a Windows program does it. What is not modelled ends with an error.
"""

import os
import stat
from pathlib import Path
from typing import NamedTuple

LIST = "%f in (*) do @echo %~zf %~af %f"


class Done(NamedTuple):
    """How a line ended."""

    status: int = 0
    stdout: bytes = b""
    stderr: bytes = b""


def split(line: str) -> list[str]:
    r"""Words of a command line: quotes keep blanks, `\"` is a quote, `\\` only before one."""
    words: list[str] = []
    word, quoted, begun, slashes = "", False, False, 0
    for char in line + " ":
        if char == "\\":
            slashes += 1
            continue
        if char == '"':
            word += "\\" * (slashes // 2)
            if slashes % 2:
                word += '"'
            else:
                quoted, begun = not quoted, True
        else:
            word += "\\" * slashes
            if char in " \t" and not quoted:
                if word or begun:
                    words.append(word)
                word, begun = "", False
            else:
                word += char
        slashes = 0
    return words


def do(line: str) -> Done | list[str]:
    """Do what a line asks for, or give the program of this machine that does it."""
    words = split(line.removeprefix("@"))
    match words:
        case ["tar", *_]:
            return words
        case ["rmdir", "/s", "/q", old, "2>nul", "&", "mkdir", new]:
            _remove(Path(old))
            return _make(Path(new))
        case ["if", "not", "exist", folder, "exit", status]:
            return Done(0 if Path(folder).exists() else int(status))
        case ["for", "/r", folder, *rest] if " ".join(rest) == LIST:
            return _list(folder)
    return _complain(f"'{words[0] if words else ''}' is not recognized as a command")


def _remove(folder: Path) -> None:
    if not folder.exists():
        return
    for where, folders, files in os.walk(folder, topdown=False):
        for name in (*files, *folders):
            path = Path(where) / name
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
    folder.rmdir()


def _make(folder: Path) -> Done:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return _complain(f"A subdirectory or file {folder} already exists.")
    return Done()


def _list(folder: str) -> Done:
    lines = []
    for where, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(where) / name).is_symlink()]
        for name in (*files, *links):
            path = os.path.join(os.fsencode(where), os.fsencode(name))  # noqa: PTH118 - bytes
            try:
                found = os.lstat(path)
            except OSError:
                continue
            kind = b"--a------" if stat.S_ISREG(found.st_mode) else b"--a-----l"
            lines.append(b"%d %s %s\r\n" % (found.st_size, kind, path))
    return Done(stdout=b"".join(lines))


def _complain(text: str, status: int = 1) -> Done:
    return Done(status, stderr=f"{text}\r\n".encode())
