# SPDX-License-Identifier: Apache-2.0
"""One suite over every place that logs can be kept for all: a shared directory, an S3 bucket."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ci.clock import FakeClock
from ci.collect import LogStore
from ci.errors import StorageError
from ci.layout import Service
from ci.log_mirror import Mirror
from ci.log_publish import LIVE, PUBLISHED, SEGMENT_BYTES, Publisher
from ci.log_shelf import Shelf, open_shelf
from webui.logs import LogFiles

ODD = (
    "plain.log",
    "deep/er/ü b%20#?.xml",
    "-rf",
    "..hidden..",
    "a+b&c=d'\".txt",
    "tab\there",
    "d" * 250 + "/" + "ü" * 120 + "/" + "x" * 255,
)


@pytest.fixture(params=["file", "s3"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch) -> Shelf:
    if request.param == "file":
        return made(tmp_path, {"log-store": f"file://{tmp_path / 'shared'}"})
    server = request.getfixturevalue("s3")
    monkeypatch.setenv("S3_KEY", "k")
    key = {"from-env": "S3_KEY"}
    options = {"endpoint": server.url, "access-key-id": key, "secret-access-key": key}
    store = f"s3://{server.make_bucket()}/ci/logs"
    return made(tmp_path, {"log-store": store, "log-store-options": options})


def made(tmp_path: Path, keys: dict[str, object]) -> Shelf:
    found = open_shelf(Service.model_validate({"state-dir": str(tmp_path / "state"), **keys}))
    assert found is not None
    return found


class Lab:
    """A worker's spool and a reader's, with one shelf between them."""

    def __init__(self, tmp_path: Path, shelf: Shelf) -> None:
        self.shelf, self.clock = shelf, FakeClock()
        self.spool = tmp_path / "worker"
        self.publisher = Publisher(self.spool, shelf, self.clock)
        self.store = LogStore(self.spool, 1 << 30, 0, self.clock, self.publisher)
        self.mirror = Mirror(tmp_path / "reader", shelf, 1 << 30, self.clock)
        self.pages = LogFiles(tmp_path / "reader", self.mirror)

    def text(self, attempt: str = "a1") -> str:
        self.clock.advance(1)
        found = self.pages.console("b1", attempt)
        return found.read_text() if found else ""

    def files(self, attempt: str = "a1") -> None:
        folder = self.store.attempt_dir("b1", attempt)
        listed = []
        for name in ODD:
            path = folder / "logs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"content of {name}")
            listed.append({"path": f"logs/{name}", "size_bytes": 1, "sha256": "0"})
        (folder / "manifest.json").write_text(json.dumps({"files": listed}))


@pytest.fixture
def lab(tmp_path: Path, shelf: Shelf) -> Lab:
    return Lab(tmp_path, shelf)


def test_files_go_in_and_come_out(shelf: Shelf, tmp_path: Path):
    (tmp_path / "big").write_bytes(b"0123456789" * 200_000)
    shelf.write("b1/a1/small", b"hello")
    shelf.put("b1/a1/logs/big", tmp_path / "big")
    assert shelf.read("b1/a1/small") == b"hello"
    assert shelf.read("b1/a1/logs/big", 15, 25) == b"5678901234"
    assert shelf.read("b1/a1/none") is None
    assert shelf.read("b1/a1") is None
    assert shelf.kept_at("b1/a1/small") is not None
    assert shelf.kept_at("b2/a1/small") is None
    assert (list(shelf.builds()), list(shelf.below("b1"))) == (["b1"], ["a1"])
    shelf.write("b10/a1/small", b"other")
    shelf.remove("b1")
    shelf.remove("b1")
    assert list(shelf.builds()) == ["b10"]
    assert shelf.read("b10/a1/small") == b"other"
    assert "can be written and read" in shelf.probe()


@pytest.mark.parametrize(
    "key",
    ["../x", "b1/../../x", "b1/a1/../../../x", "/etc/passwd", "b1//x", "b1/a1/a\0b", "", ".."],
)
def test_nothing_outside_the_prefix_can_be_named(shelf: Shelf, tmp_path: Path, key: str):
    for use in (shelf.read, shelf.kept_at, shelf.remove):
        with pytest.raises(StorageError, match="cannot name"):
            use(key)
    with pytest.raises(StorageError, match="cannot name"):
        shelf.write(key, b"x")


def test_a_published_attempt_is_the_same_elsewhere(lab: Lab):
    with lab.store.open_console("b1", "a1") as console:
        lab.files()
        console.write(b"one\ntwo\n" * 1000)
    assert lab.publisher.publish_owed()
    assert lab.text() == (lab.spool / "b1/a1/console.log").read_text()
    assert {one.path for one in lab.pages.artifacts("b1", "a1")} == set(ODD)
    for name in ODD:
        path = lab.pages.artifact("b1", "a1", name)
        assert path is not None
        assert path.read_text() == f"content of {name}"
    assert lab.pages.artifact("b1", "a1", "not-listed") is None
    assert lab.pages.artifact("b1", "a1", "../console.log") is None
    assert lab.publisher.owed() == ()


def test_a_running_attempt_is_followed_and_its_segments_go(lab: Lab):
    console = lab.store.open_console("b1", "a1")
    console.write(b"first\n")
    assert lab.text() == ""
    lab.publisher.follow()
    assert lab.text() == ""  # too little and too young for a segment
    lab.clock.advance(3)
    lab.publisher.follow()
    assert lab.text().endswith("first\n")
    console.write(b"x" * (2 * SEGMENT_BYTES) + b"\nsecond\n")
    lab.publisher.follow()
    assert lab.text() == console.path.read_text()
    assert not lab.publisher.owed()
    console.write(b"last\n")
    console.close()
    assert lab.publisher.publish_owed()
    assert list(lab.shelf.below("b1", "a1", LIVE)) == []
    assert lab.text() == console.path.read_text()
    assert lab.text().endswith("last\n")


def test_publishing_goes_on_after_a_kill_at_any_point(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    calls = count_calls(lab.shelf, monkeypatch)
    with lab.store.open_console("b1", "whole") as console:
        lab.files("whole")
        console.write(b"hello\n")
    assert lab.publisher.publish_owed()
    for point in range(calls()):
        attempt = f"a{point}"
        with lab.store.open_console("b1", attempt) as console:
            lab.files(attempt)
            console.write(b"hello\n")
        die_at(lab.shelf, point, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            lab.publisher.publish("b1", attempt)
        monkeypatch.undo()
        later = Publisher(lab.spool, lab.shelf, lab.clock)
        assert ("b1", attempt) in later.owed()
        assert later.publish_owed()
        assert lab.text(attempt) == console.path.read_text()
        assert lab.shelf.read(f"b1/{attempt}/{PUBLISHED}")


WRITES = ("write", "put", "remove")


def count_calls(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    seen: list[str] = []
    for name in WRITES:
        real = getattr(shelf, name)
        monkeypatch.setattr(shelf, name, lambda *a, r=real, n=name: (seen.append(n), r(*a))[1])
    return lambda: len(seen)


def die_at(shelf: Shelf, point: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [point]

    def fatal(real):
        def call(*arguments):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return real(*arguments)

        return call

    for name in WRITES:
        monkeypatch.setattr(shelf, name, fatal(getattr(Shelf, name).__get__(shelf)))
