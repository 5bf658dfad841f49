# SPDX-License-Identifier: Apache-2.0
r"""Files on a Hyper-V host: `FOLDER\GUEST\*`, `FOLDER\volumes\*`, `FOLDER\images\*`.

They travel packed, for Add-Content is slow: bytes are added to an archive, as Windows PowerShell
5.1 takes them (`-Encoding Byte`; 7 wants `-AsByteStream`). It is unpacked there, and what came is
compared by SHA-256. Paths are literal: none is ever taken for a pattern.
"""

import hashlib
import itertools
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import IO
from zipfile import ZIP_DEFLATED, ZipFile

from ci.errors import HypervouchError
from nodes.hypervisors import libvirt_files
from nodes.hypervisors.base import PREFIX, DiskFormat, GuestImage
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault
from nodes.hypervisors.hyperv_errors import RESOURCE_EXISTS
from nodes.hypervisors.hyperv_link import HyperVLink, step, wide

CHUNK = 256 << 10
SUFFIX = ".vhdx"
_AGAIN_S = 0.5
_SHARED = ("\\\\", "c:\\clusterstorage\\")


class Files:
    """Our folder on a host.

    Attributes:
        is_shared: Whether other hosts see it too: a share, or a cluster's volume.
    """

    def __init__(self, link: HyperVLink) -> None:
        self._link = link
        self._folder = PureWindowsPath(link.where.folder)
        self.is_shared = link.where.folder.lower().startswith(_SHARED)

    def guest(self, name: str, file: str = "") -> str:
        """A guest's folder, or a file in it."""
        return str(self._folder / name / file)

    def free_root(self, name: str) -> str:
        """A file for a guest's disk that is not there yet: checkpoints may need one that is."""
        names = (f"root-{number}" for number in itertools.count(2))
        paths = (self.guest(name, f"{one}{SUFFIX}") for one in itertools.chain(["root"], names))
        return next(path for path in paths if not self.is_there(path))

    def volume(self, name: str) -> str:
        """A volume's file."""
        return str(self._folder / "volumes" / f"{name}{SUFFIX}")

    def image(self, image: GuestImage) -> str:
        """A cached image's file."""
        return str(self._folder / "images" / f"{image.cache_name()}{SUFFIX}")

    def _names(self, doing: str, folder: PureWindowsPath) -> list[str]:
        found = self._link.find(
            doing,
            step("Get-ChildItem", LiteralPath=str(folder)),
            step("Select-Object", Property=["Name"]),
        )
        return [str(one["Name"]) for one in found]

    def left(self, taken: Iterable[str]) -> list[str]:
        """Guests' folders in which no machine is; not on a share, where other hosts' guests are.

        Args:
            taken: Folders of machines.
        """
        if self.is_shared:
            return []
        kept = {part.lower() for path in taken for part in PureWindowsPath(path).parts}
        names = self._names("list the guests' folders", self._folder)
        return sorted(one for one in names if one.startswith(PREFIX) and one.lower() not in kept)

    def volumes(self) -> dict[str, str]:
        """Volumes by their names, with their paths."""
        names = self._names("list the volumes", self._folder / "volumes")
        stems = [name[: -len(SUFFIX)] for name in names if name.lower().endswith(SUFFIX)]
        # A checkpoint's difference lies beside its volume: `NAME_GUID.avhdx`.
        return {stem: self.volume(stem) for stem in stems if stem.startswith(PREFIX)}

    def is_there(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        told = self._link.run(f"look for {path}", step("Test-Path", LiteralPath=path))
        return told == [True]

    def claim(self, name: str) -> None:
        """Make a guest's folder, which one launch alone can: whoever made it may undo it.

        Raises:
            CallerFault: It is there already.
        """
        folder = self.guest(name)
        made = step("New-Item", Path=folder, ItemType="Directory")
        try:
            self._link.run(f"make {folder}", made, step("Out-Null"))
        except CallerFault as error:
            if getattr(error.__cause__, "category", None) != RESOURCE_EXISTS:
                raise
            raise CallerFault(
                f"there is a guest {name} already, or a folder that one has left: {folder}",
                hint="choose another name, or delete that one",
            ) from error

    def need_folder(self, path: str) -> None:
        """Make a file's folder with those above it, if it is not there."""
        folder = str(PureWindowsPath(path).parent)
        made = step("New-Item", Path=folder, ItemType="Directory", Force=None)
        self._link.run(f"make {folder}", made, step("Out-Null"))

    def empty_disk(self, path: str, size: int) -> None:
        """A dynamic VHDX of `size` bytes."""
        self.need_folder(path)
        made = step("New-VHD", Path=path, SizeBytes=wide(size), Dynamic=None)
        self._link.run(f"make {path}", made, step("Out-Null"))

    def put_image(self, image: GuestImage, path: str) -> None:
        """Write an image as a VHDX; a cached one is copied on the host.

        Raises:
            CallerFault: Its disk is not there, or has another format than it says.
            NodeFault: It arrived broken.
        """
        self.need_folder(path)
        if image.id and path != (cached := self.image(image)) and self.is_there(cached):
            copy = step("Copy-Item", LiteralPath=cached, Destination=path)
            self._link.run(f"copy a cached image to {path}", copy)
            return
        with libvirt_files.converted(image, DiskFormat.VHDX) as disk:
            self.put_file(disk, path)

    def put_bytes(self, content: bytes, path: str) -> None:
        """Write a file with that content."""
        with NamedTemporaryFile(prefix="hv-upload-") as file:
            file.write(content)
            file.flush()
            self.put_file(Path(file.name), path)

    def put_file(self, source: Path, path: str) -> None:
        """Write a file as it is here.

        Raises:
            NodeFault: It arrived broken.
        """
        doing, packed, target = f"write {path}", f"{path}.zip", PureWindowsPath(path)
        self.need_folder(path)
        try:
            with TemporaryFile(prefix="hv-upload-") as file:
                with ZipFile(file, "w", ZIP_DEFLATED, compresslevel=1) as archive:
                    archive.write(source, target.name)
                file.seek(0)
                self._send(doing, file, packed)
            to = str(target.parent)
            self._link.run(
                doing, step("Expand-Archive", LiteralPath=packed, DestinationPath=to, Force=None)
            )
        except BaseException:
            # The first error is the one to be told.
            with suppress(HypervouchError):
                self.remove(packed)
            raise
        self.remove(packed)
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        told = self._link.run(
            doing,
            step("Get-FileHash", LiteralPath=path, Algorithm="SHA256"),
            step("Select-Object", Property=["Hash"]),
        )
        if not told or str(told[0]["Hash"]).lower() != digest:
            raise NodeFault(f"cannot {doing}: it arrived with other bytes", hint="check its disk")

    def _send(self, doing: str, file: IO[bytes], path: str) -> None:
        made = step("New-Item", Path=path, ItemType="File", Force=None)
        self._link.run(doing, made, step("Out-Null"))
        while chunk := file.read(CHUNK):
            more = step("Add-Content", LiteralPath=path, Value=chunk, Encoding="Byte")
            self._link.run(doing, more)

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all in it; repeatable.

        A host merges checkpoints after it has forgotten them, and holds their files meanwhile.

        Raises:
            TransientFault: It was held all the time.
        """
        deadline = time.monotonic() + self._link.timeout_s
        parameters = {"Recurse": None, "Force": None, "Confirm": False}
        while self.is_there(path):
            is_late = time.monotonic() >= deadline
            try:
                self._link.run(
                    f"remove {path}", step("Remove-Item", LiteralPath=path, **parameters)
                )
            except TransientFault:
                if is_late:
                    raise
            else:
                # One that is open goes when its last user lets go of it, and is seen until then.
                if not self.is_there(path):
                    return
                if is_late:
                    raise TransientFault(
                        f"cannot remove {path}: it was removed, and is still there",
                        hint="look who has it open",
                        retryable=True,
                    )
            time.sleep(_AGAIN_S)
