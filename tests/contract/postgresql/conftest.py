# SPDX-License-Identifier: Apache-2.0
"""The store's and the flow's tests once more, over PostgreSQL.

Each module here takes over the tests of the module of that name in tests/unit, where they run
over SQLite: one contract, two databases.
"""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
ABOUT_A_FILE = {"test_what_waits_is_tried_at_once_after_it_worked"}
"""Tests of how an installation on SQLite is found: by its file."""


@pytest.fixture(autouse=True)
def _over_postgresql(on_postgresql: None) -> None:
    """Each directory's database is one of PostgreSQL."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They need a real counterpart; what is about SQLite's file is not taken over."""
    items[:] = [i for i in items if i.path.parent != HERE or i.name not in ABOUT_A_FILE]
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.integration)
