# SPDX-License-Identifier: Apache-2.0
"""Notifiers by name: imported only when chosen, so that their needs stay optional.

Outsiders join by the entry point group `hypervouch.reporters`, whose value names a notifier
class; its options model stands beside it under the attribute `Options`.
"""

from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol, cast

from pydantic import BaseModel

from ci.errors import ConfigError
from ci.reporters.notifier import Notifier

GROUP = "hypervouch.reporters"
BUILT_IN = {
    "webhook": "ci.reporters.webhook:WebhookNotifier",
    "email": "ci.reporters.email:EmailNotifier",
    "dummy": "ci.reporters.dummy_notifier:DummyNotifier",
}


class NotifierClass(Protocol):
    """What a driver offers: its options model, and how to make a notifier of them."""

    Options: type[BaseModel]

    def __call__(self, options: BaseModel) -> Notifier:
        """A notifier that has contacted nobody yet.

        Raises:
            ConfigError: A secret is missing or of no use.
        """
        ...


def driver(name: str) -> NotifierClass:
    """The notifier class of a driver.

    Raises:
        ConfigError: There is no driver of that name, or it cannot be imported.
    """
    dotted = BUILT_IN.get(name) or next(
        (point.value for point in entry_points(group=GROUP, name=name)), None
    )
    if dotted is None:
        raise ConfigError(
            f"there is no reporter driver {name}", hint=f"use one of {', '.join(BUILT_IN)}"
        )
    module, _, attribute = dotted.partition(":")
    try:
        return cast("NotifierClass", getattr(import_module(module), attribute))
    except ImportError as error:
        raise ConfigError(
            f"reporter driver {name} needs {error.name}, which is not installed",
            hint=f"install it into the environment of hypervouch: pip install {error.name}",
        ) from error
    except AttributeError as error:
        raise ConfigError(
            f"reporter driver {name} is broken: {module} has no {attribute}",
            hint="ask whoever made the package that brings it",
        ) from error
