# SPDX-License-Identifier: Apache-2.0
"""What the guest itself says when it is launched, paused, resumed, reset and destroyed."""

from __future__ import annotations

import time
from pathlib import Path

from acme_virt import VirtDriver, guest
from conftest import wait_for


def test_launch_prints_the_banner(driver: VirtDriver, running: str) -> None:
    first_line = driver.console(running).splitlines()[0]
    assert first_line.startswith(f"{guest.BANNER}1")
    assert ("emulator" in first_line) == driver.emulator


def test_console_shows_the_ticks_in_order(driver: VirtDriver, running: str) -> None:
    before = guest.ticks(driver.console(running))
    wait_for(
        lambda: len(guest.ticks(driver.console(running))) >= len(before) + 3, "three more ticks"
    )
    new = guest.ticks(driver.console(running))[len(before) :]
    assert new == list(range(before[-1] + 1, before[-1] + 1 + len(new)))


def test_console_takes_input(driver: VirtDriver, running: str) -> None:
    driver.send(running, "x")
    wait_for(lambda: "echo x" in driver.console(running), "the echo")


def test_pause_stops_the_ticks(driver: VirtDriver, running: str) -> None:
    driver.pause(running)
    assert driver.state(running) == "paused"
    before = driver.console(running)
    time.sleep(5 * guest.TICK_S)
    assert driver.console(running) == before


def test_resume_continues_the_same_counter(driver: VirtDriver, running: str) -> None:
    driver.pause(running)
    before = guest.ticks(driver.console(running))
    boots = guest.boots(driver.console(running))
    driver.resume(running)
    wait_for(
        lambda: len(guest.ticks(driver.console(running))) > len(before) + 2,
        "a tick after the resume",
        timeout_s=5,
    )
    after = guest.ticks(driver.console(running))[len(before) :]
    assert after[0] == before[-1] + 1, (
        f"tick {after[0]} came after tick {before[-1]}: the guest lost its memory"
    )
    assert guest.boots(driver.console(running)) == boots


def test_reboot_starts_the_counter_again(driver: VirtDriver, running: str) -> None:
    boots = guest.boots(driver.console(running))
    said = len(driver.console(running))
    driver.reboot(running)
    wait_for(lambda: len(guest.boots(driver.console(running))) > len(boots), "the new banner")
    wait_for(lambda: 1 in guest.ticks(driver.console(running)[said:]), "tick 1")
    assert guest.boots(driver.console(running)) == [*boots, boots[-1] + 1]


def test_two_guests_do_not_disturb_each_other(driver: VirtDriver, running: str) -> None:
    driver.launch("other")
    driver.pause("other")
    assert driver.state(running) == "running"
    before = guest.ticks(driver.console(running))[-1]
    wait_for(lambda: guest.ticks(driver.console(running))[-1] > before, "a tick of the first guest")
    driver.destroy("other")
    assert driver.names() == [running]


def test_destroy_ends_the_hypervisor(driver: VirtDriver, running: str) -> None:
    pid = driver.pid(running)
    driver.destroy(running)
    assert driver.names() == []
    assert not Path(f"/proc/{pid}").exists()
