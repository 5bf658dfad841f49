# SPDX-License-Identifier: Apache-2.0
"""Drivers by name: ours by dotted path, outsiders' by entry point; imported only when chosen."""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ci.errors import ConfigError


def load(kind: str, name: str, built_in: Mapping[str, str], group: str) -> Any:
    """What a driver's name stands for.

    Args:
        kind: What it is to the operator: `provider`, `reporter`.
        name: As the configuration says it.
        built_in: `module:attribute` by name.
        group: Of entry points, for names that are not ours.

    Raises:
        ConfigError: There is no driver of that name, or it cannot be imported.
    """
    dotted = built_in.get(name) or next(
        (point.value for point in entry_points(group=group, name=name)), None
    )
    if dotted is None:
        raise ConfigError(
            f"there is no {kind} driver {name}", hint=f"use one of {', '.join(built_in)}"
        )
    module, _, attribute = dotted.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ImportError as error:
        raise ConfigError(
            f"{kind} driver {name} needs {error.name}, which is not installed",
            hint=f"install it into the environment of hypervouch: pip install {error.name}",
        ) from error
    except AttributeError as error:
        raise ConfigError(
            f"{kind} driver {name} is broken: {module} has no {attribute}",
            hint="ask whoever made the package that brings it",
        ) from error


def need(module: str, *, extra: str, what: str) -> Any:
    """A library of one of our extras, imported only when it is needed.

    Args:
        module: As it is imported.
        extra: Of our package, as `pip install hypervouch[EXTRA]` names it.
        what: What needs it, for the message.

    Raises:
        ConfigError: It is not installed, or cannot be loaded.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{what} needs the Python module {module}: {error}",
            hint=f"pip install hypervouch[{extra}]",
        ) from error
