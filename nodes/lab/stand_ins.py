# SPDX-License-Identifier: Apache-2.0
"""What stands in for hypervisors that are reached by an API of their own, by name.

A simulator is somebody else's model, an emulator is ours; neither runs a guest. So they come up
only when they are named, and what they show says how real it is.
"""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from ci.errors import ConfigError
from ci.model.result import Grade
from nodes.images import bootable
from nodes.images.build import Progress
from nodes.lab import libvirt_host, vcenter
from nodes.lab.apis import USER, ApiHost, Program

ZVM_START_S = 180.0


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """One of them.

    Attributes:
        name: As the command line has it.
        title: What it is, for people.
        grade: How real it is.
        lacks: Debian packages that it needs and this machine has not.
        build: Makes what can be made before it is up.
        start: Starts it; what runs is left as it is.
        stop: Ends it; repeatable.
        url: The URL of its hypervisor, while it is up.
        second: That of another host of it, where there is one; else nothing.
        root: Whether it takes root.
        real_guests: Whether guests run behind it.
    """

    name: str
    title: str
    grade: Grade
    start: Callable[[ApiHost, Progress], None]
    url: Callable[[ApiHost], str]
    lacks: Callable[[], tuple[str, ...]] = tuple
    build: Callable[[Progress], None] = lambda _say: None
    stop: Callable[[ApiHost], None] = ApiHost.stop
    second: Callable[[ApiHost], str] = lambda _host: ""
    root: bool = False
    real_guests: bool = False


def own(name: str, host: ApiHost) -> Program:
    """One of ours: `python -m nodes.stand_ins.NAME`."""
    host.password()  # its folder is there from then on
    files = [f"--certificate={host.ca_file}", f"--key={host.key_file}"]
    argv = [sys.executable, "-m", f"nodes.stand_ins.{name}", "--user", USER, *files]
    return Program(argv=argv)


def place(host: ApiHost, number: int = 0) -> str:
    """Host and port of what it serves, where it serves several of the one with that number."""
    said = host.said
    urls = said.get("urls") or [said.get("url", "")]
    return str(urls[number]).removeprefix("https://").partition("/")[0]


def _build_vcenter(say: Progress) -> None:
    vcenter.binary(say)


def _start_vcenter(host: ApiHost, say: Progress) -> None:
    program = vcenter.program(vcenter.binary(say), host)
    say("starting the simulator")
    host.start(program)


def _emulator(name: str) -> Callable[[ApiHost, Progress], None]:
    def start(host: ApiHost, say: Progress) -> None:
        say("starting the emulator")
        host.start(own(name, host))

    return start


def _guests_need() -> tuple[str, ...]:
    programs = {"qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils"}
    lacks = {package for name, package in programs.items() if shutil.which(name) is None}
    return tuple(sorted({*bootable.missing_tools(), *lacks}))


def _start_vcenter_guests(host: ApiHost, say: Progress) -> None:
    guests = host.folder / "guests"
    guests.mkdir(parents=True, exist_ok=True)
    program = vcenter.program(vcenter.binary(say), host, [f"-guests={guests}"])
    say("starting the simulator")
    host.start(program)


def _start_redfish(host: ApiHost, say: Progress) -> None:
    from nodes.lab import redfish  # noqa: PLC0415 - its libraries are optional

    redfish.start(host, say)


def _stop_redfish(host: ApiHost) -> None:
    from nodes.lab import redfish  # noqa: PLC0415

    redfish.stop(host)


def _redfish_url(host: ApiHost) -> str:
    from nodes.lab import redfish  # noqa: PLC0415

    return redfish.url(host.said, redfish.install(host, redfish.libvirt(host)), "?boot=hdd")


def _start_ironic(host: ApiHost, say: Progress) -> None:
    from nodes.lab import ironic  # noqa: PLC0415 - its libraries are optional

    ironic.start(host, say)


def _ironic_url(host: ApiHost) -> str:
    from nodes.lab import ironic  # noqa: PLC0415

    return ironic.url(host.said)


def _build_ironic(say: Progress) -> None:
    from nodes.lab import ironic, venvs  # noqa: PLC0415

    venvs.environment(ironic.NAME, say)


def _start_zvm(host: ApiHost, say: Progress) -> None:
    if find_spec("zvmsdk") is None:
        raise ConfigError(
            "IBM's z/VM Cloud Connector is not installed", hint="pip install 'hypervouch[zvm]'"
        )
    say("starting both halves of the connector")
    # It is a token that it asks for, and no user; its start takes seconds of one processor.
    files = [f"--certificate={host.ca_file}", f"--key={host.key_file}"]
    argv = [sys.executable, "-m", "nodes.stand_ins.zvm", *files]
    host.password()  # its folder is there from then on
    host.start(Program(argv=argv, start_s=ZVM_START_S))


STAND_INS = (
    StandIn(
        name="vcenter",
        title="vCenter: govmomi's simulator, no guest runs",
        grade=Grade.SIMULATOR,
        build=_build_vcenter,
        start=_start_vcenter,
        url=lambda host: vcenter.url(host.said.get("url", "")),
    ),
    StandIn(
        name="vcenter-guests",
        title="vCenter: the same simulator, with guests of QEMU (TCG) behind it",
        grade=Grade.SIMULATOR,
        lacks=_guests_need,
        build=_build_vcenter,
        start=_start_vcenter_guests,
        url=lambda host: vcenter.url(host.said.get("url", "")),
        real_guests=True,
    ),
    StandIn(
        name="xenserver",
        title="XenServer: our emulator of its API, no guest runs",
        grade=Grade.EMULATOR,
        start=_emulator("xapi"),
        url=lambda host: f"xenserver://{USER}@{place(host)}?host=xs1",
        second=lambda host: f"xenserver://{USER}@{place(host)}?host=xs2",
    ),
    StandIn(
        name="hyperv",
        title="Hyper-V: our emulator of WinRM and its cmdlets, no guest runs",
        grade=Grade.EMULATOR,
        start=_emulator("hyperv"),
        url=lambda host: f"hyperv://{USER}@{place(host)}",
        second=lambda host: f"hyperv://{USER}@{place(host, 1)}",
    ),
    StandIn(
        name="ironic",
        title="Ironic: the real one over hardware that is none, no guest runs",
        grade=Grade.SIMULATOR,
        build=_build_ironic,
        start=_start_ironic,
        url=_ironic_url,
    ),
    StandIn(
        name="zvm",
        title="z/VM: IBM's own connector over a model of CP and SMAPI, no guest runs",
        grade=Grade.SIMULATOR,
        start=_start_zvm,
        url=lambda host: str(host.said.get("url", "")),
    ),
    StandIn(
        name="redfish",
        title="a machine of QEMU (TCG) with a Redfish controller: sushy-tools",
        grade=Grade.NESTED,
        lacks=libvirt_host.missing_tools,
        start=_start_redfish,
        stop=_stop_redfish,
        url=_redfish_url,
        root=True,
    ),
)
