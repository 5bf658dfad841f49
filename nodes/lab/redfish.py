# SPDX-License-Identifier: Apache-2.0
"""A machine with a Redfish controller, of the lab: sushy-tools over a libvirt host of its own.

The machine is a domain of QEMU that really turns on and off, and boots what is put into its
virtual CD drive. The controller has TLS, a user with a password, and shows that one domain.
"""

import uuid
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import bcrypt

from ci import proc
from ci.errors import NodeUnavailable
from ci.model.result import Grade
from nodes.hypervisors.base import Access
from nodes.images.build import Progress
from nodes.lab import announce, libvirt_host, venvs
from nodes.lab.apis import HOST, USER, ApiHost, Program
from nodes.lab.libvirt_host import LibvirtHost

NAME = "redfish"
GRADE = Grade.NESTED
MACHINE = "lab-machine"
MEMORY_MIB = 1024
CPUS = 2
_DISK_BYTES = 64 << 20
_CALL_S = 60.0
_VIRSH_S = 60.0
_POOL = """\
<pool type='dir'><name>default</name><target><path>{folder}</path></target></pool>
"""
_DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>{cpus}</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>
  <features><acpi/></features>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{disk}'/><target dev='hda' bus='ide'/>
    </disk>
    <serial type='file'><source path='{line}' append='on'/><target port='0'/></serial>
  </devices>
</domain>
"""
_CONF = """\
SUSHY_EMULATOR_LISTEN_IP = {host!r}
SUSHY_EMULATOR_LISTEN_PORT = {port!r}
SUSHY_EMULATOR_SSL_CERT = {certificate!r}
SUSHY_EMULATOR_SSL_KEY = {key!r}
SUSHY_EMULATOR_AUTH_FILE = {passwords!r}
SUSHY_EMULATOR_LIBVIRT_URI = {uri!r}
SUSHY_EMULATOR_STATE_DIR = {folder!r}
SUSHY_EMULATOR_ALLOWED_INSTANCES = [{uuid!r}]
"""


def is_built() -> bool:
    """Whether its environment is in the cache."""
    return venvs.is_made(NAME)


def missing_tools() -> tuple[str, ...]:
    """Debian packages that it needs and this machine has not."""
    return libvirt_host.missing_tools()


def libvirt(host: ApiHost) -> LibvirtHost:
    """The libvirt host behind the controller."""
    return LibvirtHost(host.folder / "libvirt", "hv-redfish")


def line(host: ApiHost) -> Path:
    """The file with what the machine writes on its serial line; a controller does not give it."""
    return host.folder.resolve() / "line.log"


def install(host: ApiHost, below: LibvirtHost) -> str:
    """Define the machine, unless it is there; gives its UUID.

    Raises:
        NodeUnavailable: libvirt refuses it.
    """
    known_as = str(uuid.uuid5(uuid.NAMESPACE_URL, below.folder.as_uri()))
    if known_as in _virsh(below, "list", "--all", "--uuid"):
        return known_as
    pool = host.folder.resolve() / "pool"
    pool.mkdir(parents=True, exist_ok=True)
    disk = host.folder.resolve() / "disk.raw"
    with disk.open("ab") as file:
        file.truncate(_DISK_BYTES)
    texts = {
        "pool": _POOL.format(folder=escape(str(pool))),
        "machine": _DOMAIN.format(
            name=MACHINE,
            uuid=known_as,
            memory=MEMORY_MIB,
            cpus=CPUS,
            disk=escape(str(disk)),
            line=escape(str(line(host))),
        ),
    }
    for name, text in texts.items():
        (host.folder / f"{name}.xml").write_text(text)
    if "default" not in _virsh(below, "pool-list", "--all", "--name").split():
        _virsh(below, "pool-define", str(host.folder.resolve() / "pool.xml"))
        _virsh(below, "pool-start", "default")
    _virsh(below, "define", str(host.folder.resolve() / "machine.xml"))
    return known_as


def program(host: ApiHost, programs: Path, below: LibvirtHost, known_as: str) -> Program:
    """Its command line; its configuration is written on the way.

    Args:
        host: Where it runs.
        programs: As `venvs.environment` gives it.
        below: The libvirt host.
        known_as: UUID of the one domain that it shows.
    """
    folder = host.folder.resolve()
    hashed = bcrypt.hashpw(host.password().encode(), bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"{USER}:{hashed}\n")
    port = announce.free_port()
    settings = folder / "sushy.conf"
    settings.write_text(
        _CONF.format(
            host=HOST,
            port=port,
            certificate=str(host.ca_file.resolve()),
            key=str(host.key_file.resolve()),
            passwords=str(folder / "htpasswd"),
            uri=below.uri(),
            folder=str(folder),
            uuid=known_as,
        )
    )
    command = [str(programs / "sushy-emulator"), "--config", str(settings)]
    return Program(argv=announce.argv(port, command))


def start(host: ApiHost, say: Progress) -> None:
    """Start both; what runs is left as it is.

    Raises:
        ConfigError: A package is missing, or we are not root.
        NodeUnavailable: It cannot be built, or does not serve.
    """
    programs = venvs.environment(NAME, say)
    below = libvirt(host)
    say("starting libvirtd; the first time on a machine takes a minute")
    below.start()
    known_as = install(host, below)
    if not host.is_running():
        say("starting the Redfish controller")
        host.start(program(host, programs, below, known_as))


def stop(host: ApiHost) -> None:
    """End both, and the machine; repeatable."""
    host.stop()
    libvirt(host).stop()


def url(said: Mapping[str, object], known_as: str, options: str = "") -> str:
    """Where the machine is, in our words."""
    place = str(said.get("url", "")).removeprefix("https://")
    return f"redfish://{USER}@{place}/redfish/v1/Systems/{known_as}{options}"


def access(host: ApiHost, work: Path | None = None) -> Access:
    """What it takes to connect to it."""
    return Access(
        work=work or host.folder,
        grade=GRADE,
        password=host.password(),
        ca_file=host.ca_file,
        timeout_s=_CALL_S,
    )


def _virsh(below: LibvirtHost, *words: str) -> str:
    try:
        return proc.run(["virsh", "-q", "-c", below.uri(), *words], timeout_s=_VIRSH_S).text
    except proc.CommandFailed as error:
        raise NodeUnavailable(
            f"the machine cannot be made: {error.message}", hint=f"see {below.folder}/log"
        ) from error
