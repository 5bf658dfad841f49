# SPDX-License-Identifier: Apache-2.0
"""An Ironic of the lab: the real one, API and conductor in one process, over hardware of no one.

It has TLS, a user with a password, and a database in its folder. Its machines are of the type
`fake-hardware`: Ironic's own state machine takes them through each state, and nothing boots.
"""

from collections.abc import Mapping
from pathlib import Path

import bcrypt

from ci import proc
from ci.errors import NodeUnavailable
from ci.model.result import Grade
from nodes.hypervisors.base import Access
from nodes.hypervisors.ironic_link import IronicLink, address
from nodes.images.build import Progress
from nodes.lab import announce, venvs
from nodes.lab.apis import HOST, USER, ApiHost, Program

NAME = "ironic"
GRADE = Grade.SIMULATOR
MACHINES = ("lab-0", "lab-1")
PATTERN = "lab-*"
CLASS = "hypervouch-lab"
_SCHEMA_S = 180.0
_CALL_S = 60.0
_CONF = """\
[DEFAULT]
auth_strategy = http_basic
http_basic_auth_user_file = {folder}/htpasswd
rpc_transport = none
host = localhost
my_ip = {host}
state_path = {folder}
tempdir = {folder}
log_file = {folder}/ironic.log
graceful_shutdown_timeout = 2
enabled_hardware_types = fake-hardware
enabled_network_interfaces = noop
enabled_storage_interfaces = fake,noop
enabled_console_interfaces = fake,no-console
enabled_inspect_interfaces = fake,no-inspect
enabled_raid_interfaces = fake,no-raid
enabled_rescue_interfaces = fake,no-rescue
enabled_vendor_interfaces = fake,no-vendor
enabled_bios_interfaces = fake
enabled_deploy_interfaces = fake
enabled_firmware_interfaces = fake
enabled_boot_interfaces = fake
enabled_management_interfaces = fake
enabled_power_interfaces = fake
[api]
host_ip = {host}
port = {port}
enable_ssl_api = true
cert_file = {certificate}
key_file = {key}
[database]
connection = sqlite:///{folder}/ironic.sqlite
[conductor]
automated_clean = false
node_locked_retry_attempts = 1
[oslo_messaging_notifications]
driver = noop
[oslo_concurrency]
lock_path = {folder}
"""


def is_built() -> bool:
    """Whether its environment is in the cache."""
    return venvs.is_made(NAME)


def program(host: ApiHost, programs: Path) -> Program:
    """Its command line; its configuration and its database are made on the way.

    Args:
        host: Where it runs.
        programs: As `venvs.environment` gives it.

    Raises:
        NodeUnavailable: Its database cannot be made.
    """
    folder = host.folder.resolve()
    password = host.password()
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
    port = announce.free_port()
    settings = folder / "ironic.conf"
    settings.write_text(
        _CONF.format(
            folder=folder,
            host=HOST,
            port=port,
            certificate=host.ca_file.resolve(),
            key=host.key_file.resolve(),
        )
    )
    if not (folder / "ironic.sqlite").exists():
        _make_schema(folder, programs, settings)
    command = [str(programs / "ironic"), "--config-file", str(settings)]
    return Program(argv=announce.argv(port, command))


def _make_schema(folder: Path, programs: Path, settings: Path) -> None:
    command = [str(programs / "ironic-dbsync"), "--config-file", str(settings), "create_schema"]
    try:
        proc.run(command, timeout_s=_SCHEMA_S)
    except proc.CommandFailed as error:
        (folder / "ironic.sqlite").unlink(missing_ok=True)
        raise NodeUnavailable(
            f"Ironic's database cannot be made: {error.message}",
            hint=f"look into {folder / 'ironic.log'}",
        ) from error


def start(host: ApiHost, say: Progress) -> None:
    """Start it with its machines; one that runs is left as it is.

    Raises:
        NodeUnavailable: It cannot be built, or does not serve.
    """
    programs = venvs.environment(NAME, say)
    if not host.is_running():
        say("starting Ironic")
        host.start(program(host, programs))
    enrol(url(host.said), access(host), MACHINES)


def url(said: Mapping[str, object]) -> str:
    """Where it is, in our words."""
    place = str(said.get("url", "")).removeprefix("https://")
    return f"ironic://{USER}@{place}?node={PATTERN}&class={CLASS}"


def access(host: ApiHost, work: Path | None = None) -> Access:
    """What it takes to connect to it."""
    return Access(
        work=work or host.folder,
        grade=GRADE,
        password=host.password(),
        ca_file=host.ca_file,
        timeout_s=_CALL_S,
    )


def enrol(where: str, how: Access, names: tuple[str, ...]) -> None:
    """Make machines that are not there yet, and offer them.

    Raises:
        NodeUnavailable: Ironic refuses.
    """
    link = IronicLink(address(where), how)
    try:
        there = {str(node.get("name")) for node in link.nodes(resource_class=CLASS)}
        for name in names:
            if name not in there:
                link.call(
                    f"enrol {name}",
                    "POST",
                    "/v1/nodes",
                    {
                        "driver": "fake-hardware",
                        "name": name,
                        "resource_class": CLASS,
                        "properties": {"memory_mb": 4096, "cpus": 2, "cpu_arch": "x86_64"},
                    },
                )
    finally:
        link.close()
