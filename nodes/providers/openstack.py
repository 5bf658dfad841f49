# SPDX-License-Identifier: Apache-2.0
"""Servers of an OpenStack cloud, made for one build and deleted after it.

Nobody is trusted at first sight: the host key is made here and given to cloud-init, and so is the
login key, both fresh for each server. Every server says in its metadata whose it is from the moment
that Nova accepts it; whatever a killed process left is found by that.
"""

import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ci import proc
from ci.errors import ConfigError, NodeUnavailable
from ci.layout import SecretRef
from ci.model.node import Endpoint, Transport
from ci.model.result import Grade
from ci.settings import resolve_secret
from nodes.images import keys
from nodes.login import await_login
from nodes.providers import openstack_link
from nodes.providers.slots import Slots

OURS, SLOT, HOLDER = "hypervouch", "hypervouch-slot", "hypervouch-holder"
API_S = 60
RETRIES = 3
DELETE_S = 120.0
POLL_S = 2.0
LAST_LINES, MAX_WORDS = 12, 400


class OpenstackOptions(BaseModel):
    """What the configuration may say of an `openstack` provider.

    Attributes:
        name: Name of the provider; its nodes are NAME-1, NAME-2, ...
        label: Node label that jobs ask for.
        slots: Servers that may exist at once.
        installation: Tells our servers from others' in the same project.
        cloud: Name in clouds.yaml; or else the keys from `auth_url` on.
        auth_url: Of Keystone.
        username: Account.
        password: Its password, by reference.
        project: Project of the account.
        user_domain: Domain of the account.
        project_domain: Domain of the project.
        region: Region; the cloud's only one by default.
        image: Name or id; an image with cloud-init, Python 3 and an OpenSSH server.
        flavor: Name or id.
        network: Name or id.
        floating_network: Network that gives each server a floating address; none by default.
        security_groups: Names; they have to let port 22 in.
        key_name: Key pair for people who want to look; our own login needs none.
        config_drive: Whether user data comes on a drive besides.
        user: Login.
        port: TCP port of its SSH server.
        workdir: Directory that builds may fill.
        boot_timeout_s: Seconds until a server must answer.
        hypervisor: URL of the hypervisor under test, as seen in the server.
        grade: How real that hypervisor is; `nested` as long as the operator says no other.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )

    name: str = Field(default="openstack", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")
    label: str = "openstack"
    slots: int = Field(default=1, ge=1, le=64)
    installation: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,39}$")
    cloud: str = ""
    auth_url: str = Field(default="", pattern=r"^(https?://\S+)?$")
    username: str = ""
    password: SecretRef | None = None
    project: str = ""
    user_domain: str = "Default"
    project_domain: str = "Default"
    region: str = ""
    image: str = Field(min_length=1)
    flavor: str = Field(min_length=1)
    network: str = Field(min_length=1)
    floating_network: str = ""
    security_groups: tuple[str, ...] = ()
    key_name: str = ""
    config_drive: bool = False
    user: str = Field(default="root", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    port: int = Field(default=22, ge=1, le=65535)
    workdir: str = Field(default="/tmp/hypervouch", pattern=r"^/[^/\x00]+/[^\x00]+$")  # noqa: S108
    boot_timeout_s: float = Field(default=600.0, gt=0)
    hypervisor: str = ""
    grade: Grade = Grade.NESTED

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        explicit = bool(self.auth_url and self.username and self.password and self.project)
        if bool(self.cloud) == explicit:
            raise ValueError("give cloud, or all of auth-url, username, password and project")
        return self


class OpenstackProvider(Slots[OpenstackOptions]):
    """Makes and deletes servers; see `nodes.providers.base` for the contract."""

    Options: ClassVar[type[BaseModel]] = OpenstackOptions

    def __init__(self, options: OpenstackOptions, state_dir: Path) -> None:
        """Nothing is contacted.

        Args:
            options: From the configuration.
            state_dir: Holds the keys of running servers.
        """
        self._options = options
        self._state = state_dir.absolute()

    @property
    def machine_bound(self) -> bool:
        """Any process that may log in to the cloud reaches it."""
        return False

    @property
    def disposable(self) -> bool:
        """A server is deleted."""
        return True

    def prepare(self) -> None:
        """Log in, and find image, flavor and network; repeatable.

        Raises:
            ConfigError: The cloud refuses us, or has no such thing.
        """
        try:
            with self._cloud() as cloud:
                self._wanted(cloud)
        except NodeUnavailable as error:
            raise ConfigError(error.message, hint=error.hint) from error

    def start(self, node: str, holder: str) -> Endpoint:
        """A fresh server for a slot, after deleting what the slot still has.

        Raises:
            NodeUnavailable: It did not come up in time, or the cloud refused it.
            ConfigError: Image, flavor or network are gone.
        """
        self.stop(node)
        deadline = time.monotonic() + self._options.boot_timeout_s
        try:
            with self._cloud() as cloud:
                return self._boot(cloud, node, holder, deadline)
        except BaseException:
            with suppress(NodeUnavailable):  # what stays is found as leaked; why comes first
                self.stop(node)
            raise

    def stop(self, node: str) -> None:
        """Delete the slot's servers and floating addresses and wait for their end; repeatable.

        Raises:
            NodeUnavailable: The cloud does not answer, or a server does not go.
        """
        with self._cloud() as cloud:
            deadline = time.monotonic() + DELETE_S
            for address in self._addresses(cloud, node):
                cloud.network.delete_ip(address, ignore_missing=True)
            for server in self._servers(cloud):
                if server.metadata.get(SLOT) == node:
                    cloud.compute.delete_server(server, ignore_missing=True)
            for _ in proc.wait_until(deadline, every_s=POLL_S / 4):
                left = [s.id for s in self._servers(cloud) if s.metadata.get(SLOT) == node]
                if not left:
                    return
        raise NodeUnavailable(
            f"node {node}: the cloud did not delete {', '.join(left)} within {DELETE_S:.0f} s",
            hint="look at it with: openstack server show",
            retryable=True,
        )

    def leaked(self, held: frozenset[str]) -> tuple[str, ...]:
        """Slots not in `held` that have a server, by its metadata.

        Raises:
            NodeUnavailable: The cloud does not answer.
        """
        with self._cloud() as cloud:
            there = {server.metadata.get(SLOT) for server in self._servers(cloud)}
        return tuple(node for node in self.node_names() if node in there and node not in held)

    def _boot(self, cloud: Any, node: str, holder: str, deadline: float) -> Endpoint:
        fresh = keys.generate()
        server = self._await_active(cloud, self._create(cloud, node, holder, fresh), deadline)
        host = self._address(cloud, node, server)
        folder = self._state / node
        folder.mkdir(parents=True, exist_ok=True)
        options = self._options
        key_file, known_hosts = fresh.write(folder, host, options.port)
        endpoint = Endpoint(
            transport=Transport.SSH,
            host=host,
            port=options.port,
            user=options.user,
            key_file=key_file,
            known_hosts=known_hosts,
            workdir=options.workdir,
            hypervisor=options.hypervisor,
            grade=options.grade,
            facts={"server": server.id, "image": options.image, "flavor": options.flavor},
        )
        try:
            await_login(endpoint, deadline)
        except NodeUnavailable as error:
            raise NodeUnavailable(
                f"server {server.id}: {error.message}: {_last_words(cloud, server)}",
                hint="it needs cloud-init and an SSH server, and port 22 open in its security "
                "groups; see: openstack console log show",
                retryable=True,
            ) from error
        return endpoint

    def _create(self, cloud: Any, node: str, holder: str, fresh: keys.HandOutKeys) -> Any:
        options = self._options
        image, flavor, network = self._wanted(cloud)
        more: dict[str, Any] = {"key_name": options.key_name} if options.key_name else {}
        if options.security_groups:
            more["security_groups"] = [{"name": name} for name in options.security_groups]
        if options.config_drive:
            more["config_drive"] = True
        return cloud.compute.create_server(
            name=f"hypervouch-{options.installation}-{node}",
            image_id=image.id,
            flavor_id=flavor.id,
            networks=[{"uuid": network.id}],
            metadata={OURS: options.installation, SLOT: node, HOLDER: holder},
            user_data=b64encode(user_data(fresh)).decode("ascii"),
            **more,
        )

    def _await_active(self, cloud: Any, server: Any, deadline: float) -> Any:
        status = ""
        for _ in proc.wait_until(deadline, every_s=POLL_S / 4):
            found = cloud.compute.get_server(server.id)
            status = found.status
            if status == "ACTIVE":
                return found
            if status == "ERROR":
                fault = (found.to_dict().get("fault") or {}).get("message", "it does not say why")
                raise NodeUnavailable(
                    f"Nova could not boot server {server.id}: {fault}", retryable=True
                )
        raise NodeUnavailable(
            f"server {server.id} is still {status} after {self._options.boot_timeout_s:.0f} s",
            hint="raise boot-timeout-s, or ask who runs the cloud",
            retryable=True,
        )

    def _address(self, cloud: Any, node: str, server: Any) -> str:
        """The server's first IPv4 address, or a floating one made for it."""
        if self._options.floating_network:
            outside = cloud.network.find_network(
                self._options.floating_network, ignore_missing=False
            )
            port = next(iter(cloud.network.ports(device_id=server.id)))
            made = cloud.network.create_ip(
                floating_network_id=outside.id, port_id=port.id, description=self._note(node)
            )
            return str(made.floating_ip_address)
        for cards in (server.addresses or {}).values():
            for one in cards:
                if one["version"] == 4:  # noqa: PLR2004 - of the Internet Protocol
                    return str(one["addr"])
        raise NodeUnavailable(
            f"server {server.id} has no IPv4 address",
            hint="name a network that gives one, or a floating-network",
            retryable=True,
        )

    def _addresses(self, cloud: Any, node: str) -> list[Any]:
        if not self._options.floating_network:
            return []
        return list(cloud.network.ips(description=self._note(node)))

    def _note(self, node: str) -> str:
        return f"hypervouch {self._options.installation} {node}"

    def _servers(self, cloud: Any) -> list[Any]:
        """Our servers, whatever their state, but for those that are deleted already."""
        prefix = f"^hypervouch-{self._options.installation}-"
        return [
            server
            for server in cloud.compute.servers(name=prefix)
            if (server.metadata or {}).get(OURS) == self._options.installation
            and server.status != "DELETED"
        ]

    def _wanted(self, cloud: Any) -> tuple[Any, Any, Any]:
        """Image, flavor and network.

        Raises:
            ConfigError: One of them is not there.
        """
        options = self._options
        return (
            self._find("image", options.image, cloud.image.find_image),
            self._find("flavor", options.flavor, cloud.compute.find_flavor),
            self._find("network", options.network, cloud.network.find_network),
        )

    def _find(self, kind: str, name: str, ask: Callable[..., Any]) -> Any:
        return openstack_link.find(self.name, kind, name, ask)

    def _cloud(self) -> AbstractContextManager[Any]:
        """A connection; what the cloud refuses comes out as NodeUnavailable."""
        return openstack_link.connected(self.name, self._access())

    def _access(self) -> dict[str, Any]:
        options = self._options
        common: dict[str, Any] = {
            "app_name": "hypervouch",
            "api_timeout": API_S,
            # Of a refused connection and of 503: a restart behind a cloud's proxy costs no server.
            "connect_retries": RETRIES,
            "status_code_retries": RETRIES,
        }
        if options.region:
            common["region_name"] = options.region
        if options.cloud:
            return {**common, "cloud": options.cloud}
        assert options.password is not None  # noqa: S101 - the model makes sure
        return {
            **common,
            "load_yaml_config": False,
            "load_envvars": False,
            "auth": {
                "auth_url": options.auth_url,
                "username": options.username,
                "password": resolve_secret(options.password),
                "project_name": options.project,
                "user_domain_name": options.user_domain,
                "project_domain_name": options.project_domain,
            },
        }


def _last_words(cloud: Any, server: Any) -> str:
    """The end of a server's console, as far as the cloud has one."""
    try:
        console = cloud.compute.get_server_console_output(server, length=LAST_LINES)
    except Exception as error:  # noqa: BLE001 - why it does not answer counts more
        return f"its console cannot be read: {openstack_link.said(error)}"
    words = " ".join(str((console or {}).get("output") or "").split())
    return words[-MAX_WORDS:] or "its console says nothing"


def user_data(fresh: keys.HandOutKeys) -> bytes:
    """What cloud-init is told: the host key to use, and whom to let in."""
    told = {
        "disable_root": False,
        "ssh_deletekeys": True,
        "ssh_keys": {
            "ed25519_private": fresh.host_private.decode("ascii"),
            "ed25519_public": fresh.host_public,
        },
        "ssh_authorized_keys": [fresh.client_public],
    }
    return b"#cloud-config\n" + yaml.safe_dump(told).encode()
