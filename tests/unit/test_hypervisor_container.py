# SPDX-License-Identifier: Apache-2.0
"""Container engines without an engine: limits of processes, archives, URLs, states."""

import io
import tarfile
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from nodes.hypervisors import container
from nodes.hypervisors.base import Access, GuestImage, GuestSpec, GuestState, Nic
from nodes.hypervisors.container_console import request
from nodes.hypervisors.container_engine import hard_limits, may_raise_limits
from nodes.hypervisors.container_image import packed, plain, without_duplicates
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault

LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max processes             96365                32768                processes 
Max open files            1024                 20000                files     
"""  # noqa: W291 - as the kernel writes it


class TestLimits:
    def test_hard_ones_are_read_and_unlimited_ones_left_out(self):
        assert hard_limits(LIMITS) == {"processes": 32768, "open files": 20000}

    @pytest.mark.parametrize(
        ("status", "may"),
        [
            ("CapEff:\t000001ffffffffff\n", True),
            ("Name:\tx\nCapEff:\t000001fffeffffff\n", False),
            ("", True),
        ],
    )
    def test_who_may_raise_them(self, status, may):
        assert may_raise_limits(status) is may


class TestArchive:
    def test_holds_files_below_the_root(self):
        with tarfile.open(fileobj=io.BytesIO(packed({"/etc/a": b"1"}))) as archive:
            assert archive.getnames() == ["etc/a"]
            assert archive.extractfile("etc/a").read() == b"1"

    @pytest.mark.parametrize("name", ["../a", "/etc/../../a", "/", ""])
    def test_a_path_out_of_the_root_is_refused(self, name):
        with pytest.raises(CallerFault):
            packed({name: b""})

    def test_the_last_of_two_files_counts(self, tmp_path):
        path = tmp_path / "root.tar"
        path.write_bytes(packed({"/etc/a": b"first", "/b": b""}))
        with tarfile.open(path, "a") as archive:
            member = tarfile.TarInfo("./etc/a")
            member.size = 4
            archive.addfile(member, io.BytesIO(b"last"))
        with without_duplicates(path) as clean, tarfile.open(clean) as archive:
            assert [member.name for member in archive] == ["./etc/a", "b"]
            assert archive.extractfile("./etc/a").read() == b"last"
        assert not clean.exists()

    def test_one_without_duplicates_is_taken_as_it_is(self, tmp_path):
        path = tmp_path / "root.tar"
        path.write_bytes(packed({"/etc/a": b""}))
        with without_duplicates(path) as clean:
            assert clean == path

    def test_device_nodes_are_left_out(self, tmp_path):
        path = tmp_path / "root.tar"
        with tarfile.open(path, "w") as archive:
            node = tarfile.TarInfo("dev/console")
            node.type = tarfile.CHRTYPE
            archive.addfile(node)
            archive.addfile(tarfile.TarInfo("etc"))
        with tarfile.open(fileobj=io.BytesIO(plain(path))) as archive:
            assert archive.getnames() == ["etc"]

    def test_garbage_is_the_callers_fault(self, tmp_path):
        path = tmp_path / "root.tar"
        path.write_bytes(b"x" * 600)
        with pytest.raises(CallerFault):
            plain(path)
        with pytest.raises(CallerFault), without_duplicates(path):
            pass


class TestUrl:
    @pytest.mark.parametrize("url", ["docker://host/sock", "docker:///a?b=c", "podman+ssh://x/"])
    def test_wrong_ones(self, url, tmp_path):
        with pytest.raises(CallerFault):
            container.connect(url, Access(work=tmp_path))

    def test_default_sockets(self, monkeypatch):
        assert container.default_socket("docker") == "/run/docker.sock"
        monkeypatch.setattr(container.os, "geteuid", lambda: 0)
        assert container.default_socket("podman") == "/run/podman/podman.sock"
        monkeypatch.setattr(container.os, "geteuid", lambda: 1000)
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
        assert container.default_socket("podman") == "/run/user/1000/podman/podman.sock"


class TestState:
    @pytest.mark.parametrize(
        ("state", "ours"),
        [
            ({"Status": "running"}, GuestState.RUNNING),
            ({"Status": "paused"}, GuestState.PAUSED),
            ({"Status": "created"}, GuestState.SHUTOFF),
            ({"Status": "exited", "OOMKilled": False}, GuestState.SHUTOFF),
            ({"Status": "exited", "OOMKilled": True}, GuestState.CRASHED),
            ("running", GuestState.RUNNING),
        ],
    )
    def test_in_our_words(self, state, ours):
        assert container._state(SimpleNamespace(attrs={"State": state})) is ours

    def test_processors_are_counted_in_the_set(self):
        for told, count in (("0", 1), ("0,1,3", 3), ("", 1), (None, 1)):
            found = SimpleNamespace(attrs={"HostConfig": {"CpusetCpus": told}})
            assert container._cpus(found) == count

    def test_a_network_has_its_cards_address_in_its_name(self):
        nic = Nic(mac="52:54:00:AB:00:01")
        name = container._network_name("hv-a-b", nic)
        assert name == "hv-a-b-525400ab0001"
        assert container._mac(name.rpartition("-")[2]) == nic.mac.lower()


class _Engine:
    """One that has removed all images."""

    path, key = "/run/engine.sock", "docker"

    @contextmanager
    def faults(self, what, *, repeatable=False):
        del repeatable
        try:
            yield
        except KeyError as error:
            raise CallerFault(f"there is no {what}") from error


class _Named:
    def __init__(self, name, labels):
        self.name, self.labels = name, labels

    @property
    def image(self):
        raise KeyError


@pytest.fixture
def engine():
    made = container.ContainerHypervisor.__new__(container.ContainerHypervisor)
    made._engine = _Engine()
    return made


def test_one_whose_image_is_gone_is_somebodys_and_no_crash(engine):
    assert not engine._is_ours(_Named("hv-a", {}))
    assert engine._is_ours(_Named("hv-a", {"hypervouch.owner": "hypervouch"}))
    assert not engine._is_ours(_Named("theirs", {"hypervouch.owner": "hypervouch"}))


def test_the_first_error_of_a_launch_is_told_though_it_cannot_be_undone(engine, monkeypatch):
    def fails(error):
        def call(*_given):
            raise error

        return call

    monkeypatch.setattr(engine, "_check", lambda _spec: None)
    monkeypatch.setattr(engine, "_exists", lambda _name: False)
    monkeypatch.setattr(engine, "_make", fails(NodeFault("no space")))
    monkeypatch.setattr(engine, "_undo", fails(TransientFault("it is away")))
    with pytest.raises(NodeFault, match="no space"):
        engine.launch(GuestSpec(name="hv-a", image=GuestImage(arch="x86_64")))


def test_the_terminal_is_asked_for_in_one_request():
    head, _, body = request("abc", "1.41").partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1.41/containers/abc/attach?stream=1&stdin=1")
    assert body == b""
