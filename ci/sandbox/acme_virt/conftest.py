# SPDX-License-Identifier: Apache-2.0
"""One guest for each test module; a test that left it stopped costs the next one a launch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from acme_virt import VirtDriver, guest

GUEST = "web"


def pytest_report_header(config: pytest.Config) -> str:
    """Say on every run what the guests run on."""
    return "hypervisor: " + ("emulator" if VirtDriver(Path()).emulator else "qemu (tcg)")


@pytest.fixture(scope="module")
def driver() -> Iterator[VirtDriver]:
    # Unix sockets' names are short; pytest's own folders may be too deep for them.
    with tempfile.TemporaryDirectory(prefix="acme-") as folder:
        made = VirtDriver(Path(folder))
        yield made
        made.destroy_all()


@pytest.fixture
def running(driver: VirtDriver) -> str:
    """The name of a guest that ticks."""
    if GUEST in driver.names() and driver.state(GUEST) != "running":
        driver.destroy(GUEST)
    if GUEST not in driver.names():
        driver.launch(GUEST)
        wait_for(lambda: len(guest.ticks(driver.console(GUEST))) > 0, "the first tick")
    return GUEST


def wait_for(condition: Callable[[], bool], what: str, *, timeout_s: float = 20.0) -> None:
    """Wait until a condition holds, or fail by saying what did not happen."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {timeout_s:g} s"
        time.sleep(0.02)
