# SPDX-License-Identifier: Apache-2.0
"""Files of a vCenter's datastore: folders of guests, disks, volumes. All of it below one folder.

That folder is one cluster's own, for clusters may share a datastore, and even two vCenters may:
what one of them cleans up is never another's.
"""

from pathlib import Path
from typing import Any

from pyVmomi import vim

from nodes.hypervisors import libvirt_files as files
from nodes.hypervisors.base import PREFIX, GuestImage
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault
from nodes.hypervisors.vcenter_link import VcenterLink
from nodes.hypervisors.vcenter_place import Place

HOME = "hypervouch"
UPLOAD_S = 1800.0


class Datastore:
    """Paths are relative to the datastore where they are not called a path of vCenter.

    Attributes:
        home: The cluster's folder; those of its guests are in it, by their names.
        volumes: The folder of its volumes, in that one.
    """

    def __init__(self, link: VcenterLink, place: Place) -> None:
        self._link = link
        self._place = place
        self._browses: Any = None
        vcenter = str(link.content.about.instanceUuid or "")[:8]
        cluster = place.cluster._GetMoId()  # noqa: SLF001 - pyvmomi's own name for it
        self.home = f"{HOME}/{'.'.join(filter(None, (cluster, vcenter)))}"
        self.volumes = f"{self.home}/volumes"

    def path(self, path: str) -> str:
        """A path as vCenter writes it: `[datastore] folder/file`."""
        return f"[{self._place.datastore_name}] {path}"

    def volume_path(self, name: str) -> str:
        """Where a volume of ours is, as vCenter writes it."""
        return self.path(f"{self.volumes}/{name}.vmdk")

    def volume_names(self) -> set[str]:
        """The volumes in our folder."""
        spec = vim.host.DatastoreBrowser.SearchSpec(matchPattern=["*.vmdk"])
        names = {one.removesuffix(".vmdk") for one in self._list(self.volumes, spec)}
        return {name for name in names if not name.endswith("-flat")}

    def guest_folders(self) -> set[str]:
        """Names of the folders of guests, also of those that never came to be."""
        query = [vim.host.DatastoreBrowser.FolderQuery()]
        spec = vim.host.DatastoreBrowser.SearchSpec(query=query, matchPattern=[f"{PREFIX}*"])
        return {one for one in self._list(self.home, spec) if one.startswith(PREFIX)}

    def _list(self, folder: str, spec: Any) -> list[str]:
        """Names of what is in a folder and fits; nothing where it is not there."""
        browser = self._browser()
        try:
            found = self._link.run(
                f"list {folder}", lambda: browser.SearchDatastore_Task(self.path(folder), spec)
            )
        except (NodeFault, TransientFault) as error:
            if isinstance(error.__cause__, vim.fault.FileNotFound):
                return []
            raise
        return [str(one.path).rstrip("/").rpartition("/")[2] for one in found.file]

    def _browser(self) -> Any:
        """A datastore has one, and keeps it."""
        if self._browses is None:
            self._browses = self._link.props(self._place.datastore, "browser")["browser"]
        return self._browses

    def mkdir(self, folder: str) -> None:
        """Make a folder and those above it; repeatable."""
        self._mkdir(folder, parents=True)

    def claim(self, name: str) -> str:
        """Make a guest's folder, which one launch alone can: whoever made it may undo it.

        Raises:
            CallerFault: It is there already.
        """
        folder = f"{self.home}/{name}"
        try:
            made = self._mkdir(folder, parents=False)
        except (NodeFault, TransientFault) as error:
            if not isinstance(error.__cause__, vim.fault.FileNotFound):
                raise
            self.mkdir(self.home)  # the cluster's first guest
            made = self._mkdir(folder, parents=False)
        if not made:
            raise CallerFault(
                f"there is a guest {name} already, or a folder that one has left: "
                f"{self.path(folder)}",
                hint="choose another name, or delete that one",
            )
        return folder

    def _mkdir(self, folder: str, *, parents: bool) -> bool:
        """Whether it was not there before; of those above it that is not told."""
        manager, place = self._link.content.fileManager, self._place
        try:
            self._link.call(
                f"make {folder}",
                lambda: manager.MakeDirectory(
                    self.path(folder), place.datacenter, createParentDirectories=parents
                ),
            )
        except CallerFault as error:
            if not isinstance(error.__cause__, vim.fault.FileAlreadyExists):
                raise
            return False
        return True

    def remove(self, path: str) -> None:
        """Remove a file or a whole folder; repeatable."""
        manager, place = self._link.content.fileManager, self._place
        try:
            self._link.run(
                f"remove {path}",
                lambda: manager.DeleteDatastoreFile_Task(self.path(path), place.datacenter),
            )
        except (NodeFault, TransientFault) as error:
            if not isinstance(error.__cause__, vim.fault.FileNotFound):
                raise

    def put(self, path: str, content: Path | bytes) -> None:
        """Write a file."""
        place = self._place
        self._link.put(place.datacenter_name, place.datastore_name, path, content)

    def read(self, path: str, *, first: int = 0, last: int = 0) -> bytes:
        """A file, or only its first or its last bytes."""
        place = self._place
        return self._link.get(
            place.datacenter_name, place.datastore_name, path, first=first, last=last
        )

    def create_disk(self, path: str, size_kib: int, kind: str) -> None:
        """Make an empty virtual disk at a path of vCenter."""
        spec = vim.VirtualDiskManager.FileBackedVirtualDiskSpec(
            diskType=kind, adapterType="lsiLogic", capacityKb=size_kib
        )
        manager, place = self._link.content.virtualDiskManager, self._place
        self._link.run(
            f"make {path}",
            lambda: manager.CreateVirtualDisk_Task(path, place.datacenter, spec),
            timeout_s=UPLOAD_S,
        )

    def delete_disk(self, path: str) -> None:
        """Remove all files of a virtual disk at a path of vCenter; repeatable."""
        manager, place = self._link.content.virtualDiskManager, self._place
        try:
            self._link.run(
                f"remove {path}", lambda: manager.DeleteVirtualDisk_Task(path, place.datacenter)
            )
        except (NodeFault, TransientFault) as error:
            if not isinstance(error.__cause__, vim.fault.FileNotFound):
                raise

    def write_image(self, image: GuestImage, path: str) -> str:
        """A virtual disk with an image's content: made empty, then its flat file is written."""
        with files.as_raw(image) as raw:
            self.create_disk(self.path(path), -(-raw.stat().st_size // 1024), "preallocated")
            self.put(path.removesuffix(".vmdk") + "-flat.vmdk", raw)
        return self.path(path)
