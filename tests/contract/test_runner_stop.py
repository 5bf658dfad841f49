# SPDX-License-Identifier: Apache-2.0
"""How a command is ended, the same for all runners: three signals, their times, and the log."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ci.cancel import CancelToken, Deadline
from ci.errors import BuildCanceled, CollectError, HypervouchError, NodeUnavailable, RunTimeout
from ci.model.node import Endpoint, Transport
from ci.runners.stop import Grace
from ci.runners.table import runner_for
from tests.kit import winrs, winssh
from tests.kit.require import require
from tests.kit.sessions import CLOCK, Node, is_alive, tar_of, within
from tests.kit.sshd import Sshd, SshdMissing, running

GRACE = Grace(interrupt_s=0.5, terminate_s=0.3, kill_s=2.0)
LOOP = "while :; do sleep 0.1; done"
# The same suites in a shell's words and in the dummy's.
SUITES = {
    "speaks": (
        f"trap 'sleep 0.1; echo last words; exit 1' INT; {LOOP}",
        "last 0.1 last words;hang",
    ),
    "deaf to INT": (f"trap '' INT; echo $$ >pid; {LOOP}", "ignore INT;hang"),
    "deaf to all": (f"trap '' INT TERM; echo $$ >pid; {LOOP}", "ignore INT TERM;hang"),
    "too slow": (
        "trap 'while :; do sleep 0.1; done' INT; echo $$ >pid; " + LOOP,
        "last 30 never said;hang",
    ),
    "meek": ("sleep 60", "hang"),
}


@dataclass
class Story:
    """A session, and what it told."""

    endpoint: Endpoint
    told: list[str] = field(default_factory=list)
    grace: Grace = GRACE

    def __post_init__(self) -> None:
        runner = runner_for(self.endpoint.transport)
        session = runner.connect(self.endpoint, within(), grace=self.grace, tell=self.told.append)
        self.node = Node(session, self.endpoint.workdir)
        self.node.put()

    def suite(self, name: str) -> str:
        """A suite in the words of this node."""
        return SUITES[name][self.endpoint.transport is Transport.DUMMY]

    def end(self, command: str, *, after_s: float = 0.4) -> float:
        """Cancel a command; returns how long the end took."""
        cancel, asked = CancelToken(), []

        def ask() -> None:
            asked.append(time.monotonic())
            cancel.cancel(BuildCanceled("superseded"))

        timer = threading.Timer(after_s, ask)
        timer.start()
        try:
            with pytest.raises(BuildCanceled, match="superseded"):
                self.node.run(command, cancel=cancel)
        finally:
            timer.join()
        return time.monotonic() - asked[0]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    try:
        with running(tmp_path_factory.mktemp("sshd")) as daemon:
            yield daemon
    except SshdMissing as missing:
        require("sshd", present=False, why=str(missing))


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[winrs.Winrs]:
    with winrs.running(tmp_path_factory.mktemp("winrs")) as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def openssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[winssh.WinSsh]:
    try:
        with winssh.running(tmp_path_factory.mktemp("winssh")) as server:
            yield server
    except SshdMissing as missing:
        require("sshd", present=False, why=str(missing))


# Most of it is the same code for `ssh` and `windows-ssh`; what tells them apart is run for both.
on_each = pytest.mark.parametrize(
    "endpoint", ["dummy", "local", "ssh", "winrm", "windows-ssh"], indirect=True
)


@pytest.fixture(params=["dummy", "local", "ssh", "winrm"])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Endpoint:
    if request.param == "winrm":
        stand_in: winrs.Winrs = request.getfixturevalue("windows")
        return stand_in.endpoint(tmp_path / "node")
    if request.param == "windows-ssh":
        server: winssh.WinSsh = request.getfixturevalue("openssh")
        return server.endpoint(tmp_path / "node")
    if request.param == "ssh":
        daemon: Sshd = request.getfixturevalue("sshd")
        return daemon.endpoint(tmp_path / "node")
    return Endpoint(transport=Transport(request.param), workdir=str(tmp_path / "node"))


@pytest.fixture
def story(endpoint: Endpoint) -> Iterator[Story]:
    made = Story(endpoint)
    yield made
    made.node.end()


def signals(told: list[str]) -> list[str]:
    return [said.split()[0] for said in told if said.startswith("SIG")]


@on_each
def test_a_suite_that_handles_the_interrupt_has_its_time_and_its_last_word(story: Story) -> None:
    took_s = story.end(story.suite("speaks"))
    assert bytes(story.node.output) == b"last words\n"
    assert signals(story.told) == ["SIGINT"]
    assert "SIGINT ended" in story.told[0]
    assert 0.05 < took_s < 3


def test_one_that_needs_no_persuasion_ends_at_once(story: Story) -> None:
    assert story.end(story.suite("meek")) < 2
    assert signals(story.told) == ["SIGINT"]


@pytest.mark.parametrize("suite", ["deaf to INT", "too slow"])
def test_one_that_ignores_the_interrupt_is_terminated(story: Story, suite: str) -> None:
    took_s = story.end(story.suite(suite))
    assert signals(story.told) == ["SIGINT", "SIGTERM"]
    assert "still ran after 0." in story.told[0]
    assert "SIGTERM ended" in story.told[1]
    assert GRACE.interrupt_s <= took_s < GRACE.interrupt_s + 3
    assert b"never" not in story.node.output


@on_each
def test_one_that_ignores_both_is_killed_in_bounded_time(story: Story) -> None:
    took_s = story.end(story.suite("deaf to all"))
    assert signals(story.told) == ["SIGINT", "SIGTERM", "SIGKILL"]
    assert "SIGKILL ended" in story.told[2]
    assert took_s < GRACE.total_s + 1
    pid = Path(story.node.directory) / "pid"
    assert not pid.exists() or not is_alive(int(pid.read_text()))


def test_a_time_out_is_the_same_way_down(story: Story) -> None:
    with pytest.raises(RunTimeout):
        story.node.run(story.suite("deaf to INT"), deadline=within(0.5))
    assert signals(story.told) == ["SIGINT", "SIGTERM"]


def test_a_step_of_no_time_is_left_out(endpoint: Endpoint) -> None:
    story = Story(endpoint, grace=Grace(interrupt_s=0, terminate_s=0.5, kill_s=2))
    story.end(story.suite("deaf to INT"))
    story.node.end()
    assert signals(story.told) == ["SIGTERM"]


def test_a_kill_of_what_has_ended_is_certain_and_says_nothing(story: Story) -> None:
    assert story.node.run("true") == 0
    assert story.node.session.kill()
    assert story.node.session.kill(within(0.1))
    assert story.told == []


@pytest.mark.parametrize("endpoint", ["local", "ssh", "winrm"], indirect=True)
def test_much_is_said_while_it_ends_and_nothing_is_held_up_by_it(endpoint: Endpoint) -> None:
    story = Story(endpoint, grace=Grace(interrupt_s=10, terminate_s=1, kill_s=2))
    command = f"trap 'head -c 3000000 /dev/zero; echo; echo done; exit 1' INT; {LOOP}"
    story.end(command)
    story.node.end()
    assert len(story.node.output) == 3_000_006
    assert signals(story.told) == ["SIGINT"]


@pytest.mark.parametrize("endpoint", ["local", "ssh", "winrm", "windows-ssh"], indirect=True)
def test_those_who_left_the_group_end_too(story: Story, tmp_path: Path) -> None:
    story.node.put({"hold": f"echo $$ >{tmp_path}/pid-$1; exec sleep 300".encode()})
    story.end(
        "sh hold child & setsid sh hold session & (setsid sh hold fork &) & trap '' INT; wait",
        after_s=0.8,
    )
    pids = {path.name: int(path.read_text()) for path in tmp_path.glob("pid-*")}
    assert set(pids) == {"pid-child", "pid-session", "pid-fork"}
    assert [name for name, pid in pids.items() if is_alive(pid)] == []
    assert story.told[0].startswith("SIGINT to")


@pytest.mark.parametrize("endpoint", ["ssh"], indirect=True)
def test_a_network_that_stands_still_in_the_middle_of_a_cancel_is_bounded(
    story: Story, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ci.runners.ssh_channel.CHANNEL_S", 1.0)
    monkeypatch.setattr("ci.runners.ssh_session.CONFIRM_S", 0.5)
    freeze = threading.Timer(0.6, lambda: [os.kill(pid, 19) for pid in sshd.connections()])
    freeze.start()
    try:
        took_s = story.end(story.suite("deaf to all"))
        assert not story.node.session.kill()
    finally:
        freeze.join()
        for pid in sshd.connections():
            os.kill(pid, 18)
    assert took_s < GRACE.total_s + 3
    assert story.told[0].startswith("nobody knows whether it ended")
    with pytest.raises(NodeUnavailable):
        story.node.run("true")


@pytest.mark.parametrize("endpoint", ["dummy"], indirect=True)
def test_the_dummy_may_be_mute(story: Story) -> None:
    story.end("mute;hang")
    assert story.told == ["nobody knows whether it ended: the dummy node answers nobody"]
    assert not story.node.session.kill()
    with pytest.raises(NodeUnavailable, match="told to stop"):
        story.node.run("mute;hang", deadline=within(0.1))


class TestDeadlinesThatACancelBringsForward:
    def canceled(self) -> Deadline:
        token = CancelToken()
        token.cancel(BuildCanceled("abandoned"))
        return Deadline("setup", 30, CLOCK, cancel=token)

    @pytest.mark.parametrize("endpoint", ["ssh", "winrm", "dummy"], indirect=True)
    def test_no_tree_is_put(self, story: Story) -> None:
        with pytest.raises(BuildCanceled):
            story.node.session.put_tree(
                tar_of({"a": b"a" * 300_000}), story.node.directory, self.canceled()
            )

    @pytest.mark.parametrize("endpoint", ["ssh", "winrm", "dummy"], indirect=True)
    def test_no_file_is_fetched(self, story: Story, tmp_path: Path) -> None:
        with pytest.raises(CollectError):
            story.node.session.fetch(
                ["**"],
                directory=story.node.directory,
                target=tmp_path / "got",
                limit_bytes=1000,
                deadline=self.canceled(),
            )

    def test_no_session_is_opened(self, endpoint: Endpoint) -> None:
        with pytest.raises(HypervouchError):
            runner_for(endpoint.transport).connect(endpoint, self.canceled())
