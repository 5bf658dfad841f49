# SPDX-License-Identifier: Apache-2.0
"""The guard of this folder: no network, no process, no sleep."""

import asyncio
import os
import socket
import subprocess
import sys
import time

import pytest

from ci import proc


def test_a_connection_is_refused():
    with socket.socket() as plug, pytest.raises(AssertionError, match="open a connection"):
        plug.connect(("127.0.0.1", 9))


def test_a_process_is_refused():
    with pytest.raises(AssertionError, match="start a process"):
        proc.run([sys.executable, "-V"])
    with pytest.raises(AssertionError, match="start a process"):
        subprocess.run([sys.executable, "-V"], check=False)
    with pytest.raises(AssertionError, match="start a process"):
        os.system("true")  # noqa: S605


def test_a_sleep_is_refused_and_a_yield_is_not():
    with pytest.raises(AssertionError, match="must not sleep"):
        time.sleep(0.001)
    time.sleep(0)


def test_an_event_loop_still_works():
    assert asyncio.run(asyncio.sleep(0, "done")) == "done"
