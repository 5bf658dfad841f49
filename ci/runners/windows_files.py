# SPDX-License-Identifier: Apache-2.0
"""How trees and files travel to and from Windows: lines of cmd.exe and tar.exe."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from ci.cancel import Deadline
from ci.errors import CollectError, HypervouchError, NodeUnavailable
from ci.runners import windows_words
from ci.runners.archive import MAX_FILES, Intake, unpack

MAX_LISTING_BYTES = 8 << 20


class Readable(Protocol):
    """What tarfile reads from."""

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""
        ...


class WindowsFiles(ABC):
    """`put_tree` and `fetch` of a session on Windows."""

    @property
    @abstractmethod
    def _where(self) -> str:
        """The node, for messages."""

    @abstractmethod
    def _take_over(self) -> None:
        """End what sessions in this working directory left running; ours may be among it.

        Raises:
            NodeUnavailable: It cannot be ended.
        """

    @abstractmethod
    def _tool(
        self, line: str, deadline: Deadline | None, feed: IO[bytes] | None = None
    ) -> tuple[int, bytes]:
        """Run one of our own lines; returns its status and what it said.

        Raises:
            NodeUnavailable: The node refused it or went away.
        """

    @abstractmethod
    def _said_by(
        self, line: str, names: bytes, deadline: Deadline | None
    ) -> AbstractContextManager[Readable]:
        """Run one of our own lines with standard input; gives its standard output."""

    def put_tree(self, tar: IO[bytes], directory: str, deadline: Deadline) -> None:
        """End what an earlier holder left, then unpack a tar stream into `directory`."""
        where = windows_words.folder(directory)
        if deadline.passed:
            raise deadline.error()
        self._take_over()
        status, said = self._tool(windows_words.clear(where), deadline)
        if status == 0:
            status, said = self._tool(windows_words.unpack(where), deadline, tar)
        if status:
            text = said.decode("utf-8", "replace").strip().splitlines()
            raise NodeUnavailable(
                f"node {self._where} could not unpack the tree: {(text or [str(status)])[-1]}",
                hint="check its free disk, that nothing holds the folder, and that it has tar",
            )

    def fetch(
        self,
        patterns: Sequence[str],
        *,
        directory: str,
        target: Path,
        limit_bytes: int,
        deadline: Deadline | None = None,
    ) -> tuple[Path, ...]:
        """Bring home the files that match; see the contract in `ci.runners.base`."""
        intake = Intake(target, patterns, limit_bytes)
        try:
            where = windows_words.folder(directory)
            status, _ = self._tool(windows_words.exists(where), deadline)
            if status == windows_words.NOT_THERE:
                intake.refuse(directory, "is not there")
                return intake.finish()
            if wanted := self._wanted(where, intake, limit_bytes, deadline):
                names = windows_words.names(wanted)
                with self._said_by(windows_words.pack(where), names, deadline) as stream:
                    unpack(stream, intake)  # type: ignore[arg-type]
        except CollectError:
            raise
        except HypervouchError as error:
            raise CollectError(error.message, hint=error.hint, retryable=True) from error
        return intake.finish()

    def _wanted(
        self, where: str, intake: Intake, limit_bytes: int, deadline: Deadline | None
    ) -> list[str]:
        """Names of what is to be packed; whatever is not is refused."""
        _, said = self._tool(windows_words.listing(where), deadline)
        wanted: list[str] = []
        for entry in windows_words.entries(said, where):
            if not intake.wants(entry.name):
                continue
            if not entry.plain:
                intake.refuse(entry.name, "is a link or a special file")
            elif entry.size_bytes > limit_bytes:
                intake.refuse(entry.name, f"is larger than {limit_bytes} bytes")
            elif len(wanted) <= MAX_FILES:
                wanted.append(entry.name)
        return wanted

    def _check_size(self, size_bytes: int) -> None:
        """Refuse a list, or a complaint, that only fills our memory."""
        if size_bytes > MAX_LISTING_BYTES:
            raise NodeUnavailable(f"node {self._where} lists too many files")
