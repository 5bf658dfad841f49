# SPDX-License-Identifier: Apache-2.0
"""What XenServer's and Hyper-V's adapters do alike, on the two emulators of ours.

No guest runs there: what is asked is what the hypervisor says. What is each one's own is tested
beside it: `tests/integration/test_xenserver.py`, `test_hyperv.py`.
"""

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ci.errors import HypervouchError
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import PREFIX, GuestImage, GuestSpec, GuestState, Inventory, Nic, Volume
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from nodes.hypervisors.table import connect
from tests.kit.require import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

NAME, VOLUME, MAC = f"{PREFIX}both", f"{PREFIX}both-v", "52:54:00:aa:00:01"
EDGE_MIB = (2047, 2048, 4096, 4097)
"""Where bytes of 31 and of 32 bits end."""
TIB_MIB = 1 << 20
SHORT_S = 1.0
HOSTILE = (
    "quotes ' \" `$(reboot)`; --",
    "two\nlines\tand a tab",
    "x" * 300,
    "\u202egnp.exe \u05e9\u05dc\u05d5\u05dd",
    "<b>&amp;</b> _x000D_",
    f"{PREFIX}looks-like-ours",
    f"{PREFIX}[a-z]*?",
)
off, on = GuestState.SHUTOFF, GuestState.RUNNING


@dataclass(frozen=True, kw_only=True)
class Model:
    """What the tests have to know of one system.

    Attributes:
        kit: Module of the tests that starts its emulator by the function `serve`.
        options: Of a URL, for the first or the second host.
        machines: Arguments that give the emulator that many machines of others.
        hosts: Names of the two.
        facts: Of the first: memory in MiB, processors.
        many: How many machines of others are tried.
        refused: What a launch cannot have, by the row that says so.
        foreign: Makes somebody else's machine, and gives what removes it.
        root: What a guest boots: another value is another disk.
        size: Bytes of a volume, as the hypervisor says.
        slow: The rule that lets `inventory` take longer than SHORT_S, and what is said then.
        ended: The rule that ends its sessions.
        after: Looks at the emulator when all is done.
        needs: Python modules.
    """

    kit: str
    serve: str
    options: Callable[[int], str]
    machines: Callable[[int], tuple[str, ...]]
    hosts: tuple[str, str]
    facts: tuple[int, int]
    many: int
    refused: Mapping[Feature, dict[str, Any]]
    foreign: Callable[[Any, str], Callable[[], object]]
    root: Callable[[Any, str], object]
    size: Callable[[Any, Volume], int]
    slow: tuple[str, dict[str, Any], str]
    ended: tuple[str, dict[str, Any]]
    after: Callable[[Any], object]
    needs: tuple[str, ...]


def _xen_foreign(one: Any, name: str) -> Callable[[], object]:
    record = {"name_label": name, "VCPUs_max": "1", "VCPUs_at_startup": "1", "other_config": {}}
    made = one._link.call("make theirs", "VM.create", record)
    return partial(one._link.call, "tidy", "VM.destroy", made)


def _xen_root(one: Any, name: str) -> object:
    return import_module("tests.kit.xapi").root_bytes(one, name, 6)


def _xen_size(one: Any, volume: Volume) -> int:
    return int(one._link.record("VDI", volume.path)["virtual_size"])


def _step(name: str, **parameters: Any) -> Any:
    return import_module("nodes.hypervisors.hyperv_link").step(name, **parameters)


def _hyperv_foreign(one: Any, name: str) -> Callable[[], object]:
    known = {told["Id"] for told in one._facts.machines()}
    one._link.run("make another's", _step("New-VM", Name=name), _step("Out-Null"))
    (made,) = {told["Id"] for told in one._facts.machines()} - known
    return partial(one._devices.on, "remove it", made, _step("Remove-VM", Force=None))


def _hyperv_root(one: Any, name: str) -> object:
    return one._root(name)


def _hyperv_size(one: Any, volume: Volume) -> int:
    shown = _step("Select-Object", Property=["Size"])
    return int(one._link.run("look", _step("Get-VHD", Path=volume.path), shown)[0]["Size"])


def _no_scripts(made: Any) -> None:
    """Names travelled as parameters, and nothing as text of a script."""
    assert not made.told()["scripts"]


_REFUSED: dict[Feature, dict[str, Any]] = {
    Feature.CONSOLE_VNC: {"graphics": "vnc"},
    Feature.GUEST_SETUP_INJECT_FILE: {"files": {"/a": b""}},
    Feature.DEVICE_TAGS: {"nics": (Nic(mac=MAC, tag="a"),)},
    Feature.NETWORKING_SECURITYGROUPS: {"nics": (Nic(mac=MAC, rules=()),)},
    Feature.REBUILD_VOLUME_BACKED: {"root": Volume(name=VOLUME, size_mib=8)},
}
MODELS = {
    "xenserver": Model(
        kit="tests.kit.xapi",
        serve="pool",
        options=lambda at: ("", "host=xs2")[at],
        machines=lambda count: ("--machines", str(count)),
        hosts=("xs1", "xs2"),
        facts=(32 << 10, 8),
        many=2000,
        refused=_REFUSED | {Feature.BOOT_EMULATED_TPM: {"tpm": True}},
        foreign=_xen_foreign,
        root=_xen_root,
        size=_xen_size,
        slow=("VM.get_all_records", {"delay_s": 3 * SHORT_S}, "timed out"),
        ended=("VM.get_all_records", {"error": ["SESSION_INVALID", "x"]}),
        after=lambda _made: None,
        needs=("XenAPI",),
    ),
    "hyperv": Model(
        kit="tests.kit.hyperv",
        serve="hosts",
        options=lambda _at: "auth=ntlm",
        machines=lambda count: (f"--machines={count}",),
        hosts=("HV01", "HV02"),
        facts=(64 << 10, 16),
        many=100,
        refused=_REFUSED,
        foreign=_hyperv_foreign,
        root=_hyperv_root,
        size=_hyperv_size,
        slow=("Get-VM", {"delay_s": 8 * SHORT_S}, "has not ended in 1 s"),
        ended=("", {"forget": "shells"}),
        after=_no_scripts,
        needs=("pypsrp", "psrpcore", "spnego"),
    ),
}


@dataclass(frozen=True)
class Served:
    """An emulator that runs."""

    system: str
    model: Model
    made: Any

    def url(self, at: int = 0) -> str:
        more = (at,) if self.system == "hyperv" else ()
        return str(self.made.url(self.model.options(at), *more))

    @contextmanager
    def opened(self, at: int = 0, **more: Any) -> Iterator[Any]:
        """A connection that ends with the block; `more` is of its access."""
        with closing(connect(self.url(at), self.made.access(**more))) as one:
            yield one

    def image(self, folder: Path, content: bytes = b"first") -> GuestImage:
        return import_module(self.model.kit).image(folder, content)  # type: ignore[no-any-return]

    @contextmanager
    def failing(self, call: str, rule: Mapping[str, Any]) -> Iterator[None]:
        """A fault for one block."""
        self.made.fail(call, **rule)
        try:
            yield
        finally:
            self.made.fail()


def serving(system: str, folder: Path, *more: str) -> AbstractContextManager[Any]:
    model = MODELS[system]
    made = getattr(import_module(model.kit), model.serve)(folder, *more)
    assert isinstance(made, AbstractContextManager)
    return made


@pytest.fixture(scope="module", params=list(MODELS))
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    system, model = request.param, MODELS[request.param]
    there = all(map(find_spec, model.needs))
    require(system, present=there, why=f"pip install 'hypervouch[{system}]'")
    with serving(system, tmp_path_factory.mktemp(system)) as made:
        yield Served(system, model, made)
        model.after(made)


@pytest.fixture(scope="module")
def linked(served: Served) -> Iterator[tuple[Any, Inventory]]:
    with served.opened() as made:
        yield made, made.inventory()


@pytest.fixture
def one(linked: tuple[Any, Inventory]) -> Iterator[Any]:
    """The first host, which is left as it was found."""
    made, before = linked
    yield made
    if made.inventory() != before:
        made.cleanup()
        assert made.inventory() == before


@pytest.fixture
def two(served: Served) -> Iterator[Any]:
    with served.opened(at=1) as made:
        yield made
        made.cleanup()


@pytest.fixture(scope="module")
def image(
    served: Served, linked: tuple[Any, Inventory], tmp_path_factory: pytest.TempPathFactory
) -> GuestImage:
    """Kept on the host where that can be: what a launch sends is tested beside each adapter."""
    made = replace(served.image(tmp_path_factory.mktemp("image")), id="both")
    if Feature.CACHE_IMAGES not in linked[0].missing:
        linked[0].cache_image(made)
    return made


@pytest.fixture
def guest(one: Any, image: GuestImage) -> str:
    one.launch(GuestSpec(name=NAME, image=image, nics=(Nic(mac=MAC),)))
    return NAME


class TestFacts:
    def test_says_what_it_is_and_of_its_host(self, served: Served, one: Any, two: Any) -> None:
        system, status = one.system(), one.status()
        assert (system.key, system.grade) == (served.system, Grade.EMULATOR)
        assert (status.memory_mib, status.cpus) == served.model.facts
        assert (status.hostname, two.status().hostname) == served.model.hosts
        assert 0 < status.uptime_s < 90_000

    def test_our_emulator_is_never_taken_for_more(self, served: Served) -> None:
        for grade in (Grade.SIMULATOR, Grade.NESTED, Grade.BARE):
            with pytest.raises(CallerFault, match=f"no evidence of grade {grade}"):
                connect(served.url(), replace(served.made.access(), grade=grade))


class TestLife:
    def test_one_that_is_there_is_told_and_left_alone(self, one: Any, image: GuestImage) -> None:
        spec = GuestSpec(name=NAME, image=image, memory_mib=EDGE_MIB[-1])
        one.launch(spec)
        with pytest.raises(CallerFault, match="already"):
            one.launch(spec)
        with pytest.raises(Unsupported):
            one.console(NAME)
        told = one.info(NAME)
        assert (told.state, told.memory_mib) == (on, EDGE_MIB[-1])
        for memory_mib, cpus in ((EDGE_MIB[1], 4), (128, 1), (EDGE_MIB[0], 2)):
            one.resize(NAME, memory_mib=memory_mib, cpus=cpus)
            told = one.info(NAME)
            assert (told.memory_mib, told.cpus, told.state) == (memory_mib, cpus, on)

    def test_each_state_is_the_hypervisors_word(self, one: Any, guest: str) -> None:
        def states(*calls: str) -> list[GuestState]:
            seen = []
            for call in calls:
                getattr(one, call)(guest)
                seen.append(one.info(guest).state)
            return seen

        assert one.info(guest).state is on
        assert states("pause", "pause", "unpause", "unpause") == [GuestState.PAUSED] * 2 + [on] * 2
        assert states("suspend", "resume") == [GuestState.SUSPENDED, on]
        assert states("shutdown", "power_off", "start", "start") == [off, off, on, on]
        assert states("reboot", "suspend", "power_off") == [on, GuestState.SUSPENDED, off]
        one.start(guest)
        one.reboot(guest, hard=True)
        assert one.inventory().guests[guest] is on
        one.delete(guest)
        one.delete(guest)
        assert guest not in one.inventory().guests

    def test_what_is_missing_is_refused_before_anything_is_made(
        self, served: Served, one: Any, image: GuestImage
    ) -> None:
        for feature, more in served.model.refused.items():
            with pytest.raises(Unsupported) as told:
                one.launch(replace(GuestSpec(name=NAME, image=image), **more))
            assert told.value.feature is feature
        assert NAME not in one.inventory().guests


class TestDevices:
    def test_volumes_and_cards_come_and_go(self, one: Any, guest: str) -> None:
        volume = one.create_volume(VOLUME, 8)
        assert VOLUME in one.inventory().volumes
        with pytest.raises(CallerFault, match="already"):
            one.create_volume(VOLUME, 8)
        one.attach_volume(guest, volume)
        assert one.info(guest).volumes == {VOLUME}
        with pytest.raises(CallerFault, match="already"):
            one.attach_volume(guest, volume)
        one.detach_volume(guest, volume)
        assert one.info(guest).volumes == frozenset()
        with pytest.raises(CallerFault, match="not attached"):
            one.detach_volume(guest, volume)
        one.delete_volume(volume)
        one.delete_volume(volume)
        assert VOLUME not in one.inventory().volumes

        other = Nic(mac="52:54:00:AA:00:02")
        one.attach_interface(guest, other)
        assert one.info(guest).macs == {MAC, other.mac.lower()}
        one.detach_interface(guest, other)
        assert one.info(guest).macs == {MAC}
        with pytest.raises(CallerFault, match="no card"):
            one.detach_interface(guest, other)

    def test_volumes_at_the_edges_of_32_bits(self, served: Served, one: Any) -> None:
        for size in (*EDGE_MIB, 2 * TIB_MIB - 1, 2 * TIB_MIB):
            volume = one.create_volume(VOLUME, size)
            assert served.model.size(one, volume) == size << 20
            one.delete_volume(volume)

    def test_a_size_that_no_disk_has_is_the_callers_fault(self, one: Any) -> None:
        for size in (0, -1, 1 << 31, 1 << 50):
            with pytest.raises(CallerFault, match=f"{size} MiB of disk"):
                one.create_volume(VOLUME, size)
        assert VOLUME not in one.inventory().volumes


class TestChanges:
    def test_a_snapshot_goes_with_its_guest_and_a_volume_does_not(
        self, one: Any, guest: str
    ) -> None:
        one.snapshot(guest, "before")
        assert f"{guest}/before" in one.inventory().snapshots
        one.revert(guest, "before")
        assert one.info(guest).state is on
        with pytest.raises(CallerFault, match="no snapshot"):
            one.revert(guest, "bef*")
        one.attach_volume(guest, one.create_volume(VOLUME, 8))
        one.delete(guest)
        told = one.inventory()
        assert (VOLUME in told.volumes, told.snapshots) == (True, frozenset())

    def test_rescue_and_back_and_rebuild(
        self, served: Served, one: Any, guest: str, tmp_path: Path
    ) -> None:
        root, rescue = served.model.root, served.image(tmp_path, b"rescue")
        own = root(one, guest)
        with pytest.raises(CallerFault, match="not rescued"):
            one.unrescue(guest)
        one.start(guest)
        one.rescue(guest, rescue)
        assert root(one, guest) != own
        with pytest.raises(CallerFault, match="already"):
            one.rescue(guest, rescue)
        one.unrescue(guest)
        assert root(one, guest) == own
        assert one.info(guest).state is on
        one.rebuild(guest, served.image(tmp_path, b"second"))
        assert root(one, guest) != own
        assert one.info(guest).state is on


class TestOthers:
    def test_hostile_names_are_listed_and_left_alone(
        self, served: Served, one: Any, guest: str
    ) -> None:
        removals = [served.model.foreign(one, name) for name in HOSTILE]
        try:
            assert set(HOSTILE) < set(one.inventory().guests)
            for name in (name for name in HOSTILE if name.startswith(PREFIX)):
                with pytest.raises(CallerFault):
                    one.delete(name)
            with pytest.raises(CallerFault, match="not ours"):
                one.delete(f"{PREFIX}looks-like-ours")
            assert one.cleanup() == (guest,)
            assert set(HOSTILE) <= set(one.inventory().guests)
        finally:
            for remove in removals:
                remove()

    def test_many_machines_of_others(self, served: Served, tmp_path: Path) -> None:
        many = served.model.many
        larger = serving(served.system, tmp_path, *served.model.machines(many))
        with larger as made, Served(served.system, served.model, made).opened() as one:
            assert len(one.inventory().guests) == many
            assert one.cleanup() == ()
            assert len(one.inventory().guests) == many


class TestTheWayThere:
    def test_a_session_that_ended_is_begun_anew(self, served: Served, one: Any) -> None:
        call, rule = served.model.ended
        with served.failing(call, rule):
            assert NAME not in one.inventory().guests

    def test_a_slow_answer_ends_in_time_and_the_next_call_works(self, served: Served) -> None:
        with served.opened(timeout_s=SHORT_S) as hasty:
            call, rule, words = served.model.slow
            with served.failing(call, rule), pytest.raises(TransientFault, match=words):
                hasty.inventory()
            assert NAME not in hasty.inventory().guests

    def refused(self, url: str, access: Any) -> HypervouchError:
        with pytest.raises(HypervouchError) as told:
            connect(url, access).close()
        return told.value

    def test_a_pin_replaces_the_signer(self, served: Served) -> None:
        with served.opened(ca_file=None, certificate=served.made.digest()) as one:
            assert one.status().hostname == served.model.hosts[0]

    @pytest.mark.parametrize("digest", ["", "0" * 64])
    def test_another_certificate_is_refused(self, served: Served, digest: str) -> None:
        access = served.made.access(ca_file=None, certificate=digest)
        told = self.refused(served.url(), access)
        assert isinstance(told, NodeFault)
        assert "certificate" in told.message
        assert not digest or served.made.digest() in told.message

    def test_nobody_listens(self, served: Served) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"{served.system}://root@127.0.0.1:{taken.getsockname()[1]}"
            assert isinstance(self.refused(url, served.made.access(timeout_s=10.0)), TransientFault)

    def test_no_password(self, served: Served) -> None:
        told = self.refused(served.url(), served.made.access(password=""))
        assert isinstance(told, CallerFault)
