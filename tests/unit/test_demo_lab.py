# SPDX-License-Identifier: Apache-2.0
"""`hypervouch demo --lab`: what is told before anything is started."""

from contextlib import nullcontext

import pytest

from ci.demo import lab
from ci.demo.lab import LabNode, Reach, chosen
from ci.errors import ConfigError
from ci.model.result import Grade


def node(*packages: str) -> LabNode:
    reach = Reach(url="dummy:///", grade=Grade.EMULATOR)
    return LabNode(lacks=lambda: packages, up=lambda *_: nullcontext(reach))


@pytest.fixture(autouse=True)
def _lab(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {"here": node(), "xen": node("qemu-system-x86"), "uml": node("uml-utilities", "uml")}
    monkeypatch.setattr(lab, "LAB", nodes)


def test_names_keep_their_order_and_come_once():
    assert chosen(" here,, here ") == ("here",)
    assert chosen("") == ()


def test_an_unknown_name_is_told_with_those_there_are():
    with pytest.raises(ConfigError, match="no lab node vmware") as told:
        chosen("here,vmware")
    assert told.value.hint == "use here, xen, uml"


def test_all_missing_packages_come_in_one_command():
    with pytest.raises(ConfigError) as told:
        chosen("here,uml,xen")
    assert told.value.hint == (
        "apt-get install --no-install-recommends qemu-system-x86 uml uml-utilities"
    )


def test_keys_travel_with_the_url(tmp_path):
    reach = Reach(url="xl+ssh://root@h", grade=Grade.NESTED, key_file=tmp_path / "k")
    assert reach.words() == [
        *("--hypervisor", "xl+ssh://root@h", "--grade", "nested"),
        *("--key-file", str(tmp_path / "k")),
    ]
