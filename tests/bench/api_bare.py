# SPDX-License-Identifier: Apache-2.0
"""The same operations on hypervisors with an API of their own, by the bare client libraries.

Each class is as plain as it can be: pyvmomi, XenAPI, pypsrp and httpx as their makers show them,
one thread, no errors translated, no look at a state before it is changed, and a task asked again
at once until it has ended. `launch` makes the calls that the adapter makes, in its order.
"""

import hashlib
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Protocol
from urllib.parse import quote, urlencode, urlsplit
from zipfile import ZIP_DEFLATED, ZipFile

import httpx
import XenAPI
from pypsrp.powershell import PowerShell, RunspacePool
from pypsrp.serializer import TaggedValue
from pypsrp.wsman import WSMan
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl

from nodes.hypervisors import vcenter_devices
from nodes.hypervisors.base import Access
from nodes.hypervisors.hyperv_files import CHUNK
from nodes.hypervisors.ironic_link import MICROVERSION
from nodes.hypervisors.xenserver_disks import MARK as XEN_MARK
from nodes.hypervisors.xenserver_disks import OWN, QOS
from nodes.hypervisors.xenserver_machines import machine

PAGE = 500
TASK_S = 120.0
PORT = 30000
HOME = "bench"
_FOLDER = "C:\\hypervouch"


class Bare(Protocol):
    """What each of them has; the guest has the name that `spec` gives."""

    def inventory(self) -> int:
        """Machines with their states and snapshots, volumes, networks; how many machines."""
        ...

    def close(self) -> None:
        """End the session."""
        ...


def _until(done: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + TASK_S
    while time.monotonic() < deadline:
        if told := done():
            return told
    raise TimeoutError("a task has not ended")


class Vcenter:
    """Pyvmomi; `DC0` and `DC0_C0` are the simulator's names."""

    def __init__(self, url: str, access: Access) -> None:
        parts = urlsplit(url)
        self._instance = SmartConnect(
            host=parts.hostname,
            port=parts.port,
            user=parts.username,
            pwd=access.password,
            sslContext=ssl.create_default_context(cafile=str(access.ca_file)),
        )
        self._content = self._instance.content
        self._datacenter = self._content.rootFolder.childEntity[0]
        self._folder = self._datacenter.vmFolder
        self._cluster = self._datacenter.hostFolder.childEntity[0]
        self._store = min(self._cluster.datastore, key=lambda one: one.name)
        # An attribute of pyvmomi's is a call each time.
        self._names = (self._datacenter.name, self._store.name)
        self._pool = self._cluster.resourcePool

    def close(self) -> None:
        Disconnect(self._instance)

    def status(self) -> None:
        self._props(self._cluster, "summary")
        self._all(vim.HostSystem, "runtime.bootTime", "summary.hardware.cpuModel")

    def inventory(self) -> int:
        found = self._all(vim.VirtualMachine, "name", "runtime.powerState", "snapshot")
        browser = self._props(self._store, "browser")["browser"]
        spec = vim.host.DatastoreBrowser.SearchSpec(matchPattern=["*.vmdk"])
        with suppress(vim.fault.FileNotFound):
            self._wait(browser.SearchDatastore_Task(self._path(f"{HOME}/volumes"), spec))
        for one in self._props(self._cluster, "network")["network"]:
            self._props(one, "name")
        return len(found)

    def info(self, name: str) -> None:
        paths = ("runtime.powerState", "config.hardware.memoryMB", "config.hardware.numCPU")
        told = self._props(self._find(name), *paths, "config.hardware.device", "runtime.host")
        self._props(told["runtime.host"], "name")

    def launch(self, name: str, disk: Path) -> None:
        assert self._find(name) is None
        folder = f"{HOME}/{name}"
        self._content.fileManager.MakeDirectory(
            self._path(folder), self._datacenter, createParentDirectories=True
        )
        root = self._path(f"{folder}/root.vmdk")
        spec = vim.VirtualDiskManager.FileBackedVirtualDiskSpec(
            diskType="preallocated",
            adapterType="lsiLogic",
            capacityKb=disk.stat().st_size >> 10,
        )
        manager = self._content.virtualDiskManager
        self._wait(manager.CreateVirtualDisk_Task(root, self._datacenter, spec))
        self._put(f"{folder}/root-flat.vmdk", disk)
        self._all(vim.VirtualMachine, "name")
        changes = [
            *vcenter_devices.controllers(),
            vcenter_devices.disk(root, 0),
            vcenter_devices.line(PORT),
            vcenter_devices.log(self._path(f"{folder}/console.log")),
        ]
        config = vim.vm.ConfigSpec(
            name=name,
            memoryMB=192,
            numCPUs=1,
            guestId="otherLinux64Guest",
            firmware="bios",
            files=vim.vm.FileInfo(vmPathName=f"[{self._names[1]}]"),
            extraConfig=[vim.option.OptionValue(key="bench", value="bench")],
            deviceChange=changes,
        )
        self._wait(self._folder.CreateVM_Task(config, self._pool))
        self.start(name)

    def start(self, name: str) -> None:
        self._wait(self._find(name).PowerOnVM_Task())

    def power_off(self, name: str) -> None:
        self._wait(self._find(name).PowerOffVM_Task())

    def snapshot(self, name: str) -> None:
        guest = self._find(name)
        self._wait(guest.CreateSnapshot_Task("bench", "", memory=False, quiesce=False))

    def delete(self, name: str) -> None:
        """Of a guest that runs."""
        guest = self._find(name)
        self._wait(guest.PowerOffVM_Task())
        self._wait(guest.Destroy_Task())
        files = self._content.fileManager
        with suppress(vim.fault.FileNotFound):
            path = self._path(f"{HOME}/{name}")
            self._wait(files.DeleteDatastoreFile_Task(path, self._datacenter))

    def _path(self, path: str) -> str:
        return f"[{self._names[1]}] {path}"

    def _find(self, name: str) -> Any:
        return self._content.searchIndex.FindChild(self._folder, name)

    def _put(self, path: str, disk: Path) -> None:
        stub = self._instance._stub
        told = urlencode({"dcPath": self._names[0], "dsName": self._names[1]})
        connection = stub.GetConnection()
        headers = {
            "Cookie": stub.cookie.partition(";")[0],
            "Content-Length": str(disk.stat().st_size),
        }
        with disk.open("rb") as file:
            connection.request("PUT", f"/folder/{quote(path)}?{told}", body=file, headers=headers)
            connection.getresponse().read()
        stub.ReturnConnection(connection)

    def _props(self, thing: Any, *paths: str) -> dict[str, Any]:
        collector = vmodl.query.PropertyCollector
        wanted = collector.FilterSpec(
            objectSet=[collector.ObjectSpec(obj=thing)],
            propSet=[collector.PropertySpec(type=type(thing), pathSet=list(paths))],
        )
        found = self._content.propertyCollector.RetrieveContents([wanted])
        return {one.name: one.val for one in found[0].propSet}

    def _all(self, kind: Any, *paths: str) -> list[Any]:
        collector = vmodl.query.PropertyCollector
        view = self._content.viewManager.CreateContainerView(self._cluster, [kind], True)  # noqa: FBT003 - pyvmomi's
        through = collector.TraversalSpec(
            name="view", type=vim.view.ContainerView, path="view", skip=False
        )
        wanted = collector.FilterSpec(
            objectSet=[collector.ObjectSpec(obj=view, skip=True, selectSet=[through])],
            propSet=[collector.PropertySpec(type=kind, pathSet=list(paths))],
        )
        reader, found = self._content.propertyCollector, []
        page = reader.RetrievePropertiesEx([wanted], collector.RetrieveOptions(maxObjects=PAGE))
        while page:
            found += page.objects
            page = reader.ContinueRetrievePropertiesEx(page.token) if page.token else None
        view.Destroy()
        return found

    def _wait(self, task: Any) -> None:
        def ended() -> bool:
            state = self._props(task, "info.state")["info.state"]
            if state == vim.TaskInfo.State.error:
                raise self._props(task, "info.error")["info.error"]
            return bool(state == vim.TaskInfo.State.success)

        _until(ended)


class XenServer:
    """XenAPI."""

    def __init__(self, url: str, access: Access) -> None:
        parts = urlsplit(url)
        self._place = (str(parts.hostname), int(parts.port or 0))
        self._context = ssl.create_default_context(cafile=str(access.ca_file))
        self._session = XenAPI.Session(f"https://{parts.hostname}:{parts.port}", ignore_ssl=True)
        self._session.login_with_password(parts.username, access.password, "1.0", "bench")
        self._x: Any = self._session.xenapi
        self._host = self._x.session.get_this_host(self._session._session)
        self._storage = next(iter(self._x.pool.get_all_records().values()))["default_SR"]

    def close(self) -> None:
        self._session.logout()

    def status(self) -> None:
        host = self._x.host.get_record(self._host)
        self._x.host_metrics.get_record(host["metrics"])

    def inventory(self) -> int:
        found = self._x.VM.get_all_records()
        self._x.network.get_all_records()
        self._x.VDI.get_all_records()
        kinds = ("is_a_template", "is_a_snapshot", "is_control_domain")
        return sum(not any(one[kind] for kind in kinds) for one in found.values())

    def info(self, name: str) -> None:
        told = self._x.VM.get_record(self._find(name))
        for one in told["VIFs"]:
            self._x.VIF.get_record(one)
        for one in told["VBDs"]:
            self._x.VDI.get_record(self._x.VBD.get_record(one)["VDI"])

    def launch(self, name: str, disk: Path, record: Mapping[str, Any]) -> None:
        """`record` is what the machine is made of."""
        assert not self._x.VM.get_by_name_label(name)
        vm = self._x.VM.create(dict(record))
        made = {
            "name_label": f"{name} root",
            "name_description": "",
            "SR": self._storage,
            "virtual_size": str(-(-disk.stat().st_size >> 20 << 20)),
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": XEN_MARK | {OWN: "1"},
        }
        vdi = self._wait(self._x.Async.VDI.create(made))
        self._upload(disk, vdi)
        link = {"VM": vm, "VDI": vdi, "userdevice": "0", "bootable": True, "mode": "RW"}
        more = {"type": "Disk", "empty": False, "other_config": {}, **QOS}
        self._x.VBD.create(link | more)
        self.start(name)

    def _upload(self, disk: Path, vdi: str) -> None:
        from http.client import HTTPSConnection  # noqa: PLC0415 - not the SDK's

        task = self._x.task.create("bench", "")
        told = {"session_id": self._session._session, "vdi": vdi, "format": "raw"}
        connection = HTTPSConnection(*self._place, context=self._context)
        with disk.open("rb") as file:
            place = f"/import_raw_vdi?{urlencode(told | {'task_id': task})}"
            connection.request(
                "PUT", place, body=file, headers={"Content-Length": str(disk.stat().st_size)}
            )
            connection.getresponse().read()
        connection.close()
        self._wait(task)

    def start(self, name: str) -> None:
        self._wait(self._x.Async.VM.start_on(self._find(name), self._host, False, False))  # noqa: FBT003 - XenAPI's

    def power_off(self, name: str) -> None:
        self._wait(self._x.Async.VM.hard_shutdown(self._find(name)))

    def snapshot(self, name: str) -> None:
        self._wait(self._x.Async.VM.snapshot(self._find(name), "bench", []))

    def delete(self, name: str) -> None:
        """Of a guest that runs and has a snapshot."""
        vm = self._find(name)
        self._wait(self._x.Async.VM.hard_shutdown(vm))
        for one in (*self._x.VM.get_record(vm)["snapshots"], vm):
            links = self._x.VM.get_record(one)["VBDs"]
            disks = [self._x.VBD.get_record(link)["VDI"] for link in links]
            self._wait(self._x.Async.VM.destroy(one))
            for disk in disks:
                self._wait(self._x.Async.VDI.destroy(disk))

    def _find(self, name: str) -> Any:
        return self._x.VM.get_by_name_label(name)[0]

    def _wait(self, task: str) -> str:
        def ended() -> str:
            told = self._x.task.get_record(task)
            if told["status"] == "failure":
                raise XenAPI.Failure(told["error_info"])
            return str(told["result"] or "-") if told["status"] == "success" else ""

        result: str = _until(ended)
        self._x.task.destroy(task)
        return result.removeprefix("<value>").removesuffix("</value>")


class HyperV:
    """Pypsrp: the same pipelines of cmdlets, in one runspace."""

    def __init__(self, url: str, access: Access) -> None:
        parts = urlsplit(url)
        self._wsman = WSMan(
            parts.hostname,
            port=parts.port,
            username=parts.username,
            password=access.password,
            ssl=True,
            auth="ntlm",
            cert_validation=str(access.ca_file),
            encryption="auto",
            max_envelope_size=500 << 10,
            no_proxy=True,
        )
        self._pool = RunspacePool(self._wsman)
        self._pool.open()

    def close(self) -> None:
        self._pool.close()
        self._wsman.close()

    def status(self) -> None:
        shown = ["Name", "LogicalProcessorCount", "MemoryCapacity"]
        self._run(("Get-VMHost", {}), ("Select-Object", {"Property": shown}))
        shown = ["Caption", "Version", "LastBootUpTime"]
        self._run(
            ("Get-CimInstance", {"ClassName": "Win32_OperatingSystem"}),
            ("Select-Object", {"Property": shown}),
        )

    def inventory(self) -> int:
        self._run(
            ("Get-VM", {}),
            ("Get-VMSnapshot", {}),
            ("Select-Object", {"Property": ["VMName", "Name"]}),
        )
        found = self._run(("Get-VM", {}), _MACHINE)
        self._run(("Test-Path", {"LiteralPath": f"{_FOLDER}\\volumes"}))
        self._run(("Get-VMSwitch", {}), ("Select-Object", {"Property": ["Name", "Notes"]}))
        return len(found)

    def info(self, name: str) -> None:
        vm = self._find(name)
        shown = ["Path", "ControllerNumber", "ControllerLocation"]
        self._on(vm, ("Get-VMHardDiskDrive", {}), ("Select-Object", {"Property": shown}))
        shown = ["MacAddress"]
        self._on(vm, ("Get-VMNetworkAdapter", {}), ("Select-Object", {"Property": shown}))

    def launch(self, name: str, disk: Path) -> None:
        """`disk` is a VHDX."""
        assert not self._run(("Get-VM", {}), _MACHINE, named=name)
        folder, root = f"{_FOLDER}\\{name}", f"{_FOLDER}\\{name}\\root.vhdx"
        self._run(("Test-Path", {"LiteralPath": folder}))
        for _ in range(2):
            made = {"Path": folder, "ItemType": "Directory", "Force": None}
            self._run(("New-Item", made), ("Out-Null", {}))
        self._put(disk, root)
        size = TaggedValue("I64", 192 << 20)
        new = {"Name": name, "Generation": 2, "MemoryStartupBytes": size, "VHDPath": root}
        more = {"BootDevice": "VHD", "Path": folder}
        told = self._run(("New-VM", new | more), ("Select-Object", {"Property": ["Id"]}))
        vm = str(told[0].extended_properties["Id"])
        self._on(vm, ("Set-VM", {"Notes": "hypervouch", "CheckpointType": "Standard"}))
        self._on(vm, ("Set-VMFirmware", {"EnableSecureBoot": "Off"}))
        self._on(vm, ("Set-VMMemory", {"StartupBytes": size, "DynamicMemoryEnabled": False}))
        self._on(vm, ("Set-VMProcessor", {"Count": 1}))
        self._on(vm, ("Get-VMNetworkAdapter", {}), ("Remove-VMNetworkAdapter", {}))
        self.start(name)

    def _put(self, disk: Path, path: str) -> None:
        packed = f"{path}.zip"
        with TemporaryFile() as file:
            with ZipFile(file, "w", ZIP_DEFLATED, compresslevel=1) as archive:
                archive.write(disk, path.rpartition("\\")[2])
            file.seek(0)
            made = {"Path": packed, "ItemType": "File", "Force": None}
            self._run(("New-Item", made), ("Out-Null", {}))
            while chunk := file.read(CHUNK):
                more = {"LiteralPath": packed, "Value": chunk, "Encoding": "Byte"}
                self._run(("Add-Content", more))
        to = {"LiteralPath": packed, "DestinationPath": path.rpartition("\\")[0], "Force": None}
        self._run(("Expand-Archive", to))
        self._remove(packed)
        hashlib.file_digest(BytesIO(disk.read_bytes()), "sha256").hexdigest()
        self._run(
            ("Get-FileHash", {"LiteralPath": path, "Algorithm": "SHA256"}),
            ("Select-Object", {"Property": ["Hash"]}),
        )

    def start(self, name: str) -> None:
        self._on(self._find(name), ("Start-VM", {}))

    def power_off(self, name: str) -> None:
        self._on(self._find(name), ("Stop-VM", {"TurnOff": None, "Force": None}))

    def snapshot(self, name: str) -> None:
        self._on(self._find(name), ("Checkpoint-VM", {"SnapshotName": "bench"}))

    def delete(self, name: str) -> None:
        """Of a guest that runs and has a checkpoint."""
        vm = self._find(name)
        self._on(vm, ("Stop-VM", {"TurnOff": None, "Force": None}))
        self._on(vm, ("Get-VMSnapshot", {}), ("Remove-VMSnapshot", {"Confirm": False}))
        self._on(vm, ("Remove-VM", {"Force": None}))
        self._remove(f"{_FOLDER}\\{name}")

    def _remove(self, path: str) -> None:
        gone = {"LiteralPath": path, "Recurse": None, "Force": None, "Confirm": False}
        self._run(("Remove-Item", gone))

    def _find(self, name: str) -> str:
        found = self._run(("Get-VM", {}), _MACHINE, named=name)
        return str(found[0].extended_properties["Id"])

    def _on(self, vm: str, *steps: "Cmdlet") -> list[Any]:
        return self._run(("Get-VM", {"Id": vm}), *steps)

    def _run(self, *steps: "Cmdlet", named: str = "") -> list[Any]:
        shell = PowerShell(self._pool)
        for at, (cmdlet, parameters) in enumerate(steps):
            shell.add_cmdlet(cmdlet)
            first = {"Name": named} if named and not at else {}
            for key, value in (parameters | first).items():
                shell.add_parameter(key, value)
        return list(shell.invoke())


Cmdlet = tuple[str, dict[str, Any]]
_SHOWN = ["Id", "Name", "State", "Notes", "ProcessorCount", "MemoryStartup"]
_MACHINE: Cmdlet = ("Select-Object", {"Property": _SHOWN})


class Ironic:
    """Its REST API by httpx; only what is read."""

    def __init__(self, url: str, access: Access) -> None:
        parts = urlsplit(url)
        self._client = httpx.Client(
            base_url=f"https://{parts.hostname}:{parts.port}",
            auth=(str(parts.username), access.password),
            verify=ssl.create_default_context(cafile=str(access.ca_file)),
            headers={"X-OpenStack-Ironic-API-Version": MICROVERSION},
        )

    def close(self) -> None:
        self._client.close()

    def status(self) -> None:
        self.inventory()

    def inventory(self) -> int:
        found, path = 0, f"/v1/nodes/detail?limit={PAGE}"
        while path:
            told = self._client.get(path).json()
            found += len(told["nodes"])
            path = told.get("next", "")
        return found


def machine_of(bare: XenServer, spec: Any) -> dict[str, Any]:
    """What XenServer makes a guest of."""
    return dict(machine(spec, bare._host))
