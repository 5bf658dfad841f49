# SPDX-License-Identifier: Apache-2.0
"""A libvirt host's directory: what is tried again, and for how long."""

from collections.abc import Callable
from unittest.mock import Mock

import pytest

from nodes.hypervisors.faults import TransientFault
from nodes.hypervisors.libvirt_store import Store

libvirt = pytest.importorskip("libvirt")

BUSY_PROCESSOR = (
    "internal error: Child process (/usr/bin/qemu-img create -f luks ...) unexpected exit "
    "status 1: qemu-img: /disks/hv-v: Unable to get accurate CPU usage"
)


def complaint(message: str) -> Exception:
    made: Exception = libvirt.libvirtError("")
    made.err = (libvirt.VIR_ERR_INTERNAL_ERROR, 18, message, 2, "", None, None, -1, -1)  # type: ignore[attr-defined]
    return made


@pytest.fixture
def pool() -> Mock:
    found = Mock()
    found.XMLDesc.return_value = "<pool><target><path>/disks</path></target></pool>"
    return found


@pytest.fixture
def create(pool: Mock, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    conn = Mock()
    conn.listAllStoragePools.return_value = [pool]
    store = Store(conn, "/disks")
    monkeypatch.setattr(store, "_pause", Mock())
    return lambda: store.create("hv-v", 1 << 20)


def test_a_processor_that_was_too_busy_to_be_measured_is_asked_again(
    pool: Mock, create: Callable[[], object]
):
    pool.createXML.side_effect = [complaint(BUSY_PROCESSOR), complaint(BUSY_PROCESSOR), "made"]
    assert create() == "made"


def test_one_that_stays_too_busy_is_nobodys_fault(pool: Mock, create: Callable[[], object]):
    pool.createXML.side_effect = complaint(BUSY_PROCESSOR)
    with pytest.raises(TransientFault, match="accurate CPU usage"):
        create()
    assert 2 <= pool.createXML.call_count <= 10


def test_a_pool_that_another_upload_holds_is_asked_again(pool: Mock, create: Callable[[], object]):
    held = complaint("pool 'p' has asynchronous jobs running.")
    pool.createXML.side_effect = [*[held] * 20, "made"]
    assert create() == "made"


def test_anything_else_is_told_at_once(pool: Mock, create: Callable[[], object]):
    pool.createXML.side_effect = complaint("No space left on device")
    with pytest.raises(libvirt.libvirtError):
        create()
    assert pool.createXML.call_count == 1


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> tuple[Store, dict[str, bytes]]:
    """A store over files in memory."""
    store = Store(Mock(), "/disks")
    files = {"hv-a.log": b"cc", "hv-a.log.0": b"bbbb", "hv-a.log.1": b"aaaa", "hv-ab.log": b"x"}
    monkeypatch.setattr(store, "names", lambda: list(files))
    monkeypatch.setattr(store, "size", lambda name: len(files[name]))
    monkeypatch.setattr(store, "get", lambda name, offset: files[name][offset:])
    monkeypatch.setattr(store, "remove", files.pop)
    return store, files


@pytest.mark.parametrize(
    ("limit", "tail"), [(1, b"c"), (2, b"cc"), (5, b"bbbcc"), (8, b"aabbbbcc"), (99, b"aaaabbbbcc")]
)
def test_what_virtlogd_put_aside_belongs_to_the_log(
    logs: tuple[Store, dict[str, bytes]], limit: int, tail: bytes
):
    assert logs[0].log_tail("hv-a.log", limit) == tail
    assert logs[0].log_tail("hv-b.log", limit) == b""


def test_a_log_is_removed_with_what_was_put_aside(logs: tuple[Store, dict[str, bytes]]):
    store, files = logs
    store.remove_log("hv-a.log")
    assert list(files) == ["hv-ab.log"]
