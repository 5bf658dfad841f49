# SPDX-License-Identifier: Apache-2.0
"""Ironic's adapter: the URL, whose fault an answer is, which nodes it takes and which never."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors import ironic_link
from nodes.hypervisors.base import Access, DiskFormat, GuestImage, GuestSpec, GuestState, Nic, Rule
from nodes.hypervisors.faults import (
    CallerFault,
    LoginRefused,
    NodeFault,
    TransientFault,
    Unsupported,
)
from nodes.hypervisors.ironic import IronicHypervisor
from nodes.hypervisors.ironic_link import IronicLink, address, refused, said

URL = "ironic://ci@bmc.example?node=ci-*"
# As Ironic 39.0.0 answers: an object in a string, and an object.
LOCKED = (
    '{"error_message": "{\\"faultcode\\": \\"Client\\", \\"faultstring\\": '
    '\\"Node 42 is locked by host a, please retry\\", \\"debuginfo\\": null}"}'
)
BAD_STATE = (
    '{"error_message": {"faultcode": "Client", "faultstring": "The requested action \\"rescue\\" '
    'can not be performed on node \\"42\\" while it is in state \\"available\\"."}}'
)
NO_NMI = '{"error_message": "Driver x does not support inject_nmi (disabled or not implemented)."}'


class Cloud:
    """Nodes behind a transport that is asked instead of TLS; each changes at once."""

    def __init__(self, *nodes: dict[str, Any]) -> None:
        self.nodes = {node["uuid"]: node for node in nodes}
        self.asked: list[tuple[str, str, Any]] = []
        self.answers: list[Any] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        path = request.url.path
        self.asked.append((request.method, path, body))
        for answer in self.answers:
            if told := answer(request):
                return told
        if path == "/":
            return httpx.Response(200, json={"default_version": {"version": "1.115"}})
        if path in {"/v1/nodes", "/v1/nodes/detail"}:
            return self._page(request)
        node = self.nodes[path.split("/")[3]]
        if request.method == "PATCH":
            _patch(node, body)
        elif path.endswith("/provision"):
            states = {"manage": "manageable", "deleted": "available", "provide": "available"}
            node["provision_state"] = states.get(body["target"], body["target"])
        elif path.endswith("/power"):
            on = body["target"] in {"power on", "rebooting", "soft rebooting"}
            node["power_state"] = "power on" if on else "power off"
        return httpx.Response(200, json=node)

    def _page(self, request: httpx.Request) -> httpx.Response:
        wanted = request.url.params
        nodes = list(self.nodes.values())
        if "instance_uuid" in wanted:
            nodes = [one for one in nodes if one["instance_uuid"] == wanted["instance_uuid"]]
        at = next((i + 1 for i, one in enumerate(nodes) if one["uuid"] == wanted.get("marker")), 0)
        page = nodes[at : at + int(wanted["limit"])]
        more = {"next": "https://elsewhere.example/"} if at + len(page) < len(nodes) else {}
        return httpx.Response(200, json={"nodes": page, **more})

    def changed(self) -> list[str]:
        return [path for method, path, _ in self.asked if method != "GET"]


def _patch(node: dict[str, Any], changes: list[dict[str, Any]]) -> None:
    for change in changes:
        *above, key = change["path"].strip("/").split("/")
        place = node[above[0]] if above else node
        place[key] = change.get("value")
        if change["op"] == "remove" and above:
            del place[key]


def node(name: str, state: str = "available", **more: Any) -> dict[str, Any]:
    return {
        "uuid": f"uuid-of-{name}",
        "name": name,
        "provision_state": state,
        "power_state": "power off",
        "extra": {},
        "instance_info": {},
        "instance_uuid": None,
        "properties": {"memory_mb": "8192", "cpus": 4},
        **more,
    }


def connected(
    cloud: Cloud, url: str = URL, timeout_s: float = 5.0, grade: Grade = Grade.NONE
) -> IronicHypervisor:
    access = Access(work=Path("unused"), password="secret", timeout_s=timeout_s, grade=grade)
    link = IronicLink(address(url), access, httpx.MockTransport(cloud))
    return IronicHypervisor(link, access)


@pytest.fixture
def spec(tmp_path: Path) -> GuestSpec:
    disk = tmp_path / "a b.raw"
    disk.write_bytes(b"disk")
    return GuestSpec(name="hv-a", image=GuestImage(disk=disk, disk_format=DiskFormat.RAW))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ironic://ci:secret@bmc.example?node=a", "holds a password"),
        ("ironic://bmc.example?node=a", "no host or no user"),
        ("ironic://ci@bmc.example/v1?node=a", "has a path"),
        ("ironic://ci@bmc.example", "which machines are for us"),
        ("ironic://ci@bmc.example?node=", "which machines are for us"),
        ("ironic://ci@bmc.example?node=a&color=red", "unknown option color"),
        ("ironic://ci@bmc.example?node=a&deploy-s=soon", "no URL"),
        ("ironic://ci@bmc.example?node=a&deploy-s=nan", "number of seconds"),
        ("ironic://ci@[::1?node=a", "no URL"),
    ],
)
def test_a_wrong_url_is_the_callers(url, words):
    with pytest.raises(CallerFault, match=words):
        address(url)


def test_a_url_says_which_machines_are_ours():
    told = address("ironic://c%40i@bmc.example:1?class=gold&images=http://web/&deploy-s=60")
    assert (told.user, told.port, told.node, told.resource_class) == ("c@i", 1, "*", "gold")
    assert (told.images, told.deploy_s) == ("http://web", 60.0)


@pytest.mark.parametrize(
    ("status", "body", "fault", "words"),
    [
        (400, BAD_STATE, TransientFault, "while it is in state"),
        (400, '{"error_message": "Invalid configdrive"}', CallerFault, "Invalid configdrive"),
        (401, "", LoginRefused, "Unauthorized"),
        (403, "no", LoginRefused, "HTTP 403: no"),
        (404, '{"error_message": "Node x could not be found."}', CallerFault, "could not be found"),
        (406, "", NodeFault, "Not Acceptable"),
        (409, LOCKED, TransientFault, "locked by host a"),
        (500, "", TransientFault, "Internal Server Error"),
        (503, "No\nvalid\x1b[31m host", TransientFault, r"No valid \[31m host"),
        (418, "tea", NodeFault, "tea"),
        (599, "", TransientFault, "HTTP 599"),
    ],
)
def test_whose_fault_an_answer_is(status, body, fault, words):
    with pytest.raises(fault, match=words):
        raise refused(status, body, "try")


def test_what_a_driver_cannot_do_is_unsupported():
    told = refused(400, NO_NMI, "dump", Feature.TRIGGER_CRASH_DUMP)
    assert isinstance(told, Unsupported)
    assert "inject_nmi" in told.reason
    assert isinstance(refused(400, NO_NMI, "dump"), CallerFault)


@pytest.mark.parametrize("body", ["", "[]", "7", '{"error_message": null}', "x" * 9000])
def test_words_of_an_answer_are_short_and_never_raise(body):
    assert len(said(body)) <= 600


@pytest.mark.parametrize(
    "answer", [httpx.Response(200, text="<html>"), httpx.Response(200, json=[])]
)
def test_another_server_is_no_ironic(answer):
    cloud = Cloud()
    cloud.answers.append(lambda _request: answer)
    with pytest.raises(NodeFault, match="no JSON object"):
        connected(cloud)


def test_a_password_is_tried_once():
    cloud = Cloud(node("ci-1"))
    cloud.answers.append(lambda _request: httpx.Response(401, text="Unauthorized"))
    with pytest.raises(NodeFault, match="401"):
        connected(cloud)
    assert len(cloud.asked) == 1


def test_only_machines_of_the_url_are_taken(spec):
    cloud = Cloud(
        node("other-1"),
        node("ci-used", "active", instance_uuid="x"),
        node("ci-broken", maintenance=True),
        node("ci-small", properties={"memory_mb": 64}),
        node("ci-new", "enroll"),
    )
    metal = connected(cloud, URL + "&images=https://web.example/images/")
    metal.launch(spec)
    taken = cloud.nodes["uuid-of-ci-new"]
    assert taken["extra"] == {"hypervouch": "hv-a"}
    assert taken["provision_state"] == "active"
    assert taken["instance_info"]["image_source"] == "https://web.example/images/a%20b.raw"
    assert all("uuid-of-ci-new" in path for path in cloud.changed())
    assert metal.info("hv-a").state is GuestState.RUNNING
    assert (metal.info("hv-a").memory_mib, metal.info("hv-a").cpus) == (8192, 4)


def test_who_is_slower_takes_the_next(spec):
    def quicker(request: httpx.Request) -> httpx.Response | None:
        if request.method == "PATCH" and request.url.path.endswith("ci-1"):
            return httpx.Response(409, text=LOCKED)
        return None

    cloud = Cloud(node("ci-1"), node("ci-2"))
    cloud.answers.append(quicker)
    connected(cloud).launch(spec)
    assert cloud.nodes["uuid-of-ci-2"]["extra"] == {"hypervouch": "hv-a"}


def test_a_deployment_that_fails_is_told_and_undone(spec):
    def fails(request: httpx.Request) -> httpx.Response | None:
        if request.url.path.endswith("/provision") and b"active" in request.content:
            one = cloud.nodes["uuid-of-ci-1"]
            one |= {"provision_state": "deploy failed", "last_error": "no\nagent \u202e answered"}
            return httpx.Response(202)
        return None

    cloud = Cloud(node("ci-1"))
    cloud.answers.append(fails)
    with pytest.raises(NodeFault, match=r"deploy failed, power off: no agent answered"):
        connected(cloud).launch(spec)
    assert cloud.nodes["uuid-of-ci-1"]["provision_state"] == "available"
    assert cloud.nodes["uuid-of-ci-1"]["extra"] == {}


def test_cleaning_takes_back_what_is_ours_alone():
    cloud = Cloud(
        node("ci-1", "active", extra={"hypervouch": "hv-a"}, instance_uuid="1"),
        node("ci-2", "active", extra={"hypervouch": "theirs"}, instance_uuid="2"),
        node("ci-3", "active", instance_uuid="3"),
        node("other", "active", extra={"hypervouch": "hv-b"}, instance_uuid="4"),
    )
    metal = connected(cloud)
    assert metal.cleanup() == ("hv-a",)
    assert all("uuid-of-ci-1" in path for path in cloud.changed())
    assert set(metal.inventory().guests) == {"theirs", "ci-3"}


def test_two_nodes_of_one_mark_are_both_taken_back():
    cloud = Cloud(
        node("ci-1", "active", extra={"hypervouch": "hv-a"}, instance_uuid="1"),
        node("ci-2", "available", extra={"hypervouch": "hv-a"}),
    )
    connected(cloud).cleanup()
    assert all(one["extra"] == {} for one in cloud.nodes.values())


def test_a_broken_node_does_not_keep_the_others():
    cloud = Cloud(
        node("ci-1", "clean failed", extra={"hypervouch": "hv-a"}, last_error="disk is on fire"),
        node("ci-2", "active", extra={"hypervouch": "hv-b"}, instance_uuid="2"),
    )
    with pytest.raises(NodeFault, match="disk is on fire"):
        connected(cloud).cleanup()
    assert cloud.nodes["uuid-of-ci-2"]["extra"] == {}


def test_a_claim_whose_answer_was_lost_is_undone(spec):
    broken = iter([True])

    def breaks(request: httpx.Request) -> httpx.Response | None:
        if request.method == "PATCH" and next(broken, False):
            _patch(cloud.nodes["uuid-of-ci-1"], json.loads(request.content))
            raise httpx.ReadError("the line broke")
        return None

    cloud = Cloud(node("ci-1"), node("ci-2"))
    cloud.answers.append(breaks)
    with pytest.raises(TransientFault, match="the line broke"):
        connected(cloud).launch(spec)
    assert all(one["extra"] == {} for one in cloud.nodes.values())
    assert cloud.nodes["uuid-of-ci-1"]["instance_uuid"] is None


def test_fake_hardware_is_no_evidence_of_bare_metal():
    cloud = Cloud(node("ci-1", driver="fake-hardware"))
    with pytest.raises(CallerFault, match="say grade: simulator"):
        connected(cloud, grade=Grade.BARE)
    cloud.nodes["uuid-of-ci-1"]["driver"] = "ipmi"
    assert connected(cloud, grade=Grade.BARE).system().versions["hardware"] == "ipmi"


def test_there_is_room_for_as_many_guests_as_nodes_can_be_ours():
    names = ("ci-1", "ci-2")
    nodes = [node(name) for name in names] + [node("ci-3", "active", instance_uuid="x")]
    assert connected(Cloud(*nodes)).guests_at_once == 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.RemoteProtocolError("Server disconnected without a response"), TransientFault),
        (httpx.RemoteProtocolError("peer closed connection early"), TransientFault),
        (httpx.RemoteProtocolError("illegal status line"), NodeFault),
        (httpx.ReadTimeout("timed out"), TransientFault),
    ],
)
def test_a_server_that_goes_while_it_deploys(spec, error, kind):
    def goes(request: httpx.Request) -> httpx.Response | None:
        if request.url.path.endswith("/provision") and b"active" in request.content:
            raise error
        return None

    cloud = Cloud(node("ci-1"))
    cloud.answers.append(goes)
    with pytest.raises(kind, match=str(error)):
        connected(cloud).launch(spec)
    assert cloud.nodes["uuid-of-ci-1"]["extra"] == {}


def test_names_of_others_are_shown_harmless():
    cloud = Cloud(node("ci-1", "active", extra={"hypervouch": "a\n\x1b[2J\u202eb"}))
    assert list(connected(cloud).inventory().guests) == ["a [2J b"]


def test_a_node_that_cannot_be_cleaned_says_why():
    cloud = Cloud(
        node("ci-1", "clean failed", extra={"hypervouch": "hv-a"}, last_error="disk is on fire")
    )
    metal = connected(cloud)
    assert metal.inventory().guests == {"hv-a": GuestState.CRASHED}
    with pytest.raises(NodeFault, match="disk is on fire"):
        metal.cleanup()
    assert cloud.nodes["uuid-of-ci-1"]["extra"]


def test_a_lock_is_waited_for_and_not_for_ever(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _s: None)
    cloud = Cloud(node("ci-1", "active", extra={"hypervouch": "hv-a"}, power_state="power on"))
    locks = iter([True, True, False])

    def locked(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(409, text=LOCKED) if request.method == "PUT" and next(locks) else None

    cloud.answers.append(locked)
    metal = connected(cloud)
    metal.power_off("hv-a")
    assert len(cloud.changed()) == 3
    cloud.answers[:] = [lambda r: httpx.Response(409, text=LOCKED) if r.method == "PUT" else None]
    now = iter(range(10_000))
    monkeypatch.setattr(ironic_link.time, "monotonic", lambda: float(next(now)))
    with pytest.raises(TransientFault, match="locked"):
        metal.start("hv-a")


def test_pages_are_followed_by_marker_and_end():
    cloud = Cloud(*(node(f"ci-{at}", "active") for at in range(1100)))
    assert len(connected(cloud).inventory().guests) == 1100
    assert {path for _, path, _ in cloud.asked} == {"/", "/v1/nodes", "/v1/nodes/detail"}
    endless = {"nodes": [node("ci-1")], "next": "more"}
    cloud.answers.append(
        lambda r: httpx.Response(200, json=endless) if r.url.path.endswith("detail") else None
    )
    with pytest.raises(NodeFault, match="has not ended"):
        list(connected(cloud)._nodes())


@pytest.mark.parametrize(
    "name", ["hv-" + "a" * 300, "hv-$(id)", "hv-'", "hv-a\nb", "x", "hv-\u202ea"]
)
def test_names_that_are_not_ours_are_refused(name, spec):
    cloud = Cloud(node("ci-1"))
    metal = connected(cloud)
    for call in (metal.delete, metal.info, metal.start, metal.console):
        with pytest.raises(CallerFault, match="no name of ours"):
            call(name)
    assert not cloud.changed()


def test_what_a_bare_machine_has_not_is_unsupported(spec):
    metal = connected(Cloud(node("ci-1")))
    nic = Nic(mac="52:54:00:00:00:01", rules=(Rule(protocol="icmp"),))
    for more in ({"nics": (nic,)}, {"tpm": True}, {"files": {"/a": b""}}, {"graphics": "vnc"}):
        with pytest.raises(Unsupported):
            metal.launch(GuestSpec(name="hv-a", image=spec.image, **more))
    with pytest.raises(CallerFault, match="has none"):
        metal.launch(GuestSpec(name="hv-a", image=GuestImage()))


def test_properties_may_be_anything():
    cloud = Cloud(node("ci-1", properties={"memory_mb": "much", "cpus": None}))
    assert connected(cloud).status().memory_mib == 0
    cloud.nodes["uuid-of-ci-1"]["properties"] = {"memory_mb": 2**32, "cpus": "64"}
    assert connected(cloud).status().memory_mib == 2**32
