# SPDX-License-Identifier: Apache-2.0
"""The Ironic adapter against a real Ironic, whose hardware is fake: no machine boots here."""

import hashlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import GuestImage, GuestSpec, GuestState
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from nodes.hypervisors.ironic import REASON
from nodes.hypervisors.ironic_link import PAGE
from nodes.lab.ironic import CLASS
from tests.kit.bare_metal import Served, disk_image, ironic

# The first test of a machine may build what it needs.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
GUEST = "hv-metal"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with ironic(tmp_path_factory.mktemp("ironic")) as made:
        yield made


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> GuestImage:
    return disk_image(tmp_path_factory.mktemp("image"))


@pytest.fixture
def metal(served: Served) -> Iterator[Any]:
    with served.connected() as made:
        try:
            yield made
        finally:
            made.cleanup()


def _node(served: Served, name: str) -> dict[str, Any]:
    with served.link() as link:
        return link.node(name)


def test_a_machine_is_deployed_changed_and_given_back(served, metal, image):
    assert metal.system().key == "ironic"
    assert metal.system().grade is Grade.SIMULATOR
    drive = {"openstack/latest/meta_data.json": b"{}"}
    metal.launch(GuestSpec(name=GUEST, image=image, config_drive=drive))
    node = next(one for one in _nodes(served) if one["extra"].get("hypervouch") == GUEST)
    assert node["provision_state"] == "active"
    told = node["instance_info"]
    assert told["image_source"] == image.disk.as_uri()
    assert told["image_os_hash_value"] == hashlib.sha256(image.disk.read_bytes()).hexdigest()
    assert told["configdrive"]
    assert metal.info(GUEST).state is GuestState.RUNNING
    for _ in range(2):
        metal.power_off(GUEST)
        assert metal.info(GUEST).state is GuestState.SHUTOFF
    metal.start(GUEST)
    metal.reboot(GUEST)
    metal.reboot(GUEST, hard=True)
    assert metal.inventory().guests == {GUEST: GuestState.RUNNING}
    metal.shutdown(GUEST)
    assert metal.info(GUEST).state is GuestState.SHUTOFF
    metal.rebuild(GUEST, image)
    assert metal.info(GUEST).state is GuestState.RUNNING
    metal.rescue(GUEST, image)
    assert _node(served, node["uuid"])["provision_state"] == "rescue"
    with pytest.raises(CallerFault, match="rescued already"):
        metal.rescue(GUEST, image)
    metal.unrescue(GUEST)
    for _ in range(2):
        metal.delete(GUEST)
    after = _node(served, node["uuid"])
    assert (after["provision_state"], after["extra"]) == ("available", {})
    assert after["instance_uuid"] is None
    assert not metal.inventory().guests


def test_two_names_two_machines_and_no_third(served, metal, image):
    for name in ("hv-one", "hv-two"):
        metal.launch(GuestSpec(name=name, image=image))
    with pytest.raises(CallerFault, match="already"):
        metal.launch(GuestSpec(name="hv-one", image=image))
    with pytest.raises(TransientFault, match="no machine is free"):
        metal.launch(GuestSpec(name="hv-three", image=image))
    assert metal.cleanup() == ("hv-one", "hv-two")
    assert metal.cleanup() == ()


def test_what_others_deployed_is_shown_and_never_taken(served, metal):
    with served.link() as link:
        uuid = link.node("lab-0")["uuid"]
        link.patch("mark", uuid, [{"op": "add", "path": "/extra/hypervouch", "value": "mine"}])
        try:
            assert list(metal.inventory().guests) == ["mine"]
            assert metal.cleanup() == ()
        finally:
            link.patch("unmark", uuid, [{"op": "remove", "path": "/extra/hypervouch"}])


def test_maintenance_leaves_what_others_put_there(served, metal):
    with served.link() as link:
        link.call("put", "PUT", "/v1/nodes/lab-1/maintenance", {"reason": "theirs"})
        try:
            metal.maintenance(on=True)
            assert _node(served, "lab-0")["maintenance_reason"] == REASON
            metal.maintenance(on=False)
            assert not _node(served, "lab-0")["maintenance"]
            assert _node(served, "lab-1")["maintenance_reason"] == "theirs"
        finally:
            link.call("take", "DELETE", "/v1/nodes/lab-1/maintenance")


def test_a_console_that_is_no_port_is_unsupported(metal, image):
    metal.launch(GuestSpec(name=GUEST, image=image))
    with pytest.raises(Unsupported, match="no TCP port") as told:
        metal.console(GUEST)
    assert told.value.feature is Feature.CONSOLE_SERIAL_INTERACTIVE


def test_a_locked_node_is_waited_for(served, metal, image):
    metal.launch(GuestSpec(name=GUEST, image=image))
    lock = "update nodes set reservation = ? where json_extract(extra, '$.hypervouch') = ?"
    served.write(lock, "somebody", GUEST)
    release = threading.Timer(6.0, served.write, (lock, None, GUEST))
    release.start()
    try:
        with (
            served.connected(timeout_s=2.5) as hasty,
            pytest.raises(TransientFault, match=r"409.*locked"),
        ):
            hasty.power_off(GUEST)
        metal.power_off(GUEST)
    finally:
        release.join()
    assert metal.info(GUEST).state is GuestState.SHUTOFF


def test_a_failed_cleaning_is_told_in_ironics_words(served):
    step = {"interface": "deploy", "step": "no_such_step"}
    with served.link() as link:
        uuid = link.node("lab-1")["uuid"]
        manage = Feature.LAUNCH
        if link.node("lab-1")["provision_state"] in {"available", "enroll"}:
            link.provision("manage", uuid, "manage", "manageable", manage)
        with pytest.raises(NodeFault, match=r"clean failed.*no_such_step"):
            link.provision("clean", uuid, "clean", "manageable", manage, clean_steps=[step])
        link.call("take", "DELETE", "/v1/nodes/lab-1/maintenance")
        link.provision("manage", uuid, "manage", "manageable", manage)


def test_a_state_that_never_ends_ends_for_us(served, metal, image):
    metal.launch(GuestSpec(name=GUEST, image=image))
    state = (
        "update nodes set provision_state = ?, target_provision_state = ?, last_error = ? "
        "where json_extract(extra, '$.hypervouch') = ?"
    )
    served.write(state, "wait call-back", "active", None, GUEST)
    with served.link() as link:
        uuid = next(one["uuid"] for one in link.nodes() if one["instance_uuid"])
        link.where = replace(link.where, deploy_s=0.5)
        with pytest.raises(TransientFault, match="wait call-back"):
            link.settle("deploy", uuid, "active")
    served.write(state, "deploy failed", "active", "no agent answered", GUEST)
    assert metal.info(GUEST).state is GuestState.CRASHED
    with served.link() as link, pytest.raises(NodeFault, match="no agent answered"):
        link.settle("deploy", uuid, "active")
    # And Ironic itself takes it back from there.
    metal.delete(GUEST)
    assert not metal.inventory().guests


def test_a_stranger_is_refused(served):
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(served.host.ca_file.read_text())).hexdigest()
    with served.connected(ca_file=None, certificate=digest) as pinned:
        assert pinned.status().memory_mib == 8192
    for changes, words in (
        ({"password": "wrong"}, "401"),
        ({"ca_file": None}, "certificate"),
        ({"ca_file": None, "certificate": "0" * 64}, "certificate"),
    ):
        with pytest.raises(NodeFault, match=words):
            served.connected(**changes)
    port = served.url.rpartition(":")[2].partition("?")[0]
    with pytest.raises(TransientFault, match="log in"):
        replace(served, url=served.url.replace(port, "1")).connected()
    with pytest.raises(CallerFault, match="no node"):
        replace(served, url=served.url.replace("lab-*", "none-*")).connected()


def test_pages_of_machines(served, metal):
    """More than two pages, with names that nobody should have."""
    with served.link() as link:
        pattern = link.node("lab-0")
    columns = "created_at, version, driver, resource_class, properties, extra, driver_info"
    values = ", ".join("?" * 4)
    count = 2 * PAGE + 7
    rows: list[tuple[object, ...]] = [
        (
            f"00000000-0000-4000-8000-{at:012}",
            f"lab-many-{at}",
            "active",
            "power on",
            pattern["uuid"],
        )
        for at in range(count)
    ]
    served.write_many(
        f"insert into nodes ({columns}, uuid, name, provision_state, power_state, "  # noqa: S608
        "maintenance, console_enabled, instance_info, driver_internal_info) "
        f"select {columns}, {values}, 0, 0, '{{}}', '{{}}' from nodes where uuid = ?",
        rows,
    )
    try:
        assert len(metal.inventory().guests) == count
        assert metal.cleanup() == ()
    finally:
        served.write("delete from nodes where name like 'lab-many-%'")


def _nodes(served: Served) -> list[dict[str, Any]]:
    with served.link() as link:
        return list(link.nodes(resource_class=CLASS))
