# SPDX-License-Identifier: Apache-2.0
"""Node providers by name: imported only when chosen, so that their needs stay optional.

Outsiders join by the entry point group `hypervouch.providers`, whose value names a provider
class; its options model stands beside it under the attribute `Options`.
"""

from pathlib import Path
from typing import Protocol, cast

from pydantic import BaseModel

from ci import plugins
from nodes.providers.base import Provider

GROUP = "hypervouch.providers"
BUILT_IN = {
    "qemu": "nodes.providers.qemu:QemuProvider",
    "static": "nodes.providers.static:StaticProvider",
    "windows": "nodes.providers.windows:WindowsProvider",
    "local": "nodes.providers.local:LocalProvider",
    "dummy": "nodes.providers.dummy:DummyProvider",
    "libvirt": "nodes.providers.libvirt:LibvirtProvider",
    "container": "nodes.providers.container:ContainerProvider",
    "openstack": "nodes.providers.openstack:OpenstackProvider",
}


class ProviderClass(Protocol):
    """What a driver offers: its options model, and how to make a provider of them."""

    Options: type[BaseModel]

    def __call__(self, options: BaseModel, state_dir: Path) -> Provider:
        """A provider that keeps what it must remember below `state_dir`."""
        ...


def driver(name: str) -> ProviderClass:
    """The provider class of a driver.

    Raises:
        ConfigError: There is no driver of that name, or it cannot be imported.
    """
    return cast("ProviderClass", plugins.load("provider", name, BUILT_IN, GROUP))
