# SPDX-License-Identifier: Apache-2.0
"""The guest of a health job: booted, heard, removed; whatever goes wrong is the node's."""

from dataclasses import replace
from pathlib import Path

import pytest

from ci.errors import ConfigError, NodeUnavailable
from ci.model.node import Endpoint, Transport
from nodes.health_guest import booting
from nodes.hypervisors.base import Access, GuestImage, Hypervisor
from nodes.hypervisors.dummy import connect as dummy

NODE = Endpoint(transport=Transport.LOCAL, hypervisor="dummy:///", facts={"arch": "x86_64"})


def connecting(folder: Path, url: str = "dummy:///"):
    def connect(_: Endpoint) -> Hypervisor:
        return dummy(url, Access(work=folder))

    return connect


def image(arch: str) -> GuestImage:
    return GuestImage(arch=arch)


def test_it_boots_answers_and_is_gone(tmp_path):
    keeper = dummy("dummy:///", Access(work=tmp_path))
    files = [tmp_path / name for name in ("kernel", "initrd")]
    for file in files:
        file.touch()
    made = GuestImage(kernel=files[0], initrd=files[1])
    facts = booting(connecting(tmp_path), lambda _: made)(NODE)
    assert float(facts["guest-boot-s"]) >= 0
    assert not keeper.inventory().guests


def test_a_node_without_a_hypervisor_cannot_boot_one():
    with pytest.raises(NodeUnavailable, match="no hypervisor to boot a guest on"):
        booting(lambda _: None, image)(NODE)


def test_a_hypervisor_that_boots_disks_is_given_one(tmp_path, monkeypatch):
    keeper = dummy("dummy:///", Access(work=tmp_path))
    monkeypatch.setattr(type(keeper), "boots_disks", True)
    disk = tmp_path / "disk"
    disk.touch()
    given: list[GuestImage] = []

    def with_disk(made: GuestImage) -> GuestImage:
        given.append(made)
        return replace(made, disk=disk)

    assert booting(connecting(tmp_path), image, with_disk)(NODE)
    assert [one.arch for one in given] == ["x86_64"]


def test_one_without_a_console_is_asked_for_nothing(tmp_path, monkeypatch):
    keeper = dummy("dummy:///", Access(work=tmp_path))
    monkeypatch.setattr(type(keeper), "runs_guests", False)
    with pytest.raises(NodeUnavailable, match="it gives no console") as told:
        booting(connecting(tmp_path), image)(NODE)
    assert "health-guest" in told.value.hint
    assert not keeper.inventory().guests


def test_an_image_that_cannot_be_had_is_said(tmp_path):
    def none(_: str) -> GuestImage:
        raise ConfigError("no packages")

    with pytest.raises(NodeUnavailable, match="no guest could be booted: no packages"):
        booting(connecting(tmp_path), none)(NODE)
