# SPDX-License-Identifier: Apache-2.0
"""Bare machines under Ironic: `ironic://user@host:6385?node=PATTERN&class=CLASS&images=URL`.

The machines that the URL names are given to us: `launch` deploys an image onto a free one of
them. Which guest a node is stands in its `extra` under `hypervouch`, and its `instance_uuid`
is made of the guest's name, so that two processes cannot take one node. `cleanup` takes back only
nodes that the URL names and that carry such a mark with our prefix.

Images are disks. The conductor fetches them from the folder `images`; without one it is told the
file, which works where it runs on this machine and is allowed to read there. A machine has the
cards that are in it: a plain card that a guest asks for changes nothing.
"""

import base64
import gzip
import hashlib
import secrets
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from ci.errors import NodeUnavailable
from ci.model.evidence import System
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors import libvirt_files as files
from nodes.hypervisors.base import (
    PREFIX,
    Access,
    Console,
    GuestImage,
    GuestInfo,
    GuestSpec,
    GuestState,
    HostStatus,
    Hypervisor,
    Inventory,
)
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from nodes.hypervisors.ironic_link import (
    FAILED,
    IronicLink,
    Node,
    Taken,
    address,
    failed,
    short,
)
from nodes.hypervisors.ironic_missing import MISSING
from nodes.hypervisors.local import check_name, check_properties, check_size
from nodes.hypervisors.tcp_console import TcpConsole

MARK = "hypervouch"
_FAKE = "fake-hardware"
_REAL = frozenset({Grade.BARE, Grade.NESTED})
REASON = "hypervouch: maintenance is tried"
_NAMESPACE = uuid.UUID("6f1c3d1e-2b58-5a53-9b0e-1d9a0f4c7e11")
_TYPES, _MODES = frozenset({"ironic", "baremetal"}), frozenset({"baremetal"})
_ON, _OFF = "power on", "power off"
_OFFERS = {"enroll": ("manage", "provide"), "manageable": ("provide",), "available": ()}
_REACHES = {"manage": "manageable", "provide": "available"}


def connect(url: str, access: Access) -> "IronicHypervisor":
    """Connect to an Ironic.

    Raises:
        CallerFault: The URL is wrong, names no nodes, or there is no password.
        TransientFault: It does not answer.
        NodeFault: It refuses us, or showed another certificate.
    """
    link = IronicLink(address(url), access)
    try:
        return IronicHypervisor(link, access)
    except BaseException:
        link.close()
        raise


class IronicHypervisor(Hypervisor):
    """The nodes of a URL; see `nodes.hypervisors.base` for the contract."""

    missing: ClassVar[Mapping[Feature, str]] = MISSING
    boots_disks: ClassVar[bool] = True

    def __init__(self, link: IronicLink, access: Access) -> None:
        """See that there are nodes.

        Raises:
            CallerFault: The URL fits none.
        """
        self._link = link
        self._access = access
        nodes = list(self._nodes())
        kinds = _kinds(nodes)
        if not nodes:
            raise CallerFault(
                f"no node of {link.where.host} fits {link.where.node}",
                hint="look at node and class in the URL: openstack baremetal node list",
            )
        if access.grade in _REAL and kinds == {_FAKE}:
            raise CallerFault(
                f"the nodes are {_FAKE}, which is no evidence of grade {access.grade}",
                hint=f"say grade: {Grade.SIMULATOR}",
            )
        ours = (_guest_of(node).startswith(PREFIX) or _is_free(node) for node in nodes)
        self.guests_at_once = sum(ours) or 1

    # Host --------------------------------------------------------------------------------

    def system(self) -> System:
        """Nova's column of Ironic, with the API's version and the kinds of hardware."""
        told = self._link.root.get("default_version", {})
        kinds = sorted(_kinds(self._nodes()))
        return System(
            key="ironic",
            title="Ironic",
            grade=self._access.grade,
            versions={"api": str(told.get("version", "")), "hardware": ", ".join(kinds)},
        )

    def status(self) -> HostStatus:
        """The sums of the nodes that are for us; uptime and address are not known of them."""
        nodes = list(self._nodes())
        return HostStatus(
            hostname=f"{self._link.where.node} on {self._link.where.host}",
            address=self._link.where.host,
            uptime_s=0.0,
            memory_mib=sum(_number(node, "memory_mb") for node in nodes),
            cpus=sum(_number(node, "cpus") for node in nodes),
        )

    def inventory(self) -> Inventory:
        """Each node that the URL names and that is not free: ours by the guest's name."""
        return Inventory(
            guests={
                short(_guest_of(node) or node.get("name") or node.get("uuid")): _state(node)
                for node in self._nodes()
                if _guest_of(node) or node.get("provision_state") not in _OFFERS
            }
        )

    def cleanup(self) -> tuple[str, ...]:
        """Take back the nodes that carry our mark and our prefix.

        A node that cannot be cleaned does not keep the others from it.
        """
        ours = [node for node in self._nodes() if _guest_of(node).startswith(PREFIX)]
        first: NodeUnavailable | CallerFault | None = None
        for node in ours:
            try:
                self._take_back(_guest_of(node), node)
            except (NodeUnavailable, CallerFault) as error:
                first = first or error
        if first is not None:
            raise first
        return tuple(sorted(short(_guest_of(node)) for node in ours))

    def close(self) -> None:
        """Close the connections."""
        self._link.close()

    # Guests ------------------------------------------------------------------------------

    def launch(self, spec: GuestSpec) -> None:
        """Take a free node and deploy the image onto it."""
        self._check(spec)
        if self._find(spec.name) is not None:
            raise CallerFault(f"there is a guest {spec.name} already")
        node = self._claim(spec)
        try:
            more: dict[str, Any] = {}
            if spec.config_drive is not None:
                more["configdrive"] = _drive(spec.config_drive)
            doing = f"deploy {spec.name}"
            self._link.provision(doing, node["uuid"], "active", "active", Feature.LAUNCH, **more)
            self.start(spec.name)
        except BaseException:
            # The first error is the one to be told.
            with suppress(CallerFault, NodeFault, TransientFault, Unsupported):
                self._undo(spec.name, str(node["uuid"]))
            raise

    def _undo(self, name: str, uid: str) -> None:
        """Give back the very node that a launch has taken."""
        node = self._link.node(uid)
        if _guest_of(node) == name:
            self._take_back(name, node)

    def _check(self, spec: GuestSpec) -> None:
        check_name(spec.name)
        check_size(spec.memory_mib, spec.cpus)
        self.refuse_missing(spec)
        _need_disk(spec.image)

    def _claim(self, spec: GuestSpec) -> Node:
        """A free node, offered where it is not yet, and marked as ours."""
        image = self._image(spec.image, spec.firmware)
        refused: TransientFault | None = None
        for node in self._nodes():
            if not _is_free(node) or not _fits(node, spec):
                continue
            name, uid = node.get("name") or node["uuid"], str(node["uuid"])
            for step in _OFFERS[str(node["provision_state"])]:
                doing = f"{step} node {name}"
                self._link.provision(doing, uid, step, _REACHES[step], Feature.LAUNCH)
            changes = [
                _add("/instance_uuid", _instance(spec.name)),
                _add(f"/extra/{MARK}", spec.name),
                *(_add(f"/instance_info/{key}", value) for key, value in image.items()),
            ]
            try:
                return self._link.patch(f"take node {name}", uid, changes, again=False)
            except Taken as error:  # somebody else was quicker
                refused = error
            except (NodeFault, TransientFault):
                # Perhaps it was done, and only the answer was lost.
                with suppress(CallerFault, NodeFault, TransientFault):
                    self._give_back(spec.name, uid)
                raise
        if self._find(spec.name) is not None:
            raise CallerFault(f"there is a guest {spec.name} already") from refused
        raise TransientFault(
            f"no machine is free for {spec.name}" + (f": {refused.message}" if refused else ""),
            hint="wait for one, or give more: node and class in the URL",
            retryable=True,
        )

    def _give_back(self, name: str, uid: str) -> None:
        node = self._link.node(uid)
        if _guest_of(node) == name and node.get("provision_state") in _OFFERS:
            self._take_back(name, node)

    def _image(self, image: GuestImage, firmware: str = "") -> dict[str, object]:
        """What a node's `instance_info` says of an image."""
        disk = _need_disk(image)
        folder = self._link.where.images
        told: dict[str, object] = {
            "image_source": f"{folder}/{quote(disk.name)}" if folder else disk.resolve().as_uri(),
            "image_os_hash_algo": "sha256",
            "image_os_hash_value": _digest(disk),
            "image_disk_format": image.disk_format.value,
        }
        if firmware:
            told["capabilities"] = {"boot_mode": firmware}
        return told

    def info(self, name: str) -> GuestInfo:
        """What Ironic says; memory and processors as the operator or an inspection told it."""
        node = self._guest(name)
        return GuestInfo(
            state=_state(node),
            memory_mib=_number(node, "memory_mb"),
            cpus=_number(node, "cpus"),
        )

    def power_off(self, name: str) -> None:
        """Off at once."""
        node = self._guest(name)
        if node.get("power_state") != _OFF:
            self._power(f"power off {name}", node, _OFF, _OFF, Feature.TERMINATE)

    def delete(self, name: str) -> None:
        """Undeploy the node: it is cleaned as Ironic's operator wants it, and free again."""
        check_name(name)
        node = self._find(name)
        if node is not None:
            self._take_back(name, node)

    def _take_back(self, name: str, node: Node) -> None:
        uid, state = str(node["uuid"]), str(node.get("provision_state"))
        doing = f"take back {name}"
        if state == "clean failed":
            raise failed(doing, node)
        if state in {"cleaning", "clean wait", "deleting"}:
            self._link.settle(doing, uid, "available")
        elif state not in _OFFERS:
            self._link.provision(doing, uid, "deleted", "available", Feature.TERMINATE)
        left = self._link.node(uid)
        changes = [{"op": "remove", "path": f"/extra/{MARK}"}]
        if left.get("instance_uuid"):
            changes.append({"op": "remove", "path": "/instance_uuid"})
        # The mark goes last: what dies before is found by the next cleaning.
        self._link.patch(doing, uid, changes)

    def console(self, name: str) -> Console:
        """The serial line, where the node's driver gives it as a TCP port (`ipmitool-socat`)."""
        node = self._guest(name)
        feature = Feature.CONSOLE_SERIAL_INTERACTIVE
        path = f"/v1/nodes/{node['uuid']}/states/console"
        doing = f"open the console of {name}"
        told = self._link.call(doing, "GET", path, feature=feature)
        if not told.get("console_enabled"):
            self._link.call(doing, "PUT", path, {"enabled": True}, feature=feature)
            told = self._enabled(doing, path, feature)
        place = told.get("console_info") or {}
        parts = urlsplit(str(place.get("url", "")))
        if parts.scheme != "tcp" or not parts.hostname or not parts.port:
            kind = place.get("type") or node.get("console_interface")
            raise Unsupported(feature, f"the node's console, {kind}, is no TCP port")
        return TcpConsole(parts.hostname, parts.port, self._link.timeout_s)

    def _enabled(self, doing: str, path: str, feature: Feature) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for told in self._link.looks(doing, path, self._link.timeout_s, feature):
            if told.get("console_enabled"):
                break
        return told

    def start(self, name: str) -> None:
        """Power on."""
        node = self._guest(name)
        if node.get("power_state") != _ON:
            self._power(f"start {name}", node, _ON, _ON, Feature.REBOOT)

    def shutdown(self, name: str) -> None:
        """Press the power button (ACPI), and wait."""
        node = self._guest(name)
        self._power(f"shut down {name}", node, "soft power off", _OFF, Feature.TERMINATE)

    def reboot(self, name: str, *, hard: bool = False) -> None:
        """Off and on, hard or by asking."""
        node = self._guest(name)
        target = "rebooting" if hard else "soft rebooting"
        self._power(f"reboot {name}", node, target, _ON, Feature.REBOOT)

    def rebuild(self, name: str, image: GuestImage) -> None:
        """Write another image onto the same node."""
        check_properties(image, _TYPES, _MODES)
        uid = str(self._guest(name)["uuid"])
        doing = f"rebuild {name}"
        told = self._image(image)
        changes = [_add(f"/instance_info/{key}", value) for key, value in told.items()]
        self._link.patch(doing, uid, changes)
        self._link.provision(doing, uid, "rebuild", "active", Feature.REBUILD)
        self.start(name)

    def rescue(self, name: str, image: GuestImage) -> None:
        """Boot the rescue RAM disk of Ironic's operator; it takes no other, as Nova's driver."""
        del image
        node = self._guest(name)
        if node.get("provision_state") == "rescue":
            raise CallerFault(f"{name} is rescued already")
        # The password is for root there; nobody is told it, since nobody logs in.
        word = secrets.token_urlsafe(24)
        uid = str(node["uuid"])
        doing = f"rescue {name}"
        feature = Feature.RESCUE
        self._link.provision(doing, uid, "rescue", "rescue", feature, rescue_password=word)

    def unrescue(self, name: str) -> None:
        """Boot its own disk again."""
        node = self._guest(name)
        if node.get("provision_state") != "rescue":
            raise CallerFault(f"{name} is not rescued")
        doing = f"unrescue {name}"
        self._link.provision(doing, str(node["uuid"]), "unrescue", "active", Feature.RESCUE)
        self.start(name)

    def maintenance(self, *, on: bool) -> None:
        """Ironic's own mode, for each node that is for us; one that others put in stays there."""
        for node in self._nodes():
            path = f"/v1/nodes/{node['uuid']}/maintenance"
            doing = f"change the maintenance of {node.get('name') or node['uuid']}"
            feature = Feature.MAINTENANCE_MODE
            if on and not node.get("maintenance"):
                self._link.call(doing, "PUT", path, {"reason": REASON}, feature=feature)
            elif not on and node.get("maintenance") and node.get("maintenance_reason") == REASON:
                self._link.call(doing, "DELETE", path, feature=feature)

    # Nodes -------------------------------------------------------------------------------

    def _power(self, doing: str, node: Node, target: str, wanted: str, feature: Feature) -> None:
        self._link.power(doing, str(node["uuid"]), target, wanted, feature)

    def _nodes(self) -> Iterator[Node]:
        """All that the URL names."""
        where = self._link.where
        filters = {"resource_class": where.resource_class} if where.resource_class else {}
        yield from (node for node in self._link.nodes(**filters) if self._is_named(node))

    def _is_named(self, node: Node) -> bool:
        where = self._link.where
        has_class = where.resource_class in {"", node.get("resource_class")}
        return has_class and fnmatchcase(str(node.get("name") or ""), where.node)

    def _find(self, name: str) -> Node | None:
        """The node that is a guest, by its instance; by its mark where that is gone already."""
        for node in self._link.nodes(instance_uuid=_instance(name)):
            if _guest_of(node) == name and self._is_named(node):
                return node
        return next((node for node in self._nodes() if _guest_of(node) == name), None)

    def _guest(self, name: str) -> Node:
        check_name(name)
        node = self._find(name)
        if node is None:
            raise CallerFault(f"there is no guest {name}", hint="look at the inventory")
        return node


def _kinds(nodes: Iterable[Node]) -> set[str]:
    return {short(node.get("driver") or "unknown") for node in nodes}


def _guest_of(node: Node) -> str:
    extra = node.get("extra")
    return str(extra.get(MARK, "")) if isinstance(extra, dict) else ""


def _is_free(node: Node) -> bool:
    taken = node.get("instance_uuid") or node.get("maintenance") or _guest_of(node)
    return not taken and node.get("provision_state") in _OFFERS


def _fits(node: Node, spec: GuestSpec) -> bool:
    """Whether it is as large as asked for; one of which nothing is known is."""
    memory, cpus = _number(node, "memory_mb"), _number(node, "cpus")
    return not (0 < memory < spec.memory_mib) and not (0 < cpus < spec.cpus)


def _state(node: Node) -> GuestState:
    if node.get("provision_state") in FAILED:
        return GuestState.CRASHED
    return GuestState.RUNNING if node.get("power_state") == _ON else GuestState.SHUTOFF


def _number(node: Node, key: str) -> int:
    """A property that its operator wrote, perhaps as text, perhaps not at all."""
    properties = node.get("properties")
    with suppress(TypeError, ValueError):
        return int((properties or {}).get(key) or 0)
    return 0


def _instance(name: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, name))


def _add(path: str, value: object) -> dict[str, object]:
    return {"op": "add", "path": path, "value": value}


def _need_disk(image: GuestImage) -> Path:
    check_properties(image, _TYPES, _MODES)
    if image.disk is None:
        raise CallerFault(
            "Ironic writes disks, and the image has none", hint="nodes.images.bootable makes one"
        )
    return image.disk


def _digest(disk: Path) -> str:
    try:
        with disk.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CallerFault(f"disk {disk} cannot be read: {error.strerror}") from error


def _drive(content: Mapping[str, bytes]) -> str:
    return base64.b64encode(gzip.compress(files.config_drive(content), mtime=0)).decode()
