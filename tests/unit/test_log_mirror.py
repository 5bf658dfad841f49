# SPDX-License-Identifier: Apache-2.0
"""Local copies of published logs: bounded, mended after a crash, and never a reader's trouble."""

import os
from pathlib import Path

import pytest

from ci.clock import FakeClock
from ci.collect import LogStore
from ci.errors import ConfigError, StorageError
from ci.layout import Service
from ci.log_mirror import Mirror
from ci.log_publish import MIRROR, Publisher
from ci.log_shelf import Shelf, open_shelf
from webui.logs import LogFiles


class Lab:
    """A worker that publishes to a shared directory, and a reader elsewhere."""

    def __init__(self, folder: Path, limit_bytes: int = 1 << 30) -> None:
        self.clock, self.shared, self.reader = FakeClock(), folder / "shared", folder / "reader"
        service = {"state-dir": str(folder), "log-store": f"file://{self.shared}"}
        self.shelf = open_shelf(Service.model_validate(service))
        self.publisher = Publisher(folder / "spool", self.shelf, self.clock)
        self.store = LogStore(folder / "spool", 1 << 30, 0, self.clock, self.publisher)
        self.mirror = Mirror(self.reader, self.shelf, limit_bytes, self.clock)
        self.pages = LogFiles(self.reader, self.mirror)

    def build(self, name: str, size: int = 100) -> str:
        with self.store.open_console(name, "a1") as console:
            console.write(b"x" * size + b"\n")
        self.publisher.publish(name, "a1")
        return console.path.read_text()

    def text(self, name: str) -> str:
        self.clock.advance(1)
        found = self.pages.console(name, "a1")
        return found.read_text() if found else ""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_copies_unused_for_longest_go_and_come_again(tmp_path: Path):
    lab = Lab(tmp_path, limit_bytes=250_000)
    texts = {name: lab.build(name, 100_000) for name in ("b1", "b2", "b3")}
    for age, name in enumerate(texts):
        assert lab.text(name) == texts[name]
        os.utime(lab.reader / name / "a1" / MIRROR, (1000 + age,) * 2)
    lab.mirror.tidy()
    assert sorted(path.parent.name for path in lab.reader.glob("*/a1")) == ["b2", "b3"]
    assert lab.text("b1") == texts["b1"]


def test_the_spool_is_no_copy_and_stays(tmp_path: Path):
    lab = Lab(tmp_path)
    console = lab.store.open_console("b1", "a1")
    console.write(b"here\n")
    own = LogFiles(console.path.parents[2], Mirror(console.path.parents[2], lab.shelf, 0))
    assert own.console("b1", "a1").read_text().endswith("here\n")
    assert not lab.shared.exists()
    console.close()
    assert lab.publisher.publish_owed()
    os.utime(console.path.parent / MIRROR, (1000, 1000))
    assert Mirror(console.path.parents[2], lab.shelf, 0).tidy() == 1  # a copy from now on


def test_a_copy_that_was_cut_short_goes_on_where_it_was_good(lab: Lab):
    text = lab.build("b1", 500)
    folder = lab.reader / "b1" / "a1"
    folder.mkdir(parents=True)
    (folder / "console.log").write_text(text[:100] + "half of a piece")
    (folder / MIRROR).write_text("100")
    assert lab.text("b1") == text


def test_a_copy_that_is_wrong_is_fetched_anew(lab: Lab):
    text = lab.build("b1", 500)
    folder = lab.reader / "b1" / "a1"
    folder.mkdir(parents=True)
    (folder / "console.log").write_text("?" * 200)
    (folder / MIRROR).write_text("200")
    assert lab.text("b1") == text


@pytest.mark.parametrize(
    "facts",
    ["", "{", "[]", '{"console_bytes": 9999, "console_sha256": "0"}', '{"console_bytes": "x"}'],
)
def test_a_store_that_lies_shows_nothing_wrong(lab: Lab, facts: str):
    lab.build("b1")
    (lab.shared / "b1/a1/published.json").write_text(facts)
    lab.text("b1")
    assert not (lab.reader / "b1/a1/.complete").exists()
    assert lab.mirror.trouble


def test_a_store_that_is_away_is_left_in_peace(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    text = lab.build("b1")
    asked = []

    def away(*arguments):
        asked.append(arguments)
        raise StorageError("away", retryable=True)

    monkeypatch.setattr(lab.shelf, "read", away)
    for _ in range(5):
        assert lab.text("b1") == ""
    assert len(asked) == 1
    assert "away" in lab.mirror.trouble
    monkeypatch.undo()
    lab.clock.advance(10)
    assert lab.text("b1") == text
    assert lab.mirror.trouble == ""


def test_a_running_build_of_nobody_here_leaves_no_folder(lab: Lab):
    assert lab.text("b404") == ""
    assert lab.text("../b1") == ""
    assert not lab.reader.exists()
    assert not lab.pages.published("b404", "a1")
    assert not lab.pages.has_console("b404", "a1")


def test_an_artifact_never_leaves_its_folder(lab: Lab, tmp_path: Path):
    lab.build("b1")
    (lab.shared / "secret").write_text("s")
    manifest = '{"files": [{"path": "logs/%s", "size_bytes": 1, "sha256": "0"}]}'
    for name in ("../../secret", "/etc/hostname", "../../../b1/a1/console.log"):
        (lab.shared / "b1/a1/manifest.json").write_text(manifest % name)
        for file in lab.reader.glob("b1/a1/manifest.json"):
            file.unlink()
        lab.clock.advance(1)
        assert lab.pages.artifact("b1", "a1", name) is None


def test_one_that_the_store_refuses_does_not_hold_up_the_rest(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    for name in ("b1", "b2", "b3"):
        with lab.store.open_console(name, "a1") as console:
            console.write(b"x\n")
    real = Shelf.put

    def put(self: Shelf, key: str, file: Path) -> None:
        if key.startswith("b2/"):
            raise StorageError("refused")
        real(self, key, file)

    monkeypatch.setattr(Shelf, "put", put)
    assert not lab.publisher.publish_owed()
    assert lab.publisher.owed() == (("b2", "a1"),)
    assert lab.publisher.trouble == "1 attempts wait: refused"
    monkeypatch.undo()
    assert lab.publisher.publish_owed()
    assert lab.publisher.trouble == ""


def test_s3_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore.fsspec", None)
    service = Service.model_validate({"state-dir": str(tmp_path), "log-store": "s3://bucket/logs"})
    with pytest.raises(ConfigError) as caught:
        open_shelf(service)
    assert "hypervouch[s3]" in caught.value.hint


@pytest.mark.parametrize("url", ["ftp://x/y", "s3://", "file://relative", "/srv/logs", "s3://B/x"])
def test_stores_that_cannot_be(url: str):
    with pytest.raises(ValueError, match="log-store"):
        Service.model_validate({"state-dir": "/s", "log-store": url})
