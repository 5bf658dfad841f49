# SPDX-License-Identifier: Apache-2.0
"""Consoles: the serial line both ways, its log, and screens that speak their protocol."""

import socket
import struct

import pytest

from ci.jobs.compute.bench import Bench, Guest
from ci.model.feature import Feature

_ANSWER_S = 20.0
_FEW = 10
_SPICE_LINK = b"REDQ" + struct.pack("<III", 2, 2, 18)
_SPICE_MESSAGE = struct.pack("<IBBIII", 0, 1, 0, 0, 0, 18)
_RDP_REQUEST = bytes.fromhex("030000130ee000000000000100080000000000")


@pytest.mark.feature(Feature.CONSOLE_SERIAL_INTERACTIVE)
def test_serial_both_ways(guest: Guest) -> None:
    """What is typed reaches the guest, and what it says comes back."""
    assert "sesame" in str(guest.ask("sesame")["error"])


@pytest.mark.feature(Feature.CONSOLE_SERIAL_LOG)
def test_serial_log(bench: Bench, guest: Guest) -> None:
    """What the guest said stands in the log, its last words too."""
    guest.ask("say-this")
    log = bench.hypervisor.console_log(guest.name)
    assert b'"event": "boot"' in log
    assert b"say-this" in log
    assert len(bench.hypervisor.console_log(guest.name, _FEW)) <= _FEW


@pytest.mark.feature(Feature.CONSOLE_VNC)
def test_vnc(bench: Bench) -> None:
    """The screen greets as a VNC server does."""
    guest = bench.launch(wait=False, graphics="vnc")
    screen = bench.hypervisor.screen(guest.name, "vnc")
    assert _talk(screen.host, screen.port, b"").startswith(b"RFB 003.")


@pytest.mark.feature(Feature.CONSOLE_SPICE)
def test_spice(bench: Bench) -> None:
    """The screen answers a SPICE link message with one of its own."""
    guest = bench.launch(wait=False, graphics="spice")
    screen = bench.hypervisor.screen(guest.name, "spice")
    assert _talk(screen.host, screen.port, _SPICE_LINK + _SPICE_MESSAGE).startswith(b"REDQ")


@pytest.mark.feature(Feature.CONSOLE_RDP)
def test_rdp(bench: Bench, guest: Guest) -> None:
    """The screen answers an RDP connection request."""
    screen = bench.hypervisor.screen(guest.name, "rdp")
    assert _talk(screen.host, screen.port, _RDP_REQUEST).startswith(b"\x03\x00")


def _talk(host: str, port: int, request: bytes) -> bytes:
    with socket.create_connection((host, port), timeout=_ANSWER_S) as line:
        line.settimeout(_ANSWER_S)
        if request:
            line.sendall(request)
        return line.recv(64)
