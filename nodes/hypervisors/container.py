# SPDX-License-Identifier: Apache-2.0
"""Docker and Podman by their API sockets: a guest is a container whose first process is its init.

`docker:///run/docker.sock` and `podman:///run/podman/podman.sock`; without a path
(`docker://`, `podman://`) the engine's usual socket. The terminal of the first process is the
guest's serial line.

Everything of a guest carries its name: the container, its images `NAME:base` and `NAME:snap-TAG`,
and one network a card, `NAME-MAC`. So it is found and removed also by those who did not make it.
"""

import json
import os
import uuid
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from ci.errors import HypervouchError
from ci.model.evidence import System
from ci.model.feature import Feature
from nodes.hypervisors import local
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
    Nic,
)
from nodes.hypervisors.container_console import ContainerConsole
from nodes.hypervisors.container_engine import Engine
from nodes.hypervisors.container_image import packed, without_duplicates
from nodes.hypervisors.container_missing import MISSING
from nodes.hypervisors.container_words import cpus as _cpus
from nodes.hypervisors.container_words import mac as _mac
from nodes.hypervisors.container_words import memory as _memory
from nodes.hypervisors.container_words import network_name as _network_name
from nodes.hypervisors.container_words import started as _started
from nodes.hypervisors.container_words import state as _state
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported

_TITLES = {"docker": "Docker", "podman": "Podman"}
_MODES = frozenset({"exe"})
_TAR = {b"ustar": 257}
_INIT = ["/sbin/init"]
_OWNER, _LAUNCH = "hypervouch.owner", "hypervouch.launch"
_BASE, _SNAP, _RESIZED = "base", "snap-", "resized"
_LOGS = {"docker": "json-file", "podman": "k8s-file"}
_LOG_OPTIONS = {"max-size": "1m"}


def connect(url: str, access: Access) -> "ContainerHypervisor":
    """Connect to an engine.

    Args:
        url: `docker://[PATH_OF_SOCKET]` or `podman://[PATH_OF_SOCKET]`.
        access: How real it is.

    Raises:
        CallerFault: The URL names a host, or we may not use the socket.
        ConfigError: The library is not installed.
        TransientFault: Nobody answers.
        NodeFault: It answers with an error.
    """
    parts = urlsplit(url)
    if parts.netloc or parts.query or parts.scheme not in _TITLES:
        raise CallerFault(
            f"{url!r} is no socket of this machine", hint="for instance docker:///run/docker.sock"
        )
    path = unquote(parts.path) if parts.path not in {"", "/"} else default_socket(parts.scheme)
    return ContainerHypervisor(Engine(parts.scheme, Path(path), access), access)


def default_socket(key: str) -> str:
    """Where an engine listens by default: as root, or Podman for this user."""
    if key == "docker":
        return "/run/docker.sock"
    if os.geteuid() == 0:
        return "/run/podman/podman.sock"
    return f"{os.environ.get('XDG_RUNTIME_DIR', f'/run/user/{os.geteuid()}')}/podman/podman.sock"


class ContainerHypervisor(Hypervisor):
    """One engine. Safe from several threads, as the library is."""

    missing: ClassVar[Mapping[Feature, str]] = MISSING

    def __init__(self, engine: Engine, access: Access) -> None:
        self._engine = engine
        self._client = engine.client
        self._access = access
        self._ulimits = engine.ulimits()

    def system(self) -> System:
        """Docker or Podman, with the versions of engine, runtime and kernel."""
        with self._engine.faults("version"):
            told = self._client.version()
        versions = {self._engine.key: self._engine.version, "kernel": os.uname().release}
        for part in told.get("Components", []):
            name = part.get("Name", "").partition(" (")[0].replace("OCI Runtime", "runtime")
            if name in {"runc", "crun", "containerd", "runtime"}:
                versions[name] = part.get("Version", "").splitlines()[0]
        key = self._engine.key
        return System(key=key, title=_TITLES[key], grade=self._access.grade, versions=versions)

    def status(self) -> HostStatus:
        """This machine: the engine's socket is on it."""
        return local.status()

    def inventory(self) -> Inventory:
        """Containers, volumes, networks, and snapshots as `NAME:TAG`."""
        with self._engine.faults("engine"):
            guests = {one.name: _state(one) for one in self._containers()}
            volumes = frozenset(one.name for one in self._client.volumes.list())
            networks = frozenset(one.name for one in self._client.networks.list())
        snapshots = (
            f"{name}:{tag.removeprefix(_SNAP)}"
            for name, tag, _ in self._tags()
            if tag.startswith(_SNAP)
        )
        return Inventory(
            guests=guests, volumes=volumes, networks=networks, snapshots=frozenset(snapshots)
        )

    def cleanup(self) -> tuple[str, ...]:
        """Remove containers with our label and prefix; images, networks, volumes by the prefix."""
        found = self.inventory()
        with self._engine.faults("engine"):
            guests = {one.name for one in self._containers() if self._is_ours(one)}
        images = {name for name, _, _ in self._tags() if name.startswith(PREFIX)}
        for name in sorted(guests | (images - set(found.guests))):
            self.delete(name)
        volumes = sorted(name for name in found.volumes if name.startswith(PREFIX))
        for name in volumes:
            with self._engine.faults(f"volume {name}"):
                self._client.volumes.get(name).remove(force=True)
        for name in self.inventory().networks:
            if name.startswith(PREFIX):
                self._remove_network(name)
        return (*sorted(guests), *volumes)

    def close(self) -> None:
        """Close the library's connections."""
        self._client.close()

    # Guests ------------------------------------------------------------------------------

    def launch(self, spec: GuestSpec) -> None:
        """Import the image's tar file and run its init on a terminal."""
        self._check(spec)
        with local.claimed(str(self._engine.path), spec.name):
            if self._exists(spec.name):
                raise CallerFault(f"there is a guest {spec.name} already")
            known_as = uuid.uuid4().hex
            try:
                self._make(spec, known_as)
            except BaseException:
                # The first error is the one to be told.
                with suppress(HypervouchError):
                    self._undo(spec.name, known_as)
                raise

    def _make(self, spec: GuestSpec, known_as: str) -> None:
        self._import(spec.name, spec.image)
        image, size = f"{spec.name}:{_BASE}", (spec.memory_mib, spec.cpus)
        self._create(spec.name, image, *size, spec.nics, known_as=known_as)
        if spec.files:
            with self._engine.faults(f"guest {spec.name}"):
                self._get(spec.name).put_archive("/", packed(spec.files))
        self.start(spec.name)

    def _undo(self, name: str, known_as: str) -> None:
        """Remove what this very launch has made: somebody may have taken the name meanwhile."""
        with self._engine.faults(f"guest {name}"):
            found = next((one for one in self._containers() if one.name == name), None)
            if found is not None and found.labels.get(_LAUNCH) == known_as:
                found.remove(force=True, v=True)
        self._remove_images_and_networks(name)

    def info(self, name: str) -> GuestInfo:
        """State and limits, as the engine has them."""
        found = self._get(name)
        return GuestInfo(state=_state(found), memory_mib=_memory(found), cpus=_cpus(found))

    def start(self, name: str) -> None:
        """Start its init."""
        found = self._get(name)
        with self._engine.faults(f"guest {name}"):
            found.start()

    def power_off(self, name: str) -> None:
        """Kill its processes."""
        found = self._get(name)
        with self._engine.faults(f"guest {name}", repeatable=True):
            if _state(found) == GuestState.PAUSED:
                found.unpause()
            found.kill()
        self._await_end(name, found)

    def shutdown(self, name: str) -> None:
        """Send its init SIGTERM and wait; it is never killed here."""
        found = self._get(name)
        if _state(found) != GuestState.RUNNING:
            raise CallerFault(f"{name} is {_state(found)}", hint="only a running guest ends itself")
        with self._engine.faults(f"guest {name}"):
            found.kill(signal="SIGTERM")
        self._await_end(name, found)

    def reboot(self, name: str, *, hard: bool = False) -> None:
        """End its init, by SIGTERM or SIGKILL, and start it again; its files stay."""
        if hard:
            self.power_off(name)
        else:
            self.shutdown(name)
        self.start(name)

    def pause(self, name: str) -> None:
        """Freeze its processes."""
        found = self._get(name)
        if _state(found) == GuestState.SHUTOFF:
            raise CallerFault(f"{name} does not run")
        with self._engine.faults(f"guest {name}", repeatable=True):
            found.pause()

    def unpause(self, name: str) -> None:
        """Let them go on."""
        found = self._get(name)
        with self._engine.faults(f"guest {name}", repeatable=True):
            found.unpause()

    def delete(self, name: str) -> None:
        """Remove the container, its images and its networks.

        Raises:
            CallerFault: It lacks our mark.
        """
        local.check_name(name)
        if self._exists(name):
            found = self._get(name)
            if not self._is_ours(found):
                raise CallerFault(f"{name} is not ours: it lacks our label {_OWNER}")
            with self._engine.faults(f"guest {name}"):
                found.remove(force=True, v=True)
        self._remove_images_and_networks(name)

    def _is_ours(self, found: Any) -> bool:
        """By its label; one that an older version made is of an image that has its name."""
        if not found.name.startswith(PREFIX):
            return False
        if _OWNER in found.labels:
            return True
        try:
            with self._engine.faults(f"image of {found.name}"):
                tags = found.image.tags
        except CallerFault:  # somebody has removed it: ours keep theirs
            return False
        return found.name in {one.rpartition("/")[2].partition(":")[0] for one in tags}

    def _remove_images_and_networks(self, name: str) -> None:
        for owner, tag, reference in self._tags():
            if owner == name:
                with self._engine.faults(f"image {name}:{tag}"):
                    self._client.images.remove(reference, force=True)
        with self._engine.faults("networks"):
            networks = [one.name for one in self._client.networks.list()]
        for network in networks:
            if network.rpartition("-")[0] == name:
                self._remove_network(network)

    def console(self, name: str) -> Console:
        """The terminal of its first process, from now on."""
        found = self._get(name)
        if _state(found) in {GuestState.SHUTOFF, GuestState.CRASHED}:
            raise CallerFault(f"{name} does not run", hint="start it first")
        return ContainerConsole(
            self._engine.path, found.id, self._engine.api_version, self._access.timeout_s
        )

    def console_log(self, name: str, limit_bytes: int = 1 << 20) -> bytes:
        """What the engine logged since the last start; it keeps at most a MiB."""
        found = self._get(name)
        with self._engine.faults(f"guest {name}"):
            # Whole, and little: streamed, the library gives a terminal's log byte by byte.
            said = bytes(found.logs(since=_started(found)))
        return said[-limit_bytes:] if limit_bytes > 0 else b""

    def snapshot(self, name: str, tag: str) -> None:
        """Keep its file system as an image; its memory is not kept."""
        found = self._get(name)
        with self._engine.faults(f"guest {name}"):
            found.commit(repository=name, tag=f"{_SNAP}{tag}")

    def revert(self, name: str, tag: str) -> None:
        """Run a new container from the image, with the same limits and cards."""
        if (name, f"{_SNAP}{tag}") not in {(owner, kept) for owner, kept, _ in self._tags()}:
            self._get(name)
            raise CallerFault(f"{name} has no snapshot {tag}")
        self._renew(name, f"{name}:{_SNAP}{tag}")

    def rebuild(self, name: str, image: GuestImage) -> None:
        """Run a new container from another image, with the same limits and cards."""
        self._get(name)
        self._check_image(image)
        old = self._image_id(name, _BASE)
        self._import(name, image)
        self._renew(name, f"{name}:{_BASE}")
        self._forget_image(old)

    def resize(self, name: str, *, memory_mib: int, cpus: int) -> None:
        """Change its limits: as it runs on Docker, by a new container on Podman 4.

        Podman 4.3 has no such call in Docker's API, and after its own call it still tells the
        old limits.
        """
        found = self._get(name)
        if self._engine.key == "podman":
            old = self._image_id(name, _RESIZED)
            with self._engine.faults(f"guest {name}"):
                found.commit(repository=name, tag=_RESIZED)
            self._renew(name, f"{name}:{_RESIZED}", memory_mib=memory_mib, cpus=cpus)
            self._forget_image(old)
            return
        limit = memory_mib << 20
        with self._engine.faults(f"guest {name}"):
            found.update(mem_limit=limit, memswap_limit=limit, cpuset_cpus=self._cpuset(name, cpus))
        if _state(found) == GuestState.SHUTOFF:
            self.start(name)

    def cache_image(self, image: GuestImage) -> bool:
        """Import it once, under a name of its own; containers share its layer."""
        if not image.id:
            raise CallerFault("an image without an id cannot be cached", hint="set its id")
        if self._cached(image):
            return False
        self._check_image(image)
        self._import(image.cache_name(), image)
        return True

    def forget_image(self, image: GuestImage) -> None:
        """Remove that name; the layer goes with the last container of it."""
        self.delete(image.cache_name())

    # Cards -------------------------------------------------------------------------------

    def attach_interface(self, name: str, nic: Nic) -> None:
        """Connect it to a network of its own.

        Raises:
            Unsupported: The engine gives a card that is attached later an address of its own.
        """
        for feature, asked in (
            (Feature.ATTACH_TAGGED_INTERFACE, bool(nic.tag)),
            (Feature.NETWORKING_TOPOLOGY_FLAT, bool(nic.network)),
            (Feature.NETWORKING_SECURITYGROUPS, nic.rules is not None),
        ):
            if asked:
                self.cannot(feature)
        self._plug(self._get(name), nic)

    def detach_interface(self, name: str, nic: Nic) -> None:
        """Disconnect it and remove its network."""
        found = self._get(name)
        network = _network_name(name, nic)
        if network not in found.attrs["NetworkSettings"]["Networks"]:
            raise CallerFault(f"{name} has no card {nic.mac}")
        with self._engine.faults(f"network {network}"):
            self._client.networks.get(network).disconnect(found, force=True)
        self._remove_network(network)

    # Within ------------------------------------------------------------------------------

    def _check(self, spec: GuestSpec) -> None:
        local.check_name(spec.name)
        local.check_size(spec.memory_mib, spec.cpus)
        self._check_image(spec.image)
        self._cpuset(spec.name, spec.cpus)
        self.refuse_missing(spec)

    def _check_image(self, image: GuestImage) -> None:
        local.check_properties(image, frozenset({self._engine.key}), _MODES)
        local.refuse_disk(image, "a container")
        if not self._cached(image):
            local.need_file(image.root, "tar file of a root", _TAR)

    def _cached(self, image: GuestImage) -> str:
        """The engine's image of a cached one; empty where it is not cached."""
        return self._image_id(image.cache_name(), _BASE) if image.id else ""

    def _import(self, name: str, image: GuestImage) -> None:
        cached = self._cached(image)
        if cached:
            with self._engine.faults(f"image of {name}"):
                self._client.api.tag(cached, name, _BASE)
            return
        path = local.need_file(image.root, "tar file of a root", _TAR)
        with self._engine.faults(f"image of {name}"), without_duplicates(path) as clean:
            told = self._client.api.import_image_from_file(str(clean))
            last = json.loads(str(told).strip().splitlines()[-1])
            if "status" not in last:
                raise NodeFault(f"image of {name}: {last.get('error', last)}")
            self._client.api.tag(last["status"], name, _BASE)

    def _create(
        self,
        name: str,
        image: str,
        memory_mib: int,
        cpus: int,
        nics: tuple[Nic, ...],
        *,
        known_as: str = "",
    ) -> None:
        """A container that is not started, with all its cards."""
        types, limit = self._engine.docker.types, memory_mib << 20
        log = types.LogConfig(type=_LOGS[self._engine.key], config=_LOG_OPTIONS)
        spare = f"{name}-0"
        network: dict[str, Any] = {"network_mode": "none"}
        if nics:
            network = self._first_network(name, nics[0])
        elif self._engine.key == "podman":
            # A container of network mode `none` could never be connected to one later.
            with self._engine.faults(f"network {spare}"):
                self._client.networks.create(spare, driver="bridge", internal=True)
            network = {"network": spare}
        with self._engine.faults(f"guest {name}"):
            made = self._client.containers.create(
                image,
                command=_INIT,
                name=name,
                hostname=name,
                tty=True,
                stdin_open=True,
                stop_signal="SIGTERM",
                mem_limit=limit,
                memswap_limit=limit,
                cpuset_cpus=self._cpuset(name, cpus),
                log_config=log,
                ulimits=self._ulimits,
                labels={_OWNER: "hypervouch", _LAUNCH: known_as},
                **network,
            )
        if network.get("network") == spare:
            with self._engine.faults(f"network {spare}"):
                self._client.networks.get(spare).disconnect(made)
            self._remove_network(spare)
        for nic in nics[1:]:
            self._plug(made, nic)

    def _first_network(self, name: str, nic: Nic) -> dict[str, Any]:
        """Options of a container's first card, whose address each engine takes elsewhere."""
        network = self._make_network(name, nic)
        version = self._client.api.api_version
        endpoint = self._engine.docker.types.EndpointConfig(version, mac_address=nic.mac)
        return {
            "network": network,
            "mac_address": nic.mac,
            "networking_config": {network: endpoint},
        }

    def _plug(self, found: Any, nic: Nic) -> None:
        name = found.name
        network = self._make_network(name, nic)
        try:
            with self._engine.faults(f"network {network}"):
                found.reload()
                if "none" in found.attrs["NetworkSettings"]["Networks"]:
                    self._client.networks.get("none").disconnect(found)
                self._client.networks.get(network).connect(found, mac_address=nic.mac)
                found.reload()
            self._check_card(found, network, nic)
        except BaseException:
            self._remove_network(network)
            raise

    def _check_card(self, found: Any, network: str, nic: Nic) -> None:
        """See that a card has the address it should have; else it is taken away again.

        Raises:
            Unsupported: The engine chose another one.
        """
        given = found.attrs["NetworkSettings"]["Networks"][network].get("MacAddress", "")
        if given and given.lower() != nic.mac.lower():
            self.detach_interface(found.name, nic)
            raise Unsupported(
                Feature.ATTACH_INTERFACE,
                f"{_TITLES[self._engine.key]} {self._engine.version} gives a card that is "
                "attached later an address of its own",
            )

    def _make_network(self, name: str, nic: Nic) -> str:
        network = _network_name(name, nic)
        with self._engine.faults(f"network {network}"):
            if self._client.networks.list(names=[network]):
                raise CallerFault(f"{name} has the card {nic.mac} already")
            self._client.networks.create(network, driver="bridge", internal=True)
        return network

    def _remove_network(self, network: str) -> None:
        with self._engine.faults(f"network {network}"):
            try:
                found = self._client.networks.get(network)
                found.remove()
            except self._engine.docker.errors.NotFound:
                return

    def _renew(
        self, name: str, image: str, *, memory_mib: int | None = None, cpus: int | None = None
    ) -> None:
        """Put a container from an image in the place of a guest's."""
        found = self._get(name)
        memory_mib, cpus = memory_mib or _memory(found), cpus or _cpus(found)
        self._cpuset(name, cpus)
        nics = self._nics(found)
        with self._engine.faults(f"guest {name}"):
            found.remove(force=True, v=True)
        for nic in nics:
            self._remove_network(_network_name(name, nic))
        self._create(name, image, memory_mib, cpus, nics)
        self.start(name)

    def _nics(self, found: Any) -> tuple[Nic, ...]:
        """A container's cards, by the names of its networks."""
        names = found.attrs["NetworkSettings"]["Networks"]
        ours = [name for name in names if name.rpartition("-")[0] == found.name]
        return tuple(Nic(mac=_mac(name.rpartition("-")[2])) for name in ours)

    def _cpuset(self, name: str, cpus: int) -> str:
        """Which processors of the machine a guest has: what it then counts itself."""
        have = os.cpu_count() or 1
        if not 1 <= cpus <= have:
            raise CallerFault(f"{cpus} processors cannot be had", hint=f"this machine has {have}")
        first = zlib.crc32(name.encode()) % have
        return ",".join(str(number) for number in sorted((first + n) % have for n in range(cpus)))

    def _await_end(self, name: str, found: Any) -> None:
        try:
            found.wait(timeout=self._access.timeout_s)
        except self._engine.docker.errors.APIError as error:
            raise NodeFault(f"guest {name}: {error}") from error
        except OSError as error:  # of requests: its time passed
            raise TransientFault(
                f"{name} does not end within {self._access.timeout_s:g} s"
            ) from error

    def _containers(self) -> list[Any]:
        return list(self._client.containers.list(all=True, ignore_removed=True))

    def _exists(self, name: str) -> bool:
        with self._engine.faults("engine"):
            return any(one.name == name for one in self._containers())

    def _get(self, name: str) -> Any:
        local.check_name(name)
        with self._engine.faults(f"guest {name}"):
            return self._client.containers.get(name)

    def _image_id(self, name: str, tag: str) -> str:
        """Id of a guest's image; empty where there is none."""
        found = {(owner, kept): reference for owner, kept, reference in self._tags()}
        reference = found.get((name, tag))
        if reference is None:
            return ""
        with self._engine.faults(f"image {name}:{tag}"):
            return str(self._client.images.get(reference).id)

    def _forget_image(self, image_id: str) -> None:
        """Remove an image that lost its tag, unless a snapshot stands on it."""
        errors = self._engine.docker.errors
        with suppress(errors.ImageNotFound, errors.APIError):
            found = self._client.images.get(image_id) if image_id else None
            if found is not None and not found.tags:
                self._client.images.remove(image_id)

    def _tags(self) -> list[tuple[str, str, str]]:
        """Images as (name, tag, reference); Podman puts a registry before the name."""
        with self._engine.faults("engine"):
            images = self._client.images.list()
        found = []
        for image in images:
            for reference in image.tags:
                name, _, tag = reference.rpartition("/")[2].partition(":")
                found.append((name, tag, reference))
        return found
