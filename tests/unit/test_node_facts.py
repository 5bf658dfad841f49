# SPDX-License-Identifier: Apache-2.0
"""What a node says of itself: its hypervisor's answer, pinned versions, likeness."""

import pytest

from ci.errors import NodeUnavailable
from ci.model.node import Endpoint, Transport
from ci.model.result import Grade
from nodes import daemons
from nodes.health import parse
from nodes.holding import login
from nodes.likeness import likeness
from nodes.reach import url_of

VIRSH = (
    "Compiled against library: libvirt 9.0.0\nUsing library: libvirt 9.0.0\n"
    "Using API: QEMU 9.0.0\nRunning hypervisor: QEMU 7.2.22\n"
)
FACTS = {
    "kernel": "6.1.0-28-amd64",
    "virt": "nested",
    "arch": "x86_64",
    "libvirt": "9.0.0",
    "qemu": "7.2.22",
    "firmware": "bios 1.16",
    "cpu-flags": "sse sse2",
    "free-disk-mib": "700",
}


class TestDaemons:
    @pytest.mark.parametrize(
        ("url", "program"),
        [
            ("qemu:///system", "virsh -c qemu:///system version"),
            ("qemu:///session", "virsh"),
            ("xen:///system", "virsh"),
            ("lxc:///system", "virsh"),
            ("xl:///", "xl info"),
            ("docker:///", "docker version"),
            ("podman:///", "podman version"),
        ],
    )
    def test_each_is_asked_by_its_own_program_and_not_for_ever(self, url, program):
        command = daemons.asking(url)
        assert program in command
        assert f"timeout {daemons.ANSWER_S} " in command

    @pytest.mark.parametrize(
        "url",
        ["", "qemu:///tcg", "dummy:///", "QEMU 7.2", "qemu+ssh://a/system", "http://[", "uml:///"],
    )
    def test_a_name_for_people_is_not_asked(self, url):
        assert daemons.asking(url) == ""

    def test_versions_are_read(self):
        assert daemons.versions(VIRSH) == {"libvirt": "9.0.0", "qemu": "7.2.22"}
        assert daemons.versions("release: 6.1\nxen_version            : 4.17.3\n") == {
            "xen": "4.17.3"
        }
        assert daemons.versions("docker 20.10.24+dfsg1") == {"docker": "20.10.24+dfsg1"}
        assert daemons.versions("nothing of the kind") == {}

    @pytest.mark.parametrize(
        ("status", "said", "why"),
        [
            ("1", "error: failed to connect\nerror: no socket", "error: no socket"),
            ("124", "", "no answer within 10 s"),
            ("127", "sh: virsh: not found", "its program is not installed"),
            ("", "", "status unknown"),
        ],
    )
    def test_why_it_does_not_answer_is_said(self, status, said, why):
        assert daemons.complaint("qemu:///system", status, said).endswith(why)

    def test_one_that_answers_is_no_complaint(self):
        assert daemons.complaint("qemu:///system", "0", VIRSH) == ""

    def test_the_probe_carries_its_words(self):
        answers = parse(f"kernel 6.1\nflags sse hypervisor\nstatus 0\nsaid {VIRSH}", now=0)
        assert answers.facts["qemu"] == "7.2.22"
        assert answers.facts["virt"] == "nested"
        assert "qemu" not in parse(f"status 1\nsaid {VIRSH}", now=0).facts


class TestPins:
    def test_patterns_that_fit_say_nothing(self):
        daemons.check_pins("n", FACTS, {"kernel": "6.1*", "qemu": "7.2.*"})
        daemons.check_pins("n", {}, {})

    def test_wanted_and_found_are_named(self):
        with pytest.raises(NodeUnavailable) as caught:
            daemons.check_pins("lab-1", FACTS, {"qemu": "8.*", "xen": "4.*", "kernel": "6.*"})
        assert caught.value.message == (
            "lab-1 has other versions than pinned: qemu is 7.2.22, pinned is 8.*; "
            "xen is not known, pinned is 4.*"
        )
        assert "`pinned`" in caught.value.hint


class TestLikeness:
    def like(self, **facts: str) -> str:
        return likeness(Grade.BARE, "qemu:///system", {**FACTS, **facts})

    def test_it_is_for_people_too(self):
        assert self.like().startswith(
            "bare, qemu:/system, nested, x86_64, libvirt 9, qemu 7, Linux 6.1, bios ("
        )

    @pytest.mark.parametrize(
        "change",
        [
            {"qemu": "8.0.0"},
            {"libvirt": "10.1.0"},
            {"kernel": "6.6.1"},
            {"virt": "bare"},
            {"arch": "aarch64"},
            {"firmware": "uefi 2"},
            {"cpu-flags": "sse sse2 vmx"},
        ],
    )
    def test_what_can_change_a_verdict_makes_unlike(self, change):
        assert self.like(**change) != self.like()

    @pytest.mark.parametrize(
        "change",
        [
            {"qemu": "7.2.23"},
            {"kernel": "6.1.0-29-amd64"},
            {"free-disk-mib": "1"},
            {"cpu-flags": "sse2 sse"},
            {"firmware": "bios 1.17"},
        ],
    )
    def test_what_cannot_does_not(self, change):
        assert self.like(**change) == self.like()

    def test_grade_and_hypervisor_count(self):
        found = {
            likeness(Grade.BARE, "qemu:///system", {}),
            likeness(Grade.NESTED, "qemu:///system", {}),
            likeness(Grade.BARE, "xen:///system", {}),
            likeness(Grade.NONE, "", {}),
        }
        assert len(found) == 4
        assert likeness(Grade.BARE, "Acme 1.2.3", {}) == likeness(Grade.BARE, "Acme 1.3.0", {})


class TestReach:
    def test_over_ssh_the_url_leads_there(self):
        endpoint = Endpoint(
            transport=Transport.SSH, host="h", port=2200, user="ci", hypervisor="qemu:///system"
        )
        assert url_of(endpoint) == "qemu+ssh://ci@h:2200/system"
        local = Endpoint(transport=Transport.LOCAL, hypervisor="qemu:///system")
        assert url_of(local) == "qemu:///system"
        assert url_of(Endpoint(transport=Transport.SSH, hypervisor="qemu:///tcg")) == ""

    def test_the_login_line_insists_on_the_pinned_key(self, tmp_path):
        line = login(
            Endpoint(
                transport=Transport.SSH,
                host="h",
                port=2200,
                user="ci",
                key_file=tmp_path / "a key",
                known_hosts=tmp_path / "known",
            )
        )
        assert line.startswith(f"ssh -i '{tmp_path}/a key' -p 2200 ")
        assert f"UserKnownHostsFile={tmp_path}/known" in line
        assert "StrictHostKeyChecking=yes" in line
        assert line.endswith(" ci@h")
        assert login(Endpoint(transport=Transport.DUMMY)) == ""
        assert login(Endpoint(transport=Transport.LOCAL, workdir="/a b")) == "cd '/a b'"
