# SPDX-License-Identifier: Apache-2.0
"""Notifiers by name: imported only when chosen, so that their needs stay optional.

Outsiders join by the entry point group `hypervouch.reporters`, whose value names a notifier
class; its options model stands beside it under the attribute `Options`.
"""

from typing import Protocol, cast

from pydantic import BaseModel

from ci import plugins
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
    return cast("NotifierClass", plugins.load("reporter", name, BUILT_IN, GROUP))
