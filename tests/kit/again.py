# SPDX-License-Identifier: Apache-2.0
"""Take the tests of another module over, to run them once more in other surroundings."""

from importlib import import_module
from typing import Any

from _pytest.fixtures import FixtureFunctionDefinition


def again(name: str) -> dict[str, Any]:
    """What pytest finds in a module: its tests, its fixtures and its marks, by name.

    Args:
        name: Dotted name of the module; its tests keep its own globals.
    """
    return {
        key: value
        for key, value in vars(import_module(name)).items()
        if key.startswith(("test_", "Test"))
        or key == "pytestmark"
        or isinstance(value, FixtureFunctionDefinition)
    }
