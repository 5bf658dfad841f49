# SPDX-License-Identifier: Apache-2.0
"""What is missing is skipped by name, or fails where it is required."""

import pytest

from tests.kit.require import REQUIRE, require


@pytest.fixture(autouse=True)
def _nothing_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUIRE, raising=False)


def test_what_is_present_goes_on():
    require("qemu", present=True, why="never shown")


def test_what_is_missing_is_skipped_by_name():
    with pytest.raises(pytest.skip.Exception, match="qemu: install it"):
        require("qemu", present=False, why="install it")


@pytest.mark.parametrize("value", ["qemu", "gerrit,qemu", "gerrit qemu, sshd"])
def test_what_is_required_fails(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv(REQUIRE, value)
    with pytest.raises(pytest.fail.Exception, match=r"qemu: install it .*HYPERVOUCH_REQUIRE"):
        require("qemu", present=False, why="install it")


def test_another_required_part_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(REQUIRE, "gerrit")
    with pytest.raises(pytest.skip.Exception):
        require("qemu", present=False, why="install it")


def test_a_part_nobody_knows_is_a_mistake(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(REQUIRE, "chrome")
    with pytest.raises(ValueError, match="unknown part chrome"):
        require("qemu", present=True, why="")
