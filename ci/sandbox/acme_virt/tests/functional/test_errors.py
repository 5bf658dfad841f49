# SPDX-License-Identifier: Apache-2.0
"""Calls that make no sense are refused by name and change nothing."""

from __future__ import annotations

import pytest

from acme_virt import GuestExists, GuestMissing, VirtDriver, WrongState


def test_a_name_is_taken_once(driver: VirtDriver, running: str) -> None:
    with pytest.raises(GuestExists):
        driver.launch(running)
    assert driver.state(running) == "running"


def test_an_unknown_guest_is_named(driver: VirtDriver) -> None:
    with pytest.raises(GuestMissing, match="nobody"):
        driver.pause("nobody")


def test_a_running_guest_is_not_resumed(driver: VirtDriver, running: str) -> None:
    with pytest.raises(WrongState, match="running, not paused"):
        driver.resume(running)
