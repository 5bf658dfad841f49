# SPDX-License-Identifier: Apache-2.0
"""Files that come home from a node, taken with distrust: globs, limits and safe names."""

import os
import re
import shutil
import stat
import tarfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Self

from ci.errors import CollectError, ConfigError, StorageError

MAX_FILES = 10_000
MAX_NAME = 1_000
MAX_PART = 255
MAX_NAMED = 5
# A tar header that claims more than this is an attack on our memory, not a long name.
MAX_HEADER_BYTES = 64 * 1024
_CHUNK = 256 * 1024


class Intake:
    """Writes files below a directory of ours and remembers what it refused.

    Args:
        target: Directory on the controller; made when missing. It holds no links: everything
            in it was written here.
        patterns: Globs; a name that matches none is dropped in silence.
        limit_bytes: Size of all files together.
    """

    def __init__(self, target: Path, patterns: Sequence[str], limit_bytes: int) -> None:
        self._target = target
        self._patterns = [glob_regex(pattern) for pattern in patterns]
        self._left = limit_bytes
        self._limit = limit_bytes
        self._taken: set[Path] = set()
        self._refused: list[str] = []

    def wants(self, name: str) -> bool:
        """Whether a relative path matches one of the globs."""
        return any(pattern.fullmatch(name) for pattern in self._patterns)

    def take(self, name: str, size_bytes: int, content: IO[bytes]) -> None:
        """Copy one regular file, or refuse it and remember why."""
        why = self._objection(name, size_bytes)
        if why:
            self.refuse(name, why)
            return
        path = self._target / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(path, flags, 0o644), "wb") as file:
                # Charged before the copy: a full disk in the middle counts as well.
                self._left -= size_bytes
                copied = _copy(content, file, size_bytes)
        except (FileExistsError, NotADirectoryError):
            self.refuse(name, "came twice, or as a file and as a directory")
            return
        except OSError as error:
            raise StorageError(
                f"{path} cannot be written: {error}", hint="free the disk", retryable=True
            ) from error
        if copied != size_bytes:
            self.refuse(name, "ended early")
        self._taken.add(Path(name))

    def refuse(self, name: str, why: str) -> None:
        """Remember something that stays on the node."""
        self._refused.append(f"{name[:200]!a} {why}")

    def finish(self) -> tuple[Path, ...]:
        """Relative paths of what was taken, sorted.

        Raises:
            CollectError: Something was refused.
        """
        if self._refused:
            named = "; ".join(self._refused[:MAX_NAMED])
            more = len(self._refused) - MAX_NAMED
            raise CollectError(
                f"left on the node: {named}" + (f"; and {more} more" if more > 0 else ""),
                hint="let the suite write plain files, fewer or smaller ones",
            )
        return tuple(sorted(self._taken))

    def _objection(self, name: str, size_bytes: int) -> str:
        if not safe_name(name):
            return "has a name that is not safe"
        if len(self._taken) >= MAX_FILES:
            return f"is one more than {MAX_FILES} files"
        if size_bytes > self._left:
            return f"would pass the limit of {self._limit} bytes"
        return ""


def safe_name(name: str) -> bool:
    """Whether a relative path is printable UTF-8 and stays below where it starts."""
    if not name or len(name) > MAX_NAME or name.startswith("/") or not name.isprintable():
        return False
    return all(
        part not in {"", ".", ".."} and len(part.encode()) <= MAX_PART for part in name.split("/")
    )


@lru_cache(maxsize=256)
def glob_regex(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression: `*` and `?` stay in a folder, `**` crosses folders.

    A pattern that ends in `/` means everything below.

    Raises:
        ConfigError: It is absolute or has a `..`.
    """
    if not pattern or pattern.startswith("/") or ".." in pattern.split("/"):
        raise ConfigError(
            f"the glob {pattern!r} leads out of the checkout",
            hint="write it relative to the checkout, for instance results/*.xml",
        )
    text = pattern.removeprefix("./") + ("**" if pattern.endswith("/") else "")
    return re.compile("".join(_translate(text)), re.DOTALL)


def _translate(text: str) -> Iterator[str]:
    for part in re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]/]+\]|.", text, re.DOTALL):
        if part == "**/":
            yield r"(?:[^/]+/)*"
        elif part == "**":
            yield ".*"
        elif part == "*":
            yield "[^/]*"
        elif part == "?":
            yield "[^/]"
        elif len(part) > 1:
            yield "(?!/)[" + re.sub(r"[\\\[&~|]", r"\\\g<0>", part[1:-1]).replace("!", "^", 1) + "]"
        else:
            yield re.escape(part)


def unpack(stream: IO[bytes], intake: Intake) -> None:
    """Feed an uncompressed tar stream, or several in a row, to `intake`.

    Raises:
        CollectError: It is no tar, is cut short, or attacks its reader.
    """
    entries = 0
    try:
        with tarfile.open(
            fileobj=stream, mode="r|", ignore_zeros=True, tarinfo=_Header, errors="surrogateescape"
        ) as tar:
            for entry in tar:
                entries += 1
                if entries > 2 * MAX_FILES:
                    raise CollectError(
                        f"the node sent more than {2 * MAX_FILES} files",
                        hint="narrow the job's globs",
                    )
                _consider(tar, entry, intake)
                # tarfile keeps every member; a long stream would fill the memory.
                tar.members.clear()  # type: ignore[attr-defined]
    except tarfile.ReadError as error:
        # An empty stream is an archive of nothing: no file matched.
        if entries or "empty" not in str(error):
            raise CollectError(f"the node sent a broken archive: {error}") from error
    except (tarfile.TarError, RecursionError, ValueError) as error:
        raise CollectError(f"the node sent a broken archive: {error}") from error


def _consider(tar: tarfile.TarFile, entry: tarfile.TarInfo, intake: Intake) -> None:
    name = entry.name.removeprefix("./")
    if not intake.wants(name):
        return
    if entry.isreg() and not entry.issparse():
        content = tar.extractfile(entry)
        if content is not None:
            intake.take(name, entry.size, content)
    elif not entry.isdir():
        intake.refuse(name, "is a link or a special file")


_UNSOUND: tuple[type[tarfile.HeaderError], ...] = (
    tarfile.InvalidHeaderError,  # type: ignore[attr-defined]
    tarfile.TruncatedHeaderError,  # type: ignore[attr-defined]
)


class _Header(tarfile.TarInfo):
    """A tar header that is sound, and whose extensions (long names, ...) are not large."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except _UNSOUND as error:
            # Reading several archives in a row, tarfile would pass over garbage in silence.
            raise CollectError(f"the node sent a broken archive: {error}") from error

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        plain = self.type in tarfile.SUPPORTED_TYPES and self.type not in _EXTENSIONS
        if not plain and self.size > MAX_HEADER_BYTES:
            raise CollectError("the node sent an archive with an oversized header")
        return super()._proc_member(tar)  # type: ignore[misc,no-any-return]


_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def _copy(source: IO[bytes], to: IO[bytes], size_bytes: int) -> int:
    """Copy at most `size_bytes`; returns how many came."""
    left = size_bytes
    while left > 0:
        chunk = source.read(min(_CHUNK, left))
        if not chunk:
            break
        to.write(chunk)
        left -= len(chunk)
    return size_bytes - left


def gather(directory: Path, intake: Intake) -> None:
    """Feed the files below a local directory to `intake`, without following links."""
    for folder, folders, names in os.walk(directory):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in names + links:
            path = Path(folder) / name
            relative = str(path.relative_to(directory))
            if intake.wants(relative):
                _gather_one(path, relative, intake)


def _gather_one(path: Path, relative: str, intake: Intake) -> None:
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        intake.refuse(relative, "is a link or cannot be read")
        return
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            intake.refuse(relative, "is a special file")
            return
        intake.take(relative, status.st_size, file)


def clear(directory: Path) -> None:
    """Remove a directory and what is in it; a link is removed, not followed."""
    if directory.is_symlink():
        directory.unlink()
    else:
        shutil.rmtree(directory, ignore_errors=True)
