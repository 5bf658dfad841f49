# SPDX-License-Identifier: Apache-2.0
"""Disposable containers of a Docker or Podman daemon on this machine, reached over SSH.

Each attempt gets a fresh container with a fresh host key and a fresh login key, both laid into it
before its SSH server starts. A container shares this machine's kernel: it keeps builds apart, but
code that wants out is held less firmly than in a virtual machine.

A container carries our labels from the moment it exists. Whatever a killed process left is found
by them, in the daemon and not in memory.
"""

import hashlib
import io
import re
import socket
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from ci import plugins
from ci.errors import ConfigError, NodeUnavailable
from ci.model.node import Endpoint, Transport
from ci.model.result import Grade
from nodes.images import keys
from nodes.images.build import Progress
from nodes.images.root import root_archive
from nodes.login import await_login
from nodes.providers.slots import Slots

HOST = "127.0.0.1"
OURS = "hypervouch.installation"
SLOT = "hypervouch.slot"
REPOSITORY = "hypervouch-node"
CALL_S = 120
_FOLDER = "etc/hypervouch"
_SSHD = """\
Port {port}
ListenAddress {listen}
HostKey /etc/hypervouch/hostkey
AuthorizedKeysFile /etc/hypervouch/authorized_keys
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
MaxSessions 64
MaxStartups 64
Subsystem sftp internal-sftp
"""


class ContainerOptions(BaseModel):
    """What the configuration may say of a `container` provider.

    Attributes:
        name: Name of the provider; its nodes are NAME-1, NAME-2, ...
        label: Node label that jobs ask for.
        slots: Containers that may run at once.
        url: Socket of the daemon, Docker's or Podman's.
        image: Image with an OpenSSH server, Python 3 and tar; our own, built here, by default.
        archive: Tar file of a root file system, which is imported as the image.
        command: What runs the SSH server in the foreground; it is given our configuration.
        network: `bridge`, a network's name, or `host` for this machine's own network.
        memory_mib: RAM that a container may use; no limit by default.
        privileged: Whether a container may do what root of this machine may.
        devices: Devices of this machine that a container may use, such as `/dev/kvm`.
        ulimits: Limits as NAME: SOFT:HARD. A Podman without CAP_SYS_RESOURCE needs some.
        boot_timeout_s: Seconds until a container must answer.
        hypervisor: URL of the hypervisor under test, as seen in the container.
        grade: How real that hypervisor is; `none` until the operator says so.
        cache_dir: Where our own image is built; the user's cache folder by default.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )

    name: str = Field(default="container", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")
    label: str = "container"
    slots: int = Field(default=2, ge=1, le=64)
    url: str = Field(default="unix:///var/run/docker.sock", pattern=r"^unix:///\S+$")
    image: str = Field(default="", pattern=r"^\S*$")
    archive: Path | None = None
    command: tuple[str, ...] = ("/usr/sbin/sshd", "-D", "-e", "-f", "/etc/hypervouch/sshd_config")
    network: str = Field(default="bridge", min_length=1)
    memory_mib: int | None = Field(default=None, ge=64, le=1048576)
    privileged: bool = False
    devices: tuple[str, ...] = ()
    ulimits: dict[str, str] = Field(default_factory=dict)
    boot_timeout_s: float = Field(default=60.0, gt=0)
    hypervisor: str = ""
    grade: Grade = Grade.NONE
    cache_dir: Path | None = None


class ContainerProvider(Slots[ContainerOptions]):
    """Makes and removes containers; see `nodes.providers.base` for the contract."""

    Options: ClassVar[type[BaseModel]] = ContainerOptions

    def __init__(
        self, options: ContainerOptions, state_dir: Path, progress: Progress | None = None
    ) -> None:
        """Nothing is contacted.

        Args:
            options: From the configuration.
            state_dir: Holds one folder a slot; its path tells our containers from others'.
            progress: Told what `prepare` is doing when it has to build the image.
        """
        self._options = options
        self._state = state_dir.absolute()
        self._installation = hashlib.sha256(str(self._state).encode()).hexdigest()[:12]
        self._progress = progress
        self._image = ""

    @property
    def machine_bound(self) -> bool:
        """Its containers listen on this machine's loopback only."""
        return True

    @property
    def disposable(self) -> bool:
        """A container is removed with all that was in it."""
        return True

    def prepare(self) -> None:
        """Find the image, or import it; repeatable.

        Raises:
            ConfigError: The daemon does not answer, or has no such image.
        """
        try:
            with self._daemon() as daemon:
                self._image = self._find_image(daemon)
        except NodeUnavailable as error:
            raise ConfigError(error.message, hint=error.hint) from error

    def start(self, node: str, holder: str) -> Endpoint:
        """A fresh container for a slot, after removing what the slot still has.

        Raises:
            NodeUnavailable: It did not come up in time, or the daemon refused it.
            ConfigError: The image is not there and cannot be made.
        """
        self.stop(node)
        if not self._image:
            self.prepare()
        deadline = time.monotonic() + self._options.boot_timeout_s
        try:
            with self._daemon() as daemon:
                return self._boot(daemon, node, holder, deadline)
        except BaseException:
            self.stop(node)
            raise

    def stop(self, node: str) -> None:
        """Kill and remove the slot's container; repeatable.

        Raises:
            NodeUnavailable: The daemon does not answer.
        """
        with self._daemon() as daemon:
            for container in self._found(daemon, f"{SLOT}={node}"):
                _remove(container)

    def leaked(self, held: frozenset[str]) -> tuple[str, ...]:
        """Slots not in `held` that have a container, by its labels.

        Raises:
            NodeUnavailable: The daemon does not answer.
        """
        with self._daemon() as daemon:
            there = {one.labels.get(SLOT, "") for one in self._found(daemon)}
        return tuple(node for node in self.node_names() if node in there and node not in held)

    def _boot(self, daemon: Any, node: str, holder: str, deadline: float) -> Endpoint:
        own = self._options.network == "host"
        port = _free_port() if own else 22
        fresh = keys.generate()
        container = self._create(daemon, node, holder)
        container.put_archive("/", _files(fresh, port=port, listen=HOST if own else "0.0.0.0"))  # noqa: S104 - inside the container
        container.start()
        if not own:
            port = _published(container)
        folder = self._state / node
        folder.mkdir(parents=True, exist_ok=True)
        key_file, known_hosts = fresh.write(folder, HOST, port)
        endpoint = Endpoint(
            transport=Transport.SSH,
            host=HOST,
            port=port,
            user="root",
            key_file=key_file,
            known_hosts=known_hosts,
            hypervisor=self._options.hypervisor,
            grade=self._options.grade,
            facts={"image": self._image, "container": container.short_id},
        )
        try:
            await_login(endpoint, deadline)
        except NodeUnavailable as error:
            raise NodeUnavailable(
                f"node {node}: {error.message}: {_last_words(container)}",
                hint="the image needs an OpenSSH server; see `command`",
                retryable=True,
            ) from error
        return endpoint

    def _create(self, daemon: Any, node: str, holder: str) -> Any:
        options = self._options
        own = options.network == "host"
        memory = {"mem_limit": f"{options.memory_mib}m"} if options.memory_mib else {}
        return daemon.containers.create(
            self._image,
            command=list(options.command),
            entrypoint=[],
            labels={OURS: self._installation, SLOT: node, "hypervouch.holder": holder},
            name=f"hypervouch-{self._installation}-{node}",
            network_mode=options.network,
            ports=None if own else {"22/tcp": (HOST, None)},
            privileged=options.privileged,
            devices=[f"{path}:{path}:rwm" for path in options.devices],
            ulimits=[_ulimit(name, pair) for name, pair in options.ulimits.items()],
            **memory,
        )

    def _find_image(self, daemon: Any) -> str:
        options = self._options
        if options.image:
            try:
                daemon.images.get(options.image)
            except _sdk().errors.ImageNotFound as missing:
                raise ConfigError(
                    f"provider {self.name}: {options.url} has no image {options.image}",
                    hint=f"docker pull {options.image}, or leave image out for our own",
                ) from missing
            return options.image
        archive = options.archive or root_archive(options.cache_dir, self._progress)
        if not archive.is_file():
            raise ConfigError(
                f"provider {self.name}: archive {archive} is not there",
                hint="leave archive out for our own image",
            )
        tag = archive.stem if options.archive is None else _digest(archive)
        name = f"{REPOSITORY}:{tag}"
        try:
            daemon.images.get(name)
        except _sdk().errors.ImageNotFound:
            said = str(daemon.api.import_image_from_file(str(archive), repository=REPOSITORY))
            made = re.search(r"sha256:[0-9a-f]{64}", said)
            if made is None:
                raise ConfigError(
                    f"provider {self.name}: {archive} cannot be imported: {said[-300:]}",
                    hint="it has to be a tar file of a whole root file system",
                ) from None
            daemon.images.get(made[0]).tag(REPOSITORY, tag)  # Podman's import takes no tag
        return name

    def _found(self, daemon: Any, *more: str) -> Any:
        wanted = {"label": [f"{OURS}={self._installation}", *more]}
        return daemon.containers.list(all=True, filters=wanted, ignore_removed=True)

    @contextmanager
    def _daemon(self) -> Iterator[Any]:
        """A connection to the daemon; what it refuses comes out as NodeUnavailable."""
        sdk = _sdk()
        client = None
        try:
            # The library would leave the socket of a failed connection open.
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(CALL_S)
                link.connect(self._options.url.removeprefix("unix://"))
            client = sdk.DockerClient(base_url=self._options.url, timeout=CALL_S)
            yield client
        except (sdk.errors.DockerException, OSError) as error:  # requests' errors are OSErrors
            raise NodeUnavailable(
                f"provider {self.name}: the container daemon: {_gist(error)}",
                hint=f"check that it runs and that we may open {self._options.url}",
                retryable=True,
            ) from error
        finally:
            if client is not None:
                client.close()


def _sdk() -> Any:
    """The Docker SDK, which Podman's socket understands too."""
    return plugins.need("docker", extra="container", what="a container provider")


def _files(fresh: keys.HandOutKeys, *, port: int, listen: str) -> bytes:
    """What is laid into a container before it starts, as a tar file."""
    taken = io.BytesIO()
    with tarfile.open(fileobj=taken, mode="w") as tar:
        for folder in (_FOLDER, "run/sshd", "tmp/hypervouch"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, int(time.time())
            tar.addfile(entry)
        for name, content in (
            ("hostkey", fresh.host_private),
            ("authorized_keys", f"{fresh.client_public}\n".encode()),
            ("sshd_config", _SSHD.format(port=port, listen=listen).encode()),
        ):
            entry = tarfile.TarInfo(f"{_FOLDER}/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            tar.addfile(entry, io.BytesIO(content))
    return taken.getvalue()


def _published(container: Any) -> int:
    """The loopback port that leads to a started container's port 22.

    Raises:
        NodeUnavailable: The container ended at once, or its network publishes no port.
    """
    container.reload()
    ports = container.attrs.get("NetworkSettings", {}).get("Ports") or {}
    for one in ports.get("22/tcp") or ():
        return int(one["HostPort"])
    raise NodeUnavailable(
        f"the container has no port for SSH: {_last_words(container)}",
        hint="use network bridge, or host where the daemon cannot publish ports",
        retryable=True,
    )


def _last_words(container: Any) -> str:
    """The last line that a container said, for messages."""
    try:
        text = container.logs(tail=5).decode("utf-8", "replace")
    except _sdk().errors.DockerException:
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _remove(container: Any) -> None:
    """Kill and remove a container; one that is gone, or is just being removed, is no error."""
    try:
        container.remove(force=True, v=True)
    except _sdk().errors.NotFound:
        return
    except _sdk().errors.APIError as error:
        if "already in progress" not in str(error):
            raise


def _ulimit(name: str, pair: str) -> Any:
    soft, _, hard = pair.partition(":")
    return _sdk().types.Ulimit(name=name, soft=int(soft), hard=int(hard or soft))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _digest(archive: Path) -> str:
    with archive.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]


def _gist(error: Exception) -> str:
    explained = getattr(error, "explanation", None)
    return " ".join(str(explained or error).split())[:300]
