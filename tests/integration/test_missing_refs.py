# SPDX-License-Identifier: Apache-2.0
"""What a real Gerrit says of branches, patch sets and commits that it does not have."""

from itertools import count
from pathlib import Path

import pytest

from ci.checkout import Checkout, RefMissing, Remote
from ci.gerrit.lookup import GerritLookup
from ci.gerrit.rest import GerritRest
from ci.layout import Connection, SecretRef
from ci.sandbox.account import ReviewServer
from ci.sandbox.author import Pusher
from ci.sandbox.real.server import RealGerrit

pytestmark = pytest.mark.integration
_numbers = count(1)


def remote(server: ReviewServer, transport: str) -> Remote:
    return Remote(
        transport=transport,
        url=f"{server.url}/",
        server=server.host,
        port=server.ssh_port,
        user=server.user,
        password=server.password,
        key_file=server.key_file,
        known_hosts=server.known_hosts,
    )


@pytest.fixture
def author(real_gerrit: RealGerrit, tmp_path: Path) -> Pusher:
    project = f"missing-{next(_numbers)}"
    real_gerrit.create_project(project)
    author = Pusher(real_gerrit.admin, project, tmp_path / "author")
    author.push_branch({"a": "a\n"})
    return author


@pytest.mark.parametrize("transport", ["http", "ssh"])
def test_each_is_named(real_gerrit: RealGerrit, author: Pusher, tmp_path: Path, transport: str):
    change = author.push_change("A change", {"b": "b\n"})
    checkout = Checkout(tmp_path / "cache", remote(real_gerrit.ci, transport))
    project, no_ref, no_commit = author.project, "refs/changes/99/99999/1", "1" * 40
    tip = checkout.newest(project, "master", change.ref, change.revision)
    for asked, ref in (
        (lambda: checkout.newest(project, "master", no_ref, change.revision), no_ref),
        (lambda: checkout.newest(project, "gone", change.ref, change.revision), "refs/heads/gone"),
        (lambda: checkout.base(project, "master", no_commit), no_commit),
    ):
        with pytest.raises(RefMissing) as error:
            asked()
        assert (error.value.project, error.value.ref) == (project, ref)
    author.git("push", "-q", "-f", "origin", f"{change.revision}:refs/heads/master")
    assert checkout.base(project, "master", tip).tip == tip


def test_changes_are_found_by_number_project_and_change_id(real_gerrit: RealGerrit, author: Pusher):
    change = author.push_change("A change", {"b": "b\n"}, body="Depends-On: nothing")
    ci = real_gerrit.ci
    settings = Connection(
        name="gerrit",
        server=ci.host,
        port=ci.ssh_port,
        user=ci.user,
        key_file=ci.key_file,
        known_hosts=ci.known_hosts,
        url=f"{ci.url}/",
        password=SecretRef(from_env="NOWHERE"),
    )
    with GerritRest(settings, ci.password) as rest:
        lookup = GerritLookup(rest)
        for found in (
            lookup.by_number(change.number, author.project),
            lookup.by_number(change.number, ""),
            *lookup.by_change_id(change.change_id),
        ):
            assert found is not None
            assert (found.patchset.revision, found.patchset.ref) == (change.revision, change.ref)
            assert (found.status, found.patchset.branch) == ("NEW", "master")
            assert "\nDepends-On: nothing\n" in found.message
        assert lookup.by_number(999_999, author.project) is None
        assert lookup.by_number(999_999, "") is None
        assert lookup.by_number(change.number, "no-such-project") is None
        assert lookup.by_change_id("I" + "0" * 40) == ()
        facts = lookup.facts(author.project, change.number)
        assert facts is not None
        assert facts.patchset.revision == change.revision
