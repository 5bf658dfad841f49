# SPDX-License-Identifier: Apache-2.0
"""The part of a health job that boots a guest: does the hypervisor do what it is there for?"""

import secrets
import time
from collections.abc import Callable

from ci.errors import ConfigError, NodeUnavailable
from ci.model.node import Endpoint
from nodes.health_job import Trial
from nodes.hypervisors.base import PREFIX, GuestImage, GuestSpec, GuestState, Hypervisor
from nodes.hypervisors.guest import GuestAgent
from nodes.reach import Connect

BOOT_S = 300.0


def tiny_image(arch: str) -> GuestImage:
    """Our tiny guest, built when it is wanted for the first time."""
    from nodes.images.tiny import tiny  # noqa: PLC0415 - most health jobs boot nothing

    return tiny(arch=arch)


def disk_of(image: GuestImage) -> GuestImage:
    """The same with a disk that UEFI boots, for hypervisors that take no kernel."""
    from nodes.images.bootable import bootable  # noqa: PLC0415 - as above

    return bootable(image)


def booting(
    connect: Connect,
    image: Callable[[str], GuestImage] = tiny_image,
    disk: Callable[[GuestImage], GuestImage] = disk_of,
) -> Trial:
    """A trial that boots a guest, hears its agent and removes it.

    Args:
        connect: Gives the node's hypervisor.
        image: Gives what is booted, by architecture.
        disk: Gives it with a disk.
    """

    def trial(endpoint: Endpoint) -> dict[str, str]:
        hypervisor = connect(endpoint)
        if hypervisor is None:
            raise NodeUnavailable(
                f"there is no hypervisor to boot a guest on: {endpoint.hypervisor or 'no URL'}",
                hint="correct `hypervisor`, or leave health-guest out",
            )
        try:
            if not hypervisor.runs_guests:
                raise NodeUnavailable(
                    f"no guest can be asked on {hypervisor.system().title}: it gives no console",
                    hint="leave health-guest out",
                )
            wanted = image(endpoint.facts.get("arch", "x86_64"))
            return _boot(hypervisor, disk(wanted) if hypervisor.boots_disks else wanted)
        except ConfigError as error:
            raise NodeUnavailable(f"no guest could be booted: {error.message}") from error
        finally:
            hypervisor.close()

    return trial


def _boot(hypervisor: Hypervisor, image: GuestImage) -> dict[str, str]:
    name = f"{PREFIX}health-{secrets.token_hex(4)}"
    began = time.monotonic()
    try:
        hypervisor.launch(GuestSpec(name=name, image=image))
        if hypervisor.info(name).state is not GuestState.RUNNING:
            raise NodeUnavailable("the guest of the health job does not run")
        console = hypervisor.console(name)
        try:
            GuestAgent(console).ask("ping", timeout_s=BOOT_S)
        finally:
            console.close()
    finally:
        hypervisor.delete(name)
    return {"guest-boot-s": f"{time.monotonic() - began:.1f}"}
