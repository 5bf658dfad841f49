# SPDX-License-Identifier: Apache-2.0
"""The pretended machine's own journal, and a dummy session that lost its machine."""

import json
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from ci.cancel import CancelToken, Deadline
from ci.clock import FakeClock
from ci.errors import CollectError, NodeUnavailable
from ci.model.node import Endpoint
from ci.runners.dummy import DummyRunner, DummySession
from nodes.pretended import Machine
from nodes.providers.dummy import DummyOptions, DummyProvider

NODE = "dummy-1"


@pytest.fixture
def options(tmp_path: Path) -> DummyOptions:
    return DummyOptions(shared_dir=tmp_path / "nodes", journal=tmp_path / "journal")


@pytest.fixture
def provider(options: DummyOptions, tmp_path: Path) -> DummyProvider:
    return DummyProvider(options, tmp_path / "mine")


def words(options: DummyOptions) -> list[str]:
    assert options.journal
    lines = [json.loads(line) for line in options.journal.read_text().splitlines()]
    return [f"{line['word']} {line['holder']}{line.get('how', '')}" for line in lines]


def session(endpoint: Endpoint, files: dict[str, str]) -> DummySession:
    opened = DummyRunner().connect(endpoint, deadline())
    tar = BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as entries:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            entries.addfile(entry, BytesIO(text.encode()))
    tar.seek(0)
    opened.put_tree(tar, "/node/tree", deadline())
    return opened


def deadline() -> Deadline:
    return Deadline("run", 60, FakeClock())


def run(opened: DummySession, command: str, sink: list[bytes] | None = None) -> int:
    return opened.run(
        command,
        directory="/node/tree",
        env={},
        sink=(sink if sink is not None else []).append,
        deadline=deadline(),
        cancel=CancelToken(),
    )


def test_a_build_is_told_from_boot_to_stop(provider: DummyProvider, options: DummyOptions):
    opened = session(provider.start(NODE, "a"), {})
    assert run(opened, "true") == 0
    provider.stop(NODE)
    provider.stop(NODE)
    assert words(options) == ["boot a", "begin a", "end a", "stop a"]


def test_a_patch_decides_by_a_file_that_is_followed(provider: DummyProvider):
    said: list[bytes] = []
    opened = session(provider.start(NODE, "a"), {"suite.txt": "echo hello\nexit 3\necho no\n"})
    assert run(opened, "follow suite.txt", said) == 3
    assert said == [b"hello\n"]


def test_another_process_finds_the_same_machine_and_takes_it_over(
    provider: DummyProvider, options: DummyOptions, tmp_path: Path
):
    opened = session(provider.start(NODE, "a"), {})
    other = DummyProvider(options, tmp_path / "other")
    assert other.alive(NODE)
    other.start(NODE, "b")
    with pytest.raises(NodeUnavailable, match="reset"):
        run(opened, "true")
    with pytest.raises(CollectError):
        opened.fetch(["*"], directory="/node/tree", target=tmp_path, limit_bytes=1)
    assert words(options) == ["boot a", "takeover b", "boot b"]


def test_a_suite_whose_machine_dies_is_lost(provider: DummyProvider, options: DummyOptions):
    opened = session(provider.start(NODE, "a"), {})

    class Dying(list[bytes]):
        def append(self, _text: bytes) -> None:
            provider.die(NODE)

    with pytest.raises(NodeUnavailable, match="reset"):
        run(opened, "echo now; sleep 5", Dying())
    assert words(options) == ["boot a", "begin a", "die a", "lost aNodeUnavailable"]


def test_only_shared_nodes_can_be_reached_by_every_process(provider: DummyProvider, tmp_path: Path):
    assert not provider.machine_bound
    assert DummyProvider(DummyOptions(), tmp_path).machine_bound


def test_without_a_journal_an_endpoint_leads_nowhere(tmp_path: Path):
    endpoint = DummyProvider(DummyOptions(), tmp_path).start(NODE, "a")
    assert Machine.of(endpoint.facts) is None
    assert endpoint.facts == {"boot": "pretended"}
