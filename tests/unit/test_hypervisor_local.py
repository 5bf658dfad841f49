# SPDX-License-Identifier: Apache-2.0
"""What hypervisors on this machine share: names, image files, faults of the disk."""

import errno
from pathlib import Path

import pytest

from nodes.hypervisors import local
from nodes.hypervisors.base import GuestImage
from nodes.hypervisors.faults import CallerFault, NodeFault


@pytest.mark.parametrize("name", ["hv-a", "hv-A-9", "hv-" + "x" * 37])
def test_names_of_ours(name):
    local.check_name(name)


@pytest.mark.parametrize("name", ["", "hv-", "a", "hv-a/b", "hv-a\n", "hv-..", "hv-" + "x" * 38])
def test_other_names(name):
    with pytest.raises(CallerFault):
        local.check_name(name)


def test_properties_have_to_fit():
    image = GuestImage(properties={"hypervisor_type": "LXC", "vm_mode": "exe"})
    local.check_properties(image, frozenset({"lxc"}), frozenset({"exe"}))
    with pytest.raises(CallerFault, match="vm_mode exe"):
        local.check_properties(image, frozenset({"lxc"}), frozenset({"hvm"}))


def test_a_file_is_known_by_its_first_bytes(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"..ab")
    assert local.need_file(path, "thing", {b"ab": 2}) == path
    for wrong in (None, tmp_path / "gone", tmp_path):
        with pytest.raises(CallerFault):
            local.need_file(wrong, "thing", {b"ab": 2})
    with pytest.raises(CallerFault, match="is no thing"):
        local.need_file(path, "thing", {b"ab": 0})


def test_a_full_disk_is_the_nodes_fault():
    with (
        pytest.raises(NodeFault, match="No space left") as caught,
        local.disk_faults(Path("/x")),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.hint


def test_this_machine(monkeypatch):
    monkeypatch.setattr(local, "_address", lambda hostname: "192.0.2.7")
    told = local.status()
    assert told.hostname
    assert told.address == "192.0.2.7"
    assert told.memory_mib > 0
    assert told.cpus > 0
    assert told.uptime_s > 0
