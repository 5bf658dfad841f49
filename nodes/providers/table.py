# SPDX-License-Identifier: Apache-2.0
"""Node providers by name: imported only when chosen, so that their needs stay optional.

Outsiders join by the entry point group `hypervouch.providers`, whose value names a provider
class; its options model stands beside it under the attribute `Options`.
"""

from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, cast

from pydantic import BaseModel

from ci.errors import ConfigError
from nodes.providers.base import Provider

GROUP = "hypervouch.providers"
BUILT_IN = {
    "qemu": "nodes.providers.qemu:QemuProvider",
    "static": "nodes.providers.static:StaticProvider",
    "local": "nodes.providers.local:LocalProvider",
    "dummy": "nodes.providers.dummy:DummyProvider",
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
    dotted = BUILT_IN.get(name) or next(
        (point.value for point in entry_points(group=GROUP, name=name)), None
    )
    if dotted is None:
        raise ConfigError(
            f"there is no provider driver {name}", hint=f"use one of {', '.join(BUILT_IN)}"
        )
    module, _, attribute = dotted.partition(":")
    try:
        return cast("ProviderClass", getattr(import_module(module), attribute))
    except ImportError as error:
        raise ConfigError(
            f"provider driver {name} needs {error.name}, which is not installed",
            hint=f"install it, for instance as hypervouch[{name}]",
        ) from error
