# SPDX-License-Identifier: Apache-2.0
"""The contract of a Hypervisor, the same for the dummy and for real ones.

Real ones boot one guest for all of it. What a system cannot do is Unsupported, and fine.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ci.model.feature import Feature
from nodes.hypervisors.base import (
    INTERFACES,
    PREFIX,
    DiskFormat,
    GuestImage,
    GuestSpec,
    GuestState,
    Hypervisor,
    Nic,
    Volume,
)
from nodes.hypervisors.faults import CallerFault, Unsupported
from nodes.hypervisors.guest import GuestAgent
from nodes.images.tiny import tiny
from tests.kit.hypervisors import TABLE, running

REAL = [pytest.mark.integration, pytest.mark.timeout(600)]
BOOT_S = 180.0
GUEST, VOLUME, NETWORK = f"{PREFIX}contract", f"{PREFIX}contract-v", f"{PREFIX}contract-n"
MAC = "52:54:00:c0:01:01"


@pytest.fixture(
    scope="module",
    params=[name if name == "dummy" else pytest.param(name, marks=REAL) for name in TABLE],
)
def hypervisor(request: pytest.FixtureRequest) -> Iterator[Hypervisor]:
    with running(request.param) as made:
        yield made


@pytest.fixture(scope="module")
def image(hypervisor: Hypervisor, tmp_path_factory: pytest.TempPathFactory) -> GuestImage:
    if hypervisor.system().key != "dummy":
        return tiny()
    nothing = tmp_path_factory.mktemp("image") / "tiny.initrd"
    nothing.touch()
    return GuestImage(initrd=nothing)


@pytest.fixture
def clean(hypervisor: Hypervisor) -> Iterator[Hypervisor]:
    """It must be found as it is left."""
    before = hypervisor.inventory()
    yield hypervisor
    hypervisor.delete(GUEST)
    assert hypervisor.inventory() == before


@contextmanager
def may_be_unsupported(feature: Feature) -> Iterator[None]:
    """What cannot be done says so for this very row, with a reason."""
    try:
        yield
    except Unsupported as error:
        said = (error.feature, bool(error.reason.strip()))
    else:
        return
    assert said == (feature, True)


def spec(image: GuestImage, name: str = GUEST) -> GuestSpec:
    return GuestSpec(name=name, image=image, nics=(Nic(mac=MAC),))


def agent_of(hypervisor: Hypervisor) -> GuestAgent:
    console = hypervisor.console(GUEST)
    return GuestAgent(console, GUEST, reopen=lambda: hypervisor.console(GUEST))


class TestFacts:
    def test_says_what_it_is(self, hypervisor: Hypervisor) -> None:
        system = hypervisor.system()
        assert system.key
        assert system.title
        assert system.versions
        assert hypervisor.system() == system

    def test_says_of_its_host(self, hypervisor: Hypervisor) -> None:
        with may_be_unsupported(Feature.GET_HOST_INFO):
            status = hypervisor.status()
            assert status.hostname
            assert status.uptime_s > 0
            assert status.memory_mib > 0
            assert status.cpus > 0

    def test_what_is_missing_has_a_reason(self, hypervisor: Hypervisor) -> None:
        assert all(isinstance(feature, Feature) for feature in hypervisor.missing)
        assert all(reason.strip() for reason in hypervisor.missing.values())


class TestWhatIsAskedWrongly:
    """CallerFault, and nothing has changed."""

    def test_a_guest_that_is_not_there(self, clean: Hypervisor) -> None:
        for call in (clean.info, clean.power_off, clean.console):
            with pytest.raises(CallerFault):
                call(f"{PREFIX}nobody")

    @pytest.mark.parametrize(
        "name", ["contract", "hv_contract", f"{PREFIX}../x", PREFIX + "x" * 60]
    )
    def test_a_name_that_is_not_ours(self, clean: Hypervisor, image: GuestImage, name: str) -> None:
        with pytest.raises(CallerFault):
            clean.launch(spec(image, name))

    def test_an_image_for_another_hypervisor(self, clean: Hypervisor, image: GuestImage) -> None:
        other = GuestImage(
            kernel=image.kernel,
            initrd=image.initrd,
            root=image.root,
            properties={"hypervisor_type": "hyperv"},
        )
        with pytest.raises(CallerFault):
            clean.launch(spec(other))

    def test_an_image_that_is_not_there(self, clean: Hypervisor, tmp_path: Path) -> None:
        gone = GuestImage(
            kernel=tmp_path / "kernel",
            initrd=tmp_path / "initrd",
            root=tmp_path / "root",
            disk_format=DiskFormat.RAW,
        )
        with pytest.raises(CallerFault):
            clean.launch(spec(gone))


class TestWhatMayBeRepeated:
    def test_delete_of_what_was_never_there(self, clean: Hypervisor) -> None:
        clean.delete(f"{PREFIX}nobody")

    def test_cleanup_of_nothing(self, clean: Hypervisor) -> None:
        clean.cleanup()
        assert clean.cleanup() == ()

    def test_a_volume(self, clean: Hypervisor) -> None:
        with may_be_unsupported(Feature.ATTACH_VOLUME):
            volume = clean.create_volume(VOLUME, 8)
            assert (volume.name, volume.size_mib) == (VOLUME, 8)
            assert VOLUME in clean.inventory().volumes
            with pytest.raises(CallerFault):
                clean.create_volume(VOLUME, 8)
            clean.delete_volume(volume)
            clean.delete_volume(volume)

    def test_a_network(self, clean: Hypervisor) -> None:
        with may_be_unsupported(Feature.NETWORKING_TOPOLOGY_FLAT):
            clean.create_network(NETWORK)
            assert NETWORK in clean.inventory().networks
            with pytest.raises(CallerFault):
                clean.create_network(NETWORK)
            clean.delete_network(NETWORK)
            clean.delete_network(NETWORK)

    def test_a_cached_image(self, clean: Hypervisor, image: GuestImage) -> None:
        with may_be_unsupported(Feature.CACHE_IMAGES):
            with pytest.raises(CallerFault):
                clean.cache_image(image)
            known = replace(image, id="of-the-contract")
            assert clean.cache_image(known)
            assert not clean.cache_image(known)
            clean.forget_image(known)
            clean.forget_image(known)


class TestWhatIsMissing:
    """A launch that asks for it is refused by the very row, and nothing has changed."""

    @pytest.mark.parametrize(
        "more",
        [
            {"firmware": "uefi"},
            {"tpm": True},
            {"memory_file": True},
            {"graphics": "vnc"},
            {"graphics": "spice"},
            {"config_drive": {}},
            {"files": {INTERFACES: b""}},
            {"nics": (Nic(mac=MAC, tag="a"),)},
            {"nics": (Nic(mac=MAC, network=f"{PREFIX}n"),)},
            {"nics": (Nic(mac=MAC, rules=()),)},
            {"root": Volume(name=VOLUME, size_mib=8)},
        ],
        ids=str,
    )
    def test_is_refused(
        self, clean: Hypervisor, image: GuestImage, more: dict[str, object]
    ) -> None:
        wanted = replace(spec(image), **more)  # type: ignore[arg-type]
        missing = [feature for feature in wanted.asks_for() if feature in clean.missing]
        if missing:
            with pytest.raises(Unsupported) as caught:
                clean.launch(wanted)
            assert caught.value.feature in missing


def test_a_guests_life(clean: Hypervisor, image: GuestImage) -> None:
    """From launch to delete with one boot, and everything that may be said twice said twice."""
    clean.launch(spec(image))
    assert clean.inventory().guests[GUEST] is GuestState.RUNNING
    with pytest.raises(CallerFault):
        clean.launch(spec(image))
    info = clean.info(GUEST)
    assert (info.state, info.memory_mib, info.cpus) == (GuestState.RUNNING, 192, 1)

    agent = agent_of(clean)
    born = agent.ready(BOOT_S)["boot_id"]
    assert agent.ask("counter")["counter"] == 1

    _pause_twice(clean)
    assert agent.ask("counter", BOOT_S) | {"re": ""} == {"re": "", "counter": 2, "boot_id": born}
    with may_be_unsupported(Feature.CONSOLE_SERIAL_LOG):
        assert b"boot" in clean.console_log(GUEST)
        assert len(clean.console_log(GUEST, 16)) <= 16
    with may_be_unsupported(Feature.REBOOT):
        clean.start(GUEST)
    assert agent.ask("info", BOOT_S)["boot_id"] == born
    agent.close()
    agent.close()

    clean.power_off(GUEST)
    clean.power_off(GUEST)
    assert clean.info(GUEST).state is GuestState.SHUTOFF
    clean.delete(GUEST)
    clean.delete(GUEST)
    assert GUEST not in clean.inventory().guests


def _pause_twice(hypervisor: Hypervisor) -> None:
    with may_be_unsupported(Feature.PAUSE):
        hypervisor.pause(GUEST)
        hypervisor.pause(GUEST)
        assert hypervisor.info(GUEST).state is GuestState.PAUSED
        hypervisor.unpause(GUEST)
        hypervisor.unpause(GUEST)
        assert hypervisor.info(GUEST).state is GuestState.RUNNING


def test_cleanup_takes_what_is_ours(clean: Hypervisor, image: GuestImage) -> None:
    clean.launch(spec(image))
    assert GUEST in clean.cleanup()
    assert GUEST not in clean.inventory().guests
