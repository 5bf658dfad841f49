# SPDX-License-Identifier: Apache-2.0
"""A node that stays, behind a real SSH daemon: probe, health job, what builds leave, a hold."""

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ci.cancel import CancelToken, Deadline
from ci.clock import SystemClock
from ci.errors import NodeUnavailable
from ci.model.build import AttemptKind
from ci.model.node import Endpoint, Lease, Transport
from ci.runners.table import runner_for
from ci.scheduling import Needs
from ci.store import attempts, holds, schema
from nodes import health_job, leftovers
from nodes.health import preflight
from nodes.health_guest import booting, tiny_image
from nodes.hypervisors.base import GuestSpec
from nodes.leftovers import Leftovers, trouble_of
from nodes.pool import Care, NodePool
from nodes.providers.static import StaticOptions, StaticProvider
from nodes.reach import connecting
from nodes.rounds import Rounds
from tests.kit import sshd
from tests.kit.core import database_in, queue_buildset, rows
from tests.kit.require import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
CLOCK = SystemClock()


class Site:
    """A pool over one machine of one's own."""

    def __init__(self, home: Path, server: sshd.Sshd, **options: Any) -> None:
        self.database = database_in(home)
        self.workdir = home / "node" / "work"
        self.watched = home / "watched"
        self.watched.mkdir(parents=True)
        there = server.endpoint(self.workdir)
        fields = {
            "name": "lab",
            "label": "lab",
            "host": "127.0.0.1",
            "port": there.port,
            "user": there.user,
            "key-file": there.key_file,
            "known-hosts": there.known_hosts,
            "workdir": str(self.workdir),
            **options,
        }
        provider = StaticProvider(StaticOptions.model_validate(fields), home / "state")
        self.pool = NodePool(
            self.database,
            CLOCK,
            {"lab": (provider,)},
            preflight,
            term_s=120,
            care=Care(
                health_every=timedelta(days=1),
                leftovers=Leftovers(lambda _: None, watched=(str(self.watched),)),
            ),
        )
        self.pool.register()
        self.rounds = Rounds(self.pool, lambda endpoint, _: health_job.examine(endpoint))
        (build,) = queue_buildset(self.database, at=CLOCK.now())
        with self.database.write() as tx:
            self.attempt = attempts.begin(tx, build, AttemptKind.CHECK, at=CLOCK.now())

    def begin(self) -> tuple[Lease, Endpoint]:
        (lease,) = self.pool.acquire(
            Needs(label="lab"), holder=self.attempt, avoid=(), cancel=CancelToken()
        )
        return lease, self.pool.start(lease)

    def run(self, endpoint: Endpoint, command: str) -> None:
        deadline = Deadline("suite", 60, CLOCK)
        session = runner_for(endpoint.transport).connect(endpoint, deadline)
        try:
            session.run(
                command,
                directory="/",
                env={},
                sink=lambda _: None,
                deadline=deadline,
                cancel=CancelToken(),
            )
        finally:
            session.kill()
            session.close()

    def left(self) -> dict[str, str]:
        row = rows(self.database, schema.attempt, id=self.attempt)[0]
        return {one["name"]: one["fate"] for one in row.left_behind if one["kind"] == "file"}

    @property
    def node(self) -> Any:
        return rows(self.database, schema.node, name="lab-1")[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Sshd]:
    try:
        with sshd.running(tmp_path_factory.mktemp("sshd")) as made:
            yield made
    except sshd.SshdMissing as missing:
        require("sshd", present=False, why=str(missing))


@pytest.fixture
def site(server: sshd.Sshd, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, server)
    yield made
    made.database.close()


def test_a_health_job_finds_this_machine_fit_and_names_what_is_wrong(site, monkeypatch):
    assert site.rounds.job("lab-1") == ""
    assert site.node.state == "Good"
    assert not list(site.workdir.iterdir())
    monkeypatch.setattr(health_job, "TOOLS", ("sh", "no-such-tool"))
    assert "not installed: no-such-tool" in (site.rounds.job("lab-1") or "")
    assert site.node.state == "Bad"


def test_a_build_that_leaves_things_is_told_and_tidied_up_after(site):
    site.rounds.job("lab-1")
    lease, endpoint = site.begin()
    kept = site.workdir / "kept by an operator"
    assert endpoint.facts["arch"]
    assert endpoint.facts["virt"] in {"bare", "nested"}
    site.run(
        endpoint,
        f"mkdir -p {site.workdir}/checkout {site.workdir}/deep/er && touch '{site.workdir}/a b'"
        f" {site.watched}/note",
    )
    site.pool.give_back(lease)
    assert site.left() == {
        f"{site.workdir}/a b": "removed",
        f"{site.workdir}/deep": "removed",
        f"{site.watched}/note": "noted",
    }
    assert not list(site.workdir.iterdir())
    assert (site.watched / "note").exists()
    assert site.node.state == "Good"

    kept.touch()
    lease, endpoint = site.begin()
    site.pool.give_back(lease)
    assert kept.exists(), "it was there before the build"


def test_a_process_that_got_away_is_ended_and_no_other_is(site):
    site.rounds.job("lab-1")
    lease, endpoint = site.begin()
    mark = f"HYPERVOUCH_SESSION={leftovers.family(str(site.workdir))}-late"
    with _sleeping(mark) as ours, _sleeping("HYPERVOUCH_SESSION=somebody-elses") as theirs:
        site.pool.give_back(lease)
        assert ours.wait(30) == -9
        assert theirs.poll() is None
    row = rows(site.database, schema.attempt, id=site.attempt)[0]
    found = [one for one in row.left_behind if one["kind"] == "process"]
    assert [(one["name"], one["fate"]) for one in found] == [(f"{ours.pid} sleep", "removed")]
    assert endpoint.workdir == str(site.workdir)


@contextmanager
def _sleeping(mark: str) -> Iterator[subprocess.Popen[bytes]]:
    name, _, value = mark.partition("=")
    process = subprocess.Popen(["sleep", "120"], env={"PATH": "/usr/bin:/bin", name: value})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_hypervisor_that_does_not_answer_is_named(server, tmp_path):
    site = Site(tmp_path, server, hypervisor="xl:///")
    trouble = site.rounds.probe("lab-1") or ""
    assert "hypervisor xl:/// does not answer" in trouble
    assert site.node.state == "Bad"
    site.database.close()


def test_a_held_node_keeps_what_the_build_left_and_the_printed_line_logs_in(site):
    site.rounds.job("lab-1")
    with site.database.write() as tx:
        holds.hold(
            tx,
            "lab-1",
            by="ann",
            why="look",
            length=timedelta(hours=1),
            now=CLOCK.now(),
            on_failure=True,
        )
    lease, endpoint = site.begin()
    site.run(endpoint, f"echo evidence >{site.workdir}/core")
    site.pool.give_back(lease, failed=True)
    assert site.node.held_until > CLOCK.now()
    argv = [*shlex.split(site.node.held_login), "cat", f"{site.workdir}/core"]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert said.stdout == "evidence\n", said.stderr
    with site.database.write() as tx:
        holds.give_back(tx, "lab-1", by="ann", now=CLOCK.now())
    site.pool.end_holds()
    assert site.left() == {}, "by then it is nobody's attempt"
    assert not (site.workdir / "core").exists()
    assert site.pool.owed_health() == ("lab-1",)


@pytest.mark.timeout(400)
def test_a_real_libvirt_is_asked_boots_a_guest_and_is_tidied_up(libvirt, tmp_path):
    uri = libvirt.uri("qemu")
    endpoint = Endpoint(transport=Transport.LOCAL, workdir=str(tmp_path), hypervisor=uri)
    facts = preflight(endpoint)
    assert {"libvirt", "qemu"} <= set(facts)
    connect = connecting(tmp_path / "hv")
    care = Leftovers(connect)
    before = care.look(endpoint)
    hypervisor = connect(endpoint)
    assert hypervisor is not None
    try:
        hypervisor.launch(GuestSpec(name="hv-left", image=tiny_image("x86_64"), memory_mib=128))
        left = care.settle(endpoint, before)
        assert ("guest", "hv-left", "removed") in {(one.kind, one.name, one.fate) for one in left}
        assert trouble_of(left) == ""
        assert care.settle(endpoint, before) == ()
    finally:
        hypervisor.cleanup()
        hypervisor.close()
    facts = booting(connect)(endpoint)
    assert float(facts["guest-boot-s"]) > 0
    gone = replace(endpoint, hypervisor=uri.replace(str(libvirt.folder), "/nowhere"))
    with pytest.raises(NodeUnavailable, match="does not answer"):
        preflight(gone)


def logins(server: sshd.Sshd) -> int:
    return (server.home / "sshd.log").read_text().count("Accepted publickey")


def test_a_build_logs_in_before_for_itself_and_after(site: Site, server: sshd.Sshd) -> None:
    site.rounds.job("lab-1")
    before = logins(server)
    lease, endpoint = site.begin()
    assert logins(server) == before + 1
    site.run(endpoint, f"mkdir -p {site.workdir}/checkout; touch {site.workdir}/checkout/made")
    site.pool.give_back(lease)
    assert not (site.workdir / "checkout").exists()
    assert logins(server) == before + 3
