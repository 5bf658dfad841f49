# SPDX-License-Identifier: Apache-2.0
"""A snapshot brings back the guest's memory: its counter goes on from the moment it was taken."""

from __future__ import annotations

import pytest

from acme_virt import DriverError, VirtDriver, guest
from conftest import wait_for


def test_restore_brings_the_counter_back(driver: VirtDriver, running: str) -> None:
    driver.snapshot(running, "early")
    taken_at = guest.ticks(driver.console(running))[-1]
    wait_for(lambda: guest.ticks(driver.console(running))[-1] >= taken_at + 5, "five more ticks")
    said = len(driver.console(running))
    driver.restore(running, "early")
    # A tick of the old time may slip in between the reading and the restore.
    wait_for(
        lambda: any(tick <= taken_at + 2 for tick in guest.ticks(driver.console(running)[said:])),
        "an earlier tick",
    )
    assert guest.boots(driver.console(running)) == [1]


def test_restore_of_an_unknown_tag_is_refused(driver: VirtDriver, running: str) -> None:
    with pytest.raises(DriverError):
        driver.restore(running, "never-taken")
