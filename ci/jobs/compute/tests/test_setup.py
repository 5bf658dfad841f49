# SPDX-License-Identifier: Apache-2.0
"""What a guest is given before it boots."""

import json

import pytest

from ci.jobs.compute.bench import Bench, not_tried, wait_until
from ci.model.feature import Feature
from nodes.hypervisors.base import INTERFACES

_INTERFACES = """\
auto eth0
iface eth0 inet static
    address 198.18.77.77
    netmask 255.255.255.128
"""
_META = "openstack/latest/meta_data.json"


@pytest.mark.feature(Feature.GUEST_SETUP_CONFIGDRIVE)
def test_config_drive(bench: Bench) -> None:
    """The guest finds the drive by its label and reads every file of it."""
    meta = {"uuid": bench.name("meta"), "hostname": "proof"}
    drive = {_META: json.dumps(meta).encode(), "openstack/latest/user_data": b"#!/bin/sh\n"}
    guest = bench.launch(config_drive=drive)
    answer = guest.ask("configdrive")
    assert json.loads(answer["meta"]) == meta
    for name in drive:
        assert name in answer["files"]


@pytest.mark.feature(Feature.GUEST_SETUP_INJECT_FILE)
def test_injected_file(bench: Bench) -> None:
    """A file is there when the guest has booted."""
    guest = bench.launch(files={"/etc/injected": b"put here before the boot\n"})
    if not guest.has_shell():
        not_tried("needs a guest: a model has no files")
    assert guest.ask("exec cat /etc/injected")["out"].strip() == "put here before the boot"


@pytest.mark.feature(Feature.GUEST_SETUP_INJECT_NETWORKING)
def test_injected_network(bench: Bench) -> None:
    """The card has the address of the /etc/network/interfaces that was put there, and no other."""
    bench.need(Feature.GUEST_SETUP_INJECT_NETWORKING)
    guest = bench.launch(files={INTERFACES: _INTERFACES.encode()})

    def addresses() -> list[str]:
        return [str(nic["ip"]) for nic in guest.ask("nics")["nics"].values() if nic["ip"]]

    wait_until(lambda: bool(addresses()), bench.boot_s, "its card has no address")
    assert addresses() == ["198.18.77.77"]
