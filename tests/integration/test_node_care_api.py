# SPDX-License-Identifier: Apache-2.0
"""A node whose hypervisor has an API of its own: probe, pins, what builds leave, one that is gone.

Behind the vCenter simulator and our emulator of XenServer: no guest runs, nothing is asked of one.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ci.cancel import CancelToken
from ci.clock import SystemClock
from ci.errors import NodeUnavailable
from ci.model.build import AttemptKind
from ci.model.node import Lease
from ci.scheduling import Needs
from ci.store import attempts, schema
from nodes.health import preflight
from nodes.hypervisors import table
from nodes.hypervisors.base import Access, GuestSpec, Hypervisor
from nodes.leftovers import Leftovers
from nodes.pool import Care, NodePool
from nodes.providers.local import LocalOptions, LocalProvider
from nodes.reach import connecting
from tests.kit import vcenter, xapi
from tests.kit.core import database_in, queue_buildset, rows
from tests.kit.require import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
CLOCK = SystemClock()


@dataclass(frozen=True)
class Api:
    """A stand-in: where it is, what logs in, and the version that it tells under a name."""

    kind: str
    url: str
    access: Access
    password_file: Path
    fact: tuple[str, str]

    def opened(self) -> Hypervisor:
        return table.connect(self.url, self.access)


@pytest.fixture(scope="module", params=["vcenter", "xenserver"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        if request.param == "vcenter":
            made = stack.enter_context(vcenter.simulator(folder))
            file = made.host.password_file
            yield Api("vcenter", made.url, made.access, file, ("vcenter", "6.5.0"))
            return
        require("xenserver", present=find_spec("XenAPI") is not None, why="pip install XenAPI")
        xen = stack.enter_context(xapi.pool(folder))
        file = xen.host.password_file
        yield Api("xenserver", xen.url("host=xs1"), xen.access(), file, ("product", "*"))


class Site:
    """A pool over this machine, from where the API is reached."""

    def __init__(self, home: Path, api: Api, *, nodes: int = 1, **changes: Any) -> None:
        self.api, self.home = api, home
        self.database = database_in(home)
        fields = {
            "hypervisor": api.url,
            "grade": api.access.grade.value,
            "emulator-may-vote": True,
            "hypervisor-password": {"from-file": str(api.password_file)},
            "hypervisor-ca-file": str(api.access.ca_file),
        }
        pins = changes.pop("pinned", {})
        names = ("far", "near")[:nodes]
        providers = {
            name: (
                LocalProvider(
                    LocalOptions.model_validate(fields | {"name": name, "label": name} | changes),
                    home / name,
                ),
            )
            for name in names
        }
        self.pool = NodePool(
            self.database,
            CLOCK,
            providers,
            preflight,
            term_s=120,
            care=Care(
                pinned=dict.fromkeys(names, pins), leftovers=Leftovers(connecting(home / "hv"))
            ),
        )
        self.pool.register()
        (build,) = queue_buildset(self.database, at=CLOCK.now())
        with self.database.write() as tx:
            self.attempt = attempts.begin(tx, build, AttemptKind.CHECK, at=CLOCK.now())

    def lease(self, label: str = "far") -> Lease:
        (lease,) = self.pool.acquire(
            Needs(label=label), holder=self.attempt, avoid=(), cancel=CancelToken()
        )
        return lease

    def build(self, name: str, *, volume: str = "") -> None:
        """What a suite does, with a folder of its own, and without cleaning up."""
        one = self.api.opened()
        try:
            image = vcenter.disk_image(self.home)
            one.launch(GuestSpec(name=name, image=image))
            if volume:
                one.create_volume(volume, 16)
        finally:
            one.close()

    def left(self) -> dict[str, str]:
        row = rows(self.database, schema.attempt, id=self.attempt)[0]
        return {f"{one['kind']} {one['name']}": one["fate"] for one in row.left_behind}

    def node(self, name: str = "far-1") -> Any:
        return rows(self.database, schema.node, name=name)[0]


@pytest.fixture
def site(api: Api, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, api)
    yield made
    made.database.close()
    one = api.opened()
    one.cleanup()
    one.close()


def there(api: Api) -> set[str]:
    one = api.opened()
    try:
        told = one.inventory()
        return {*told.guests, *told.volumes}
    finally:
        one.close()


def stranger(api: Api, name: str) -> None:
    """A machine of somebody else's."""
    one: Any = api.opened()
    try:
        if api.kind == "xenserver":
            told = {"name_label": name, "VCPUs_max": "1", "VCPUs_at_startup": "1"}
            one._link.call("make theirs", "VM.create", told)
            return
        from pyVmomi import vim  # noqa: PLC0415 - of an extra

        place = one._place
        files = vim.vm.FileInfo(vmPathName=f"[{place.datastore_name}]")
        config = vim.vm.ConfigSpec(
            name=name, memoryMB=32, numCPUs=1, guestId="otherGuest", files=files
        )
        one._link.run("make theirs", lambda: place.folder.CreateVM_Task(config, place.pool))
    finally:
        one.close()


def test_what_a_build_left_is_removed_and_noted(site: Site, api: Api):
    stranger(api, "theirs-before")
    stranger(api, "hv-theirs")  # our prefix, and no mark
    before = there(api)
    lease = site.lease()
    endpoint = site.pool.start(lease)
    name, version = api.fact
    assert endpoint.facts[name] == version or version == "*"
    site.build("hv-one", volume="hv-disk")
    site.build("hv-two")
    stranger(api, "theirs-meanwhile")
    before.add("theirs-meanwhile")
    assert there(api) == {*before, "hv-one", "hv-two", "hv-disk"}
    site.pool.give_back(lease)
    assert there(api) == before
    ours = ("guest hv-one", "guest hv-two", "volume hv-disk")
    assert site.left() == {**dict.fromkeys(ours, "removed"), "guest theirs-meanwhile": "noted"}
    assert site.node().state != "Bad", site.node().reason
    lease = site.lease()
    site.pool.start(lease)
    site.pool.give_back(lease)
    assert there(api) == before


def test_two_nodes_on_one_api_take_nothing_from_each_other(api: Api, tmp_path: Path):
    site = Site(tmp_path, api, nodes=2)
    before = there(api)
    mine, other = site.lease("far"), site.lease("near")
    site.pool.start(mine)
    site.pool.start(other)
    site.build("hv-others")
    site.pool.give_back(mine)
    assert there(api) == {*before, "hv-others"}
    assert site.left() == {}
    site.pool.give_back(other)
    assert there(api) == before
    assert site.left() == {"guest hv-others": "removed"}
    site.database.close()


def test_a_node_with_another_version_than_pinned_is_not_handed_out(api: Api, tmp_path: Path):
    site = Site(tmp_path, api, pinned={api.fact[0]: "0.*"})
    with pytest.raises(NodeUnavailable, match=f"{api.fact[0]} is .*, pinned is 0"):
        site.pool.start(site.lease())
    site.database.close()


def test_a_refused_login_is_tried_once_and_not_for_every_build(api: Api, tmp_path: Path):
    file = tmp_path / "wrong"
    file.write_text("not-the-password")
    site = Site(tmp_path, api, **{"hypervisor-password": {"from-file": str(file)}})
    lease = site.lease()
    with pytest.raises(NodeUnavailable) as first:
        site.pool.start(lease)
    with pytest.raises(NodeUnavailable, match="tried again in") as second:
        site.pool.start(lease)
    assert first.value.message in second.value.message
    file.write_text(api.access.password)
    assert site.pool.start(lease).hypervisor == api.url
    site.database.close()


def test_one_that_is_gone_is_the_nodes_fault_and_takes_it_out_of_work(tmp_path: Path):
    with vcenter.simulator(tmp_path / "vc") as made:
        api = Api("vcenter", made.url, made.access, made.host.password_file, ("vcenter", ""))
        site = Site(tmp_path, api)
        lease = site.lease()
        site.pool.start(lease)
    site.pool.give_back(lease)
    assert site.node().state == "Bad"
    assert "its teardown failed" in site.node().reason
    with pytest.raises(NodeUnavailable):
        site.pool.start(lease)
    assert site.pool.probe_one("far-1")
    assert site.node().state == "Bad"
    site.database.close()
