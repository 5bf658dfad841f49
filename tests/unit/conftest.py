# SPDX-License-Identifier: Apache-2.0
"""Unit tests touch no network, start no process and never sleep; files are fine."""

import os
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest


class NotAUnitTest(AssertionError):
    """A unit test reached for the outside world."""


def _refuse(what: str) -> Callable[..., NoReturn]:
    def refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
        raise NotAUnitTest(f"a unit test must not {what}: use a fake, or move it to integration/")

    return refuse


def _sleep_only_zero(duration_s: float) -> None:
    if duration_s > 0:
        raise NotAUnitTest("a unit test must not sleep: inject ci.clock.Clock or wait on an Event")


@pytest.fixture(autouse=True)
def _alone_in_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", _refuse("open a connection"))
    monkeypatch.setattr(socket.socket, "connect_ex", _refuse("open a connection"))
    monkeypatch.setattr(subprocess.Popen, "__init__", _refuse("start a process"))
    monkeypatch.setattr(os, "system", _refuse("start a process"))
    monkeypatch.setattr(os, "posix_spawn", _refuse("start a process"))
    monkeypatch.setattr(time, "sleep", _sleep_only_zero)
