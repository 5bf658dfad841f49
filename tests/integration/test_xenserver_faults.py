# SPDX-License-Identifier: Apache-2.0
"""What goes wrong between us and a XenServer pool is told as the pool's trouble, in time.

The pool is modelled by us (`nodes/stand_ins/xapi`); TLS, sockets and the SDK are real.
"""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ci.errors import HypervouchError
from nodes.hypervisors.base import PREFIX, GuestImage, GuestSpec
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault
from nodes.hypervisors.table import connect
from tests.kit.require import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
require("xenserver", present=find_spec("XenAPI") is not None, why="pip install XenAPI")

from nodes.hypervisors.xenserver import XenServerHypervisor  # noqa: E402
from tests.kit import xapi  # noqa: E402

NAME = f"{PREFIX}xs"
SHORT_S = 1.0
LOGIN, LIST = "session.login_with_password", "VM.get_all_records"
MEANT = {"transient": TransientFault, "node": NodeFault, "caller": CallerFault}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[xapi.XapiPool]:
    with xapi.pool(tmp_path_factory.mktemp("xapi")) as made:
        yield made


@pytest.fixture
def one(pool: xapi.XapiPool) -> Iterator[XenServerHypervisor]:
    with pool.opened() as made:
        yield made
        pool.fail()
        made.cleanup()


@pytest.fixture
def image(tmp_path: Path) -> GuestImage:
    return xapi.image(tmp_path)


@pytest.fixture
def guest(one: XenServerHypervisor, image: GuestImage) -> str:
    one.launch(GuestSpec(name=NAME, image=image))
    return NAME


def _reboot(one: XenServerHypervisor) -> None:
    one.reboot(NAME)


@contextmanager
def ruled(pool: xapi.XapiPool, method: str, **rule: Any) -> Iterator[None]:
    """A fault for one block."""
    pool.fail(method, **rule)
    try:
        yield
    finally:
        pool.fail()


def refused(pool: xapi.XapiPool, url: str = "", **more: Any) -> HypervouchError:
    """What connecting says."""
    with pytest.raises(HypervouchError) as told:
        connect(url or pool.url(), pool.access(timeout_s=10.0, **more)).close()
    return told.value


class TestTheWayThere:
    def test_a_wrong_password_is_tried_once(self, pool: xapi.XapiPool):
        pool.fail("session.login_with_password", error=["ALWAYS"], times=2)
        told = refused(pool, password="wrong")
        assert "ALWAYS" in told.message
        # One of the two is left: it was asked once.
        assert "ALWAYS" in refused(pool).message
        told = refused(pool, password="wrong")
        assert isinstance(told, NodeFault)
        assert "SESSION_AUTHENTICATION_FAILED" in told.message
        assert "wrong" not in told.message

    def test_a_member_that_is_no_master(self, pool: xapi.XapiPool):
        pool.fail("session.login_with_password", error=["HOST_IS_SLAVE", "192.0.2.7"])
        told = refused(pool)
        assert isinstance(told, CallerFault)
        assert "192.0.2.7" in told.message

    @pytest.mark.parametrize(
        ("method", "rule", "meant"),
        [
            (LOGIN, {"http": 401}, "node"),
            (LOGIN, {"http": 503}, "transient"),
            (LOGIN, {"raw": "no XML at all \u202e"}, "node"),
            (LOGIN, {"raw": "<?xml version='1.0'?><html>Hello</html>"}, "node"),
            (LIST, {"http": 403}, "node"),
            (LIST, {"http": 503}, "transient"),
            (LIST, {"drop": True}, "transient"),
            (LIST, {"raw": "<rubbish"}, "node"),
            (LIST, {"raw": ""}, "node"),
            (LIST, {"raw": "<methodResponse/>"}, "node"),
        ],
        ids=str,
    )
    def test_strange_answers(
        self, pool: xapi.XapiPool, method: str, rule: dict[str, Any], meant: str
    ):
        with (
            pytest.raises(MEANT[meant]),
            ruled(pool, method, **rule),
            pool.opened() as made,
        ):
            made.inventory()

    @pytest.mark.parametrize("value", ["<int>1</int>", "<array><data/></array>", "<struct/>"])
    def test_xml_rpc_that_is_no_xenapi(
        self, pool: xapi.XapiPool, one: XenServerHypervisor, value: str
    ):
        wrapped = f"<params><param><value>{value}</value></param></params>"
        raw = f"<methodResponse>{wrapped}</methodResponse>"
        told = pytest.raises(NodeFault, match="no XenAPI")
        with ruled(pool, "VM.get_by_name_label", raw=raw), told:
            one.info(NAME)


class TestInMidOperation:
    def test_a_session_that_ends_all_the_time_is_told(
        self, pool: xapi.XapiPool, one: XenServerHypervisor, guest: str
    ):
        told = pytest.raises(TransientFault, match="session")
        with ruled(pool, "VM.get_record", error=["SESSION_INVALID", "x"], times=9), told:
            one.info(guest)

    def test_a_password_that_was_changed_meanwhile_is_tried_once(
        self, pool: xapi.XapiPool, guest: str
    ):
        with pool.opened() as other:
            session = other._link._session
            right = session.last_login_params
            session.last_login_params = [right[0], "of yesterday", *right[2:]]
            pool.fail("VM.get_by_name_label", error=["SESSION_INVALID", "x"])
            with pytest.raises(NodeFault, match="SESSION_AUTHENTICATION_FAILED"):
                other.info(guest)
            session.last_login_params = right
            with pytest.raises(NodeFault, match="SESSION_AUTHENTICATION_FAILED"):
                other.info(guest)

    @pytest.mark.parametrize(
        ("method", "told"),
        [
            ("VDI.create", ("SR_FULL", "node")),
            ("VM.create", ("INTERNAL_ERROR", "node")),
            ("VM.start_on", ("OTHER_OPERATION_IN_PROGRESS", "transient")),
            ("import_raw_vdi", ("SR_FULL", "node")),
            ("VBD.create", ("HANDLE_INVALID", "transient")),
        ],
    )
    def test_a_launch_that_fails_leaves_nothing(
        self,
        pool: xapi.XapiPool,
        one: XenServerHypervisor,
        image: GuestImage,
        method: str,
        told: tuple[str, str],
    ):
        code, meant = told
        with ruled(pool, method, error=[code, "\u202ea detail"]), pytest.raises(MEANT[meant]) as e:
            one.launch(GuestSpec(name=NAME, image=image))
        assert code in str(e.value)
        assert NAME not in one.inventory().guests
        assert not one._disks.left()
        assert not one._link.records("task")

    @pytest.mark.parametrize(
        "told",
        [
            ({"http": 403}, "node"),
            ({"http": 503}, "transient"),
            ({"drop": True}, "transient"),
        ],
        ids=str,
    )
    def test_an_upload_that_fails(
        self,
        pool: xapi.XapiPool,
        one: XenServerHypervisor,
        guest: str,
        tmp_path: Path,
        told: tuple[dict[str, Any], str],
    ):
        rule, meant = told
        with ruled(pool, "import_raw_vdi", **rule), pytest.raises(MEANT[meant]):
            one.rebuild(guest, xapi.image(tmp_path, b"second"))
        assert xapi.root_bytes(one, guest, 5) == b"first"
        one.start(guest)

    def test_a_task_that_never_ends_is_stopped(self, pool: xapi.XapiPool, guest: str):
        with pool.opened(timeout_s=SHORT_S) as hasty:
            told = pytest.raises(TransientFault, match="has not ended in 1 s")
            with ruled(pool, "VM.hard_reboot", hang=True), told:
                hasty.reboot(guest, hard=True)
            assert not hasty._link.records("task")

    @pytest.mark.parametrize(
        "call",
        [
            _reboot,
            lambda one: one.inventory(),
            lambda one: one.create_volume(f"{NAME}-v", 8),
            lambda one: one.cleanup(),
        ],
    )
    def test_the_server_is_killed(
        self, tmp_path: Path, call: Callable[[XenServerHypervisor], object]
    ):
        with xapi.pool(tmp_path / "xapi") as own, own.opened(timeout_s=20.0) as one:
            if call is _reboot:
                one.launch(GuestSpec(name=NAME, image=xapi.image(tmp_path)))
            own.fail(delay_s=60, times=99)
            killer = threading.Timer(0.2, os.kill, (own.pid, signal.SIGKILL))
            killer.start()
            with pytest.raises(TransientFault):
                call(one)
            killer.join()


def test_a_pin_is_looked_at_on_every_connection(tmp_path: Path):
    """Another server, with another certificate, takes the place of the first."""
    with xapi.pool(tmp_path / "a") as first:
        opened = first.opened(ca_file=None, certificate=first.digest())
        with opened as one:
            image = xapi.image(tmp_path)
            one.launch(GuestSpec(name=NAME, image=image))
            os.kill(first.pid, signal.SIGKILL)
            shutil.rmtree(tmp_path / "b", ignore_errors=True)
            with xapi.pool(tmp_path / "b", "--port", str(first.port)):
                with pytest.raises(NodeFault, match="is pinned"):
                    one.info(NAME)
                with pytest.raises(NodeFault, match="is pinned"):
                    one._link.first_bytes("OpaqueRef:x", 1)
            with suppress(HypervouchError):
                one.close()
