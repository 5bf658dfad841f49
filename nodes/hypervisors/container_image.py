# SPDX-License-Identifier: Apache-2.0
"""Tar files of containers' roots, and of files that are put into them."""

import io
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from nodes.hypervisors.faults import CallerFault


def packed(files: Mapping[str, bytes]) -> bytes:
    """Files by absolute path as a tar file.

    Raises:
        CallerFault: A path leads out of the root.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            path = Path(name.lstrip("/"))
            if ".." in path.parts or not path.parts:
                raise CallerFault(f"{name!r} is no path below the root")
            member = tarfile.TarInfo(str(path))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@contextmanager
def without_duplicates(path: Path) -> Iterator[Path]:
    """A tar file in which each path is once, as engines want it: the last of a name counts.

    That is the file itself, where it is so already, else a copy for as long as the block.

    Raises:
        CallerFault: It is no tar file.
    """
    try:
        with tarfile.open(path) as source:
            members = source.getmembers()
            last = {str(PurePosixPath(member.name)): member for member in members}
            if len(last) == len(members):
                yield path
                return
            with tempfile.NamedTemporaryFile(suffix=".tar") as copy:
                with tarfile.open(fileobj=copy, mode="w") as target:
                    for member in last.values():
                        content = source.extractfile(member) if member.isreg() else None
                        target.addfile(member, content)
                copy.flush()
                yield Path(copy.name)
    except tarfile.TarError as error:
        raise CallerFault(f"{path} is no tar file: {error}") from error


def plain(path: Path) -> bytes:
    """A tar file without device nodes: a container has those that its hypervisor makes.

    Raises:
        CallerFault: It is no tar file.
    """
    made = io.BytesIO()
    try:
        with tarfile.open(path) as source, tarfile.open(fileobj=made, mode="w") as target:
            for member in source:
                if not member.isdev():
                    content = source.extractfile(member) if member.isreg() else None
                    target.addfile(member, content)
    except tarfile.TarError as error:
        raise CallerFault(f"{path} is no tar file: {error}") from error
    return made.getvalue()
