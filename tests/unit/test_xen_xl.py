# SPDX-License-Identifier: Apache-2.0
"""What xl is told and how its words are read."""

from dataclasses import replace
from pathlib import Path

import pytest

from ci.model.feature import Feature
from nodes.hypervisors import xen_words
from nodes.hypervisors.base import Access, GuestState
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.table import connect
from nodes.hypervisors.xen_words import (
    GuestType,
    Record,
    address,
    configuration,
    parse_info,
    parse_list,
)
from nodes.hypervisors.xen_xl import OPTIONS, XlHypervisor

LISTING = """\
Name                                        ID   Mem VCPUs	State	Time(s)
Domain-0                                     0   640     1     r-----     149.7
hv-a                                         1   160     1     -b----       4.2
hv-b                                         2   192     2     --p---       0.5
hv-c                                         3   128     1     ---sc-       9.9
hv-crashed                                   4   128     1     ----c-       9.9
hv-gone                                      5     0     1     ---s--       9.9
hv-m--incoming                               6   128     1     --p---       0.0
(null)                                       7     0     1     -----d       1.0
"""
RECORD = Record(
    memory_mib=160,
    cpus=2,
    kernel="/k",
    initrd="/i",
    arguments="tiny.host=x",
    macs=("52:54:00:00:00:01",),
    config_drive=True,
    volumes={"/v/hv-v": "xvdb"},
)


def test_guests_are_listed_without_dom0_and_without_what_goes_or_comes():
    found = parse_list(LISTING)
    assert {name: domain.state for name, domain in found.items()} == {
        "hv-a": GuestState.RUNNING,
        "hv-b": GuestState.PAUSED,
        "hv-crashed": GuestState.CRASHED,
    }
    assert (found["hv-b"].number, found["hv-b"].memory_mib, found["hv-b"].cpus) == (2, 192, 2)


@pytest.mark.parametrize("text", ["", "garbage\nmore garbage here\n", "Name\nhv-a x y z r- 1\n"])
def test_a_listing_that_is_none_has_no_guests(text: str):
    assert parse_list(text) == {}


def test_info_is_read_to_the_first_colon():
    told = parse_info("host : xen-node\nversion : #1 SMP: x\nnonsense\n")
    assert told == {"host": "xen-node", "version": "#1 SMP: x"}


def test_a_guest_is_described_whole():
    text = configuration("hv-a", RECORD, GuestType.PVH, "/g/hv-a", "br0")
    assert 'type = "pvh"\n' in text
    assert 'extra = "console=hvc0 quiet panic=-1 mitigations=off tiny.host=x"\n' in text
    assert "memory = 160\n" in text
    assert "vcpus = 2\n" in text
    assert '"format=raw,vdev=xvda,access=rw,target=/g/hv-a/disk.img"' in text
    assert '"format=raw,vdev=xvdz,access=ro,target=/g/hv-a/config.iso"' in text
    assert '"format=raw,vdev=xvdb,access=rw,target=/v/hv-v"' in text
    assert 'vif = ["mac=52:54:00:00:00:01,bridge=br0"]\n' in text


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (GuestType.PVH, 'vfb = ["type=vnc,vnclisten=127.0.0.1,vncunused=1"]'),
        (GuestType.PV, 'vfb = ["type=vnc,vnclisten=127.0.0.1,vncunused=1"]'),
        (GuestType.HVM, 'vnclisten = "127.0.0.1"'),
    ],
)
def test_a_screen_is_on_the_hosts_loopback_alone(kind: GuestType, line: str):
    text = configuration("hv-a", replace(RECORD, screen=True), kind, "/g", "br0")
    assert f"{line}\n" in text
    assert line not in configuration("hv-a", RECORD, kind, "/g", "br0")


def test_a_volume_can_be_the_first_disk():
    text = configuration("hv-a", replace(RECORD, root="/v/hv-r"), GuestType.PVH, "/g", "br0")
    assert '"format=raw,vdev=xvda,access=rw,target=/v/hv-r"' in text
    assert "disk.img" not in text


@pytest.mark.parametrize("words", ['x" on_crash="destroy', "a\nname=b", "a\\b", "a\0b"])
def test_nothing_breaks_out_of_a_guests_description(words: str):
    record = Record(memory_mib=1, cpus=1, kernel="/k", initrd="/i", arguments=words)
    with pytest.raises(CallerFault, match="cannot stand"):
        configuration("hv-a", record, GuestType.PV, "/g", "br0")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("xl:///", "leads to no Xen host"),
        ("xl+ssh:///", "leads to no Xen host"),
        ("xl+tcp://a", "leads to no Xen host"),
        ("xl+ssh://root:secret@a", "password"),
        ("xl+ssh://a:99999", "is no URL"),
        ("xl+ssh://a?colour=red", "unknown option colour"),
        ("xl+ssh://a?type=vax", "no type of Xen guests"),
        ("xl+ssh://a", "key-file"),
    ],
)
def test_a_wrong_url_is_told_before_anything_is_contacted(tmp_path: Path, url: str, why: str):
    with pytest.raises(CallerFault) as caught:
        connect(url, Access(work=tmp_path))
    assert why in f"{caught.value}"
    assert "secret" not in str(caught.value)


def test_a_url_says_who_and_where():
    where = address("xl+ssh://admin@xen1.example.org:2222?type=pv&bridge=br1", OPTIONS)
    assert (where.user, where.host, where.port) == ("admin", "xen1.example.org", 2222)
    assert where.options == {"type": "pv", "bridge": "br1"}


def test_what_xl_cannot_do_has_a_reason():
    assert XlHypervisor.missing is xen_words.MISSING
    assert all(reason for reason in XlHypervisor.missing.values())
    assert Feature.LAUNCH not in XlHypervisor.missing
