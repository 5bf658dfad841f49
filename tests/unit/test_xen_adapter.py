# SPDX-License-Identifier: Apache-2.0
"""What the xl adapter does with a host that answers as Xen's tools do; no host is asked."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest

from ci import proc
from ci.model.feature import Feature
from nodes.hypervisors.base import Access, GuestImage, GuestSpec, Nic, Rule, Volume
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from nodes.hypervisors.shell_link import Address, Answered, ShellLink
from nodes.hypervisors.xen_words import GuestType, Record
from nodes.hypervisors.xen_xl import XlHypervisor

GUEST, MAC = "hv-a", "52:54:00:00:00:01"
RUNS = "Name ID Mem VCPUs State Time(s)\nhv-a 3 160 1 -b---- 1.0\n"
GUARDED = Record(memory_mib=1, cpus=1, kernel="/k", initrd="/i", macs=(MAC,), guarded=(MAC,))


def said(status: int = 0, out: str = "", err: str = "") -> Answered:
    return Answered(status=status, out=out.encode(), err=err.encode())


@dataclass
class FakeShell:
    """Answers the first of `answers` whose words are in a command; else with nothing and 0."""

    answers: list[tuple[str, Callable[[], Answered]]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    fed: list[str] = field(default_factory=list)
    where: Address = field(default_factory=lambda: Address(host="x", port=22, user="root"))

    def run(
        self, argv: Sequence[str], *, timeout_s: float = 0, feed: bytes = b"", check: bool = True
    ) -> Answered:
        del timeout_s
        command = " ".join(argv)
        self.commands.append(command)
        self.fed.append(feed.decode())
        answer = next((make() for words, make in self.answers if words in command), said())
        if check and answer.status:
            raise NodeFault(answer.complaint)
        return answer


def adapter(shell: FakeShell, tmp_path: Path) -> XlHypervisor:
    access = Access(work=tmp_path, timeout_s=0.01)
    link = cast("ShellLink", shell)
    return XlHypervisor(link, access, kind=GuestType.PVH, bridge="br0")


def with_guest(record: Record = GUARDED) -> FakeShell:
    kept = json.dumps(asdict(record))
    return FakeShell([("xl list", lambda: said(out=RUNS)), ("cat ", lambda: said(out=kept))])


def test_a_guest_that_somebody_else_ended_meanwhile_is_ended(tmp_path: Path):
    refused = said(1, err="libxl: error: Domain 8:Unable to destroy guest")
    gone = said(1, err="hv-a is an invalid domain identifier (rc=-6)")
    shell = FakeShell([("xl destroy", lambda: refused), ("xl domid", lambda: gone)])
    adapter(shell, tmp_path).delete(GUEST)
    assert shell.commands[-1].startswith("rm -rf -- ")


def test_somebodys_domain_is_not_ended(tmp_path: Path):
    shell = with_guest()
    shell.answers.insert(0, ("test -d", lambda: said(1)))
    with pytest.raises(CallerFault, match="not ours"):
        adapter(shell, tmp_path).delete(GUEST)
    assert not any("xl destroy" in command for command in shell.commands)


def test_the_first_error_of_a_launch_is_told_though_it_cannot_be_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(proc, "wait_until", lambda *_args, **_more: iter([None]))
    answers = [("truncate", lambda: said(1, err="no space")), ("xl destroy", lambda: said(1))]
    one = adapter(FakeShell(answers), tmp_path)
    monkeypatch.setattr(one, "_check", lambda _spec: None)
    monkeypatch.setattr(one, "_look", lambda: ({}, set(), frozenset(), set(), frozenset()))
    monkeypatch.setattr(one, "_upload", lambda *_given: ("/k", "/i"))
    spec = GuestSpec(name=GUEST, image=GuestImage(arch="x86_64"))
    with pytest.raises(NodeFault, match="no space"):
        one.launch(spec)


def test_a_guest_that_does_not_end_is_the_nodes_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(proc, "wait_until", lambda *_args, **_more: iter([None]))
    shell = FakeShell([("xl destroy", lambda: said(1, err="it will not"))])
    with pytest.raises(NodeFault, match="it will not"):
        adapter(shell, tmp_path).delete(GUEST)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("libxl: error: Hotplug script timed out", TransientFault),
        ("libxl: error: no such device", NodeFault),
    ],
)
def test_what_libxl_lost_patience_with_may_be_tried_again(
    tmp_path: Path, words: str, kind: type[Exception]
):
    shell = with_guest()
    shell.answers.insert(0, ("xl network-attach", lambda: said(1, err=words)))
    with pytest.raises(kind, match="libxl"):
        adapter(shell, tmp_path).attach_interface(GUEST, Nic(mac="52:54:00:00:00:02"))
    undone = "xl network-detach hv-a 52:54:00:00:00:02" in shell.commands
    assert undone is (kind is TransientFault), "what came too late has to go before it comes anew"


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (124, TransientFault, "did not end"),
        (137, TransientFault, "did not end"),
        (1, NodeFault, "full"),
    ],
)
def test_a_dump_that_takes_too_long_is_no_missing_feature(
    tmp_path: Path, status: int, kind: type[Exception], words: str
):
    shell = with_guest()
    shell.answers.insert(0, ("xl dump-core", lambda: said(status, err="disk full")))
    with pytest.raises(kind, match=words):
        adapter(shell, tmp_path).crash_dump(GUEST)


def test_a_guarded_card_lets_in_what_its_rules_say_and_no_more(tmp_path: Path):
    shell = with_guest()
    rules = (Rule(protocol="icmp"), Rule(protocol="tcp", port=22))
    adapter(shell, tmp_path).update_interface(GUEST, Nic(mac=MAC, rules=rules))
    chain = "add rule bridge hypervouch hv525400000001"
    assert [line for line in shell.fed[-1].splitlines() if line.startswith(chain)] == [
        f"{chain} ether type arp accept",
        f"{chain} ct state established,related accept",
        f"{chain} ip protocol icmp accept",
        f"{chain} tcp dport 22 accept",
        f"{chain} drop",
    ]


def test_rules_that_are_none_are_refused(tmp_path: Path):
    xl = adapter(with_guest(), tmp_path)
    for nic in (
        Nic(mac=MAC, rules=(Rule(protocol="tcp; flush ruleset"),)),
        Nic(mac="52:54:00:00:00:07", rules=()),
    ):
        with pytest.raises(CallerFault):
            xl.update_interface(GUEST, nic)


def test_rules_go_with_their_guest(tmp_path: Path):
    shell = with_guest()
    shell.answers.insert(0, ("xl domid", lambda: said(1)))
    adapter(shell, tmp_path).delete(GUEST)
    assert "delete chain bridge hypervouch hv525400000001" in "".join(shell.fed)


def test_networks_are_bridges_of_ours(tmp_path: Path):
    xl = adapter(FakeShell(), tmp_path)
    xl.create_network("hv-net")
    xl.delete_network("hv-net")
    with pytest.raises(Unsupported) as caught:
        xl.attach_volume(GUEST, Volume(name="hv-v", size_mib=1, source="iscsi://a/b/0"))
    assert caught.value.feature is Feature.STORAGE_BLOCK_BACKEND_ISCSI
    for name in ("hv-much-too-long-a-name", "br0", "hv-../x"):
        with pytest.raises(CallerFault):
            xl.create_network(name)


def test_an_image_is_cached_once_and_needs_no_file_then(tmp_path: Path):
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    image = GuestImage(kernel=kernel, initrd=initrd, id="4711")
    there = FakeShell()
    assert adapter(there, tmp_path).cache_image(image) is False
    missing = FakeShell([("test -f", lambda: said(1))])
    with pytest.raises(CallerFault):
        adapter(missing, tmp_path).cache_image(image)
    with pytest.raises(CallerFault, match="id"):
        adapter(there, tmp_path).cache_image(replace(image, id=""))
    adapter(there, tmp_path).forget_image(replace(image, id="../.."))
    assert ".." not in there.commands[-1]


def test_a_volume_does_not_shrink(tmp_path: Path):
    record = Record(memory_mib=1, cpus=1, kernel="/k", initrd="/i", volumes={"/v/hv-v": "xvdb"})
    xl = adapter(with_guest(record), tmp_path)
    volume = xl.create_volume("hv-v", 8)
    assert volume.path != "/v/hv-v"
    with pytest.raises(CallerFault, match="not attached"):
        xl.extend_volume(GUEST, volume, 16)


def test_a_name_that_another_launch_has_taken_is_left_alone(tmp_path: Path):
    taken = said(out="mkdir: cannot create directory '/hv-b': File exists\n")
    shell = FakeShell([('mkdir "$1"', lambda: taken)])
    one = adapter(shell, tmp_path)
    with pytest.raises(CallerFault, match="already"):
        one._claim("hv-b")
    assert not [command for command in shell.commands if command.startswith(("rm ", "xl destroy"))]


def test_cleaning_takes_only_guests_whose_folder_we_made(tmp_path: Path):
    looked = f"{RUNS}hv-b 4 160 1 -b---- 1.0\n=\nhv-a\n=\n=\n=\n"
    gone = said(1, err="hv-a is an invalid domain identifier (rc=-6)")
    shell = FakeShell(
        [
            ("xl list", lambda: said(out=looked)),
            ("xl destroy", lambda: said(1, err="unable to destroy")),
            ("xl domid", lambda: gone),
        ]
    )
    assert adapter(shell, tmp_path).cleanup() == (GUEST,)
    assert not [command for command in shell.commands if "hv-b" in command]
