# SPDX-License-Identifier: Apache-2.0
"""Fetching and merging with real git over HTTP and SSH, from hostile and broken repositories."""

import base64
import io
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from getpass import getuser
from pathlib import Path

import pytest

from ci.checkout import Checkout, MergedTree, Remote
from ci.errors import ConfigError, MergeConflict, ReviewServerError, StorageError
from tests.kit import sshd
from tests.kit.git_http import GitHttp, serving
from tests.kit.origin import Origin, git
from tests.kit.require import require

pytestmark = pytest.mark.integration
REF = "refs/changes/01/1/1"
TEN = "".join(f"line {n}\n" for n in range(10))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitHttp]:
    (tmp_path / "srv").mkdir()
    with serving(tmp_path / "srv") as server:
        yield server


@pytest.fixture
def origin(server: GitHttp) -> Origin:
    return Origin(server.root)


@pytest.fixture
def checkout(tmp_path: Path, server: GitHttp) -> Checkout:
    return Checkout(tmp_path / "cache", Remote(transport="http", url=server.url))


def _files(checkout: Checkout, merged: MergedTree) -> dict[str, bytes | str]:
    """Content of regular files, `-> target` of links, by name."""
    with io.BytesIO(_tar(checkout, merged)) as data, tarfile.open(fileobj=data) as tar:
        found: dict[str, bytes | str] = {}
        for entry in tar:
            content = tar.extractfile(entry) if entry.isreg() else None
            if content:
                found[entry.name] = content.read()
            elif entry.issym():
                found[entry.name] = f"-> {entry.linkname}"
        return found


def _tar(checkout: Checkout, merged: MergedTree) -> bytes:
    path = merged.git_dir.parent / "tree.tar"
    with path.open("wb") as file:
        checkout.archive(merged, file)
    return path.read_bytes()


def test_merges_onto_the_newest_tip(origin: Origin, checkout: Checkout) -> None:
    base = origin.commit({"a.py": TEN})
    change = origin.commit({"a.py": TEN.replace("line 9", "nine")}, onto=base, to=REF)
    git(origin.work, "checkout", "-q", "--detach", base)
    tip = origin.commit({"a.py": TEN.replace("line 0", "zero"), "b.py": "b\n"})
    merged = checkout.merge("acme/virt", "main", REF, change)
    assert (merged.tip, merged.revision) == (tip, change)
    expected = TEN.replace("line 9", "nine").replace("line 0", "zero").encode()
    assert _files(checkout, merged) == {"a.py": expected, "b.py": b"b\n"}


def test_follows_the_branch_and_repeats_on_an_older_tip(
    origin: Origin, checkout: Checkout, server: GitHttp
) -> None:
    base = origin.commit({"a": "1\n"})
    change = origin.commit({"c": "c\n"}, onto=base, to=REF)
    first = checkout.merge("acme/virt", "main", REF, change)
    tip = origin.commit({"b": "2\n"}, onto=base)
    assert checkout.merge("acme/virt", "main", REF, change).tip == tip
    server.requests.clear()
    assert checkout.merge("acme/virt", "main", REF, change, tip=base) == first
    assert _files(checkout, checkout.base("acme/virt", "main", base)) == {"a": b"1\n"}
    assert server.requests == []


def test_an_older_tip_is_fetched_into_a_new_cache(
    origin: Origin, checkout: Checkout, tmp_path: Path
) -> None:
    base = origin.commit({"a": "1\n"})
    change = origin.commit({"c": "c\n"}, onto=base, to=REF)
    origin.commit({"b": "2\n"}, onto=base)
    assert checkout.base("acme/virt", "main", base).tip == base
    shutil.rmtree(tmp_path / "cache")
    merged = checkout.merge("acme/virt", "main", REF, change, tip=base)
    assert sorted(_files(checkout, merged)) == ["a", "c"]


def test_an_unknown_commit_is_the_servers_fault(origin: Origin, checkout: Checkout) -> None:
    origin.commit({"a": "1\n"})
    with pytest.raises(ReviewServerError):
        checkout.base("acme/virt", "main", "1" * 40)


def test_branch_tip_is_the_baseline(origin: Origin, checkout: Checkout) -> None:
    tip = origin.commit({"a": "1\n"})
    merged = checkout.branch_tip("acme/virt", "main")
    assert merged.tip == merged.revision == tip
    assert _files(checkout, merged) == {"a": b"1\n"}


def test_a_conflict_names_the_files(origin: Origin, checkout: Checkout) -> None:
    base = origin.commit({"a.py": TEN, "b.py": TEN})
    change = origin.commit({"a.py": "mine\n", "b.py": "mine\n"}, onto=base, to=REF)
    origin.commit({"a.py": "yours\n", "b.py": "yours\n"}, onto=base)
    for _ in range(2):
        with pytest.raises(MergeConflict, match=r"conflict in a\.py, b\.py") as error:
            checkout.merge("acme/virt", "main", REF, change)
        assert error.value.hint == "rebase the change on main"


def test_unrelated_history_is_a_conflict(origin: Origin, checkout: Checkout) -> None:
    origin.commit({"a": "1\n"})
    git(origin.work, "checkout", "-q", "--orphan", "other")
    change = origin.commit({"b": "b\n"}, to=REF)
    with pytest.raises(MergeConflict, match="shares no history"):
        checkout.merge("acme/virt", "main", REF, change)


def test_another_commit_at_the_ref_is_asked_again(origin: Origin, checkout: Checkout) -> None:
    base = origin.commit({"a": "1\n"})
    origin.commit({"c": "c\n"}, onto=base, to=REF)
    with pytest.raises(ReviewServerError, match=f"not {base}") as error:
        checkout.merge("acme/virt", "main", REF, base)
    assert error.value.retryable


def test_attributes_of_the_tree_have_no_effect(origin: Origin, checkout: Checkout) -> None:
    base = origin.commit({"a.py": TEN, "test_x.py": "assert True\n", "sub/x": "x\n"})
    hostile = {
        ".gitattributes": "*.py export-ignore merge=union\nv export-subst\n* filter=evil ident\n"
        "sub export-ignore\nu.txt text eol=crlf\n",
        "v": "$Format:%H$ $Id$\n",
        "u.txt": "u\n",
    }
    change = origin.commit(hostile, onto=base, to=REF)
    files = _files(checkout, checkout.merge("acme/virt", "main", REF, change))
    assert set(files) == {".gitattributes", "a.py", "test_x.py", "sub/x", "v", "u.txt"}
    assert (files["v"], files["u.txt"]) == (b"$Format:%H$ $Id$\n", b"u\n")


def test_a_union_driver_does_not_hide_a_conflict(origin: Origin, checkout: Checkout) -> None:
    base = origin.commit({"a.py": TEN, ".gitattributes": "* merge=union\n"})
    change = origin.commit({"a.py": "mine\n"}, onto=base, to=REF)
    origin.commit({"a.py": "yours\n"}, onto=base)
    with pytest.raises(MergeConflict):
        checkout.merge("acme/virt", "main", REF, change)


def test_links_and_submodules_are_data(origin: Origin, checkout: Checkout) -> None:
    base = origin.commit({"a": "1\n"})
    (origin.work / "passwd").symlink_to("/etc/passwd")
    (origin.work / ".gitmodules").write_text(
        '[submodule "s"]\n\tpath = s\n\turl = ext::touch /nowhere/owned\n'
    )
    git(origin.work, "update-index", "--add", "--cacheinfo", f"160000,{base},s")
    git(origin.work, "add", "passwd")
    change = origin.publish(REF)
    merged = checkout.merge("acme/virt", "main", REF, change)
    assert _files(checkout, merged)["passwd"] == "-> /etc/passwd"


def test_malicious_objects_are_refused(origin: Origin, checkout: Checkout) -> None:
    origin.commit({"a": "1\n"})
    evil = b'[submodule "s"]\n\tpath = s\n\turl = -u./payload\n'
    done = subprocess.run(
        ["git", "hash-object", "-w", "--stdin"],
        input=evil,
        cwd=origin.work,
        capture_output=True,
        check=True,
    )
    blob = done.stdout.decode().strip()
    git(origin.work, "update-index", "--add", "--cacheinfo", f"100644,{blob},.gitmodules")
    change = origin.publish(REF)
    with pytest.raises(ReviewServerError, match="could not be fetched") as error:
        checkout.merge("acme/virt", "main", REF, change)
    assert not error.value.retryable


def test_hooks_in_the_cache_are_not_run(origin: Origin, checkout: Checkout, tmp_path: Path) -> None:
    base = origin.commit({"a": "1\n"})
    merged = checkout.branch_tip("acme/virt", "main")
    hooks = merged.git_dir / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("reference-transaction", "post-checkout", "pre-auto-gc"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (hooks / name).chmod(0o755)
    origin.commit({"a": "2\n"}, onto=base)
    checkout.branch_tip("acme/virt", "main")
    assert not (tmp_path / "ran").exists()


def test_variables_of_an_outer_git_do_not_matter(
    origin: Origin, checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tip = origin.commit({"a": "1\n"})
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    assert checkout.branch_tip("acme/virt", "main").tip == tip


def test_the_password_is_sent_and_never_shown(
    origin: Origin, server: GitHttp, tmp_path: Path
) -> None:
    origin.commit({"a": "1\n"})
    remote = Remote(transport="http", url=server.url, user="ci", password="s3cret")
    Checkout(tmp_path / "cache", remote).branch_tip("acme/virt", "main")
    expected = "Basic " + base64.b64encode(b"ci:s3cret").decode()
    assert set(server.authorizations) == {expected}
    assert all(path.startswith("/a/acme/virt/") for path in server.requests)
    assert "s3cret" not in repr(remote)


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_a_server_that_refuses(
    origin: Origin, checkout: Checkout, server: GitHttp, status: int
) -> None:
    origin.commit({"a": "1\n"})
    checkout.branch_tip("acme/virt", "main")
    server.refusal = status
    with pytest.raises(ReviewServerError) as error:
        checkout.branch_tip("acme/virt", "main")
    assert error.value.retryable
    server.refusal = 0
    assert checkout.branch_tip("acme/virt", "main").tip


def test_a_server_that_is_away(tmp_path: Path) -> None:
    remote = Remote(transport="http", url="http://127.0.0.1:1/")
    with pytest.raises(ReviewServerError, match="could not be fetched by http") as error:
        Checkout(tmp_path / "cache", remote).branch_tip("acme/virt", "main")
    assert error.value.retryable


def test_a_branch_that_is_not_there(origin: Origin, checkout: Checkout) -> None:
    origin.commit({"a": "1\n"})
    with pytest.raises(ReviewServerError, match="couldn't find remote ref"):
        checkout.branch_tip("acme/virt", "nowhere")


@pytest.mark.parametrize(
    ("project", "branch", "ref", "revision"),
    [
        ("../etc", "main", REF, "1" * 40),
        ("-oProxyCommand=x", "main", REF, "1" * 40),
        ("p", "main:refs/heads/x", REF, "1" * 40),
        ("p", "--upload-pack=touch x", REF, "1" * 40),
        ("p", "main", "refs/heads/main", "1" * 40),
        ("p", "main", REF + "\n", "1" * 40),
        ("p", "main", REF, "--help"),
    ],
)
def test_hostile_names_never_reachgit(
    checkout: Checkout, project: str, branch: str, ref: str, revision: str
) -> None:
    with pytest.raises(ConfigError, match="not a change"):
        checkout.merge(project, branch, ref, revision)


def _damage_objects(git_dir: Path) -> None:
    for path in [p for p in (git_dir / "objects").rglob("*") if p.is_file()]:
        path.chmod(0o644)
        path.write_bytes(b"")


def _damage_refs(git_dir: Path) -> None:
    for path in (git_dir / "refs" / "hypervouch").rglob("tip-*"):
        path.write_bytes(b"\0" * 41)


def _damage_head(git_dir: Path) -> None:
    (git_dir / "HEAD").unlink()


def _damage_config(git_dir: Path) -> None:
    (git_dir / "config").write_text("[core\n")


def _leave_locks(git_dir: Path) -> None:
    for path in (git_dir / "refs" / "hypervouch").rglob("*"):
        if path.is_file():
            path.with_name(f"{path.name}.lock").touch()


def _remove_objects(git_dir: Path) -> None:
    shutil.rmtree(git_dir / "objects")


@pytest.mark.parametrize(
    "damage",
    [_damage_objects, _damage_refs, _damage_head, _damage_config, _leave_locks, _remove_objects],
)
def test_a_broken_cache_heals(origin: Origin, checkout: Checkout, damage: object) -> None:
    base = origin.commit({"a": "1\n"})
    change = origin.commit({"c": "c\n"}, onto=base, to=REF)
    git_dir = checkout.merge("acme/virt", "main", REF, change).git_dir
    assert callable(damage)
    damage(git_dir)
    merged = checkout.merge("acme/virt", "main", REF, change)
    assert _files(checkout, merged) == {"a": b"1\n", "c": b"c\n"}
    assert not list(git_dir.parent.glob("*.new"))


def test_a_tree_that_got_lost_is_noticed_and_mended(origin: Origin, checkout: Checkout) -> None:
    origin.commit({"a": "1\n"})
    merged = checkout.branch_tip("acme/virt", "main")
    _damage_objects(merged.git_dir)
    with pytest.raises(StorageError) as error:
        _tar(checkout, merged)
    assert error.value.retryable
    assert _files(checkout, checkout.branch_tip("acme/virt", "main")) == {"a": b"1\n"}


def test_a_half_made_cache_is_replaced(origin: Origin, checkout: Checkout, tmp_path: Path) -> None:
    tip = origin.commit({"a": "1\n"})
    half = tmp_path / "cache" / "acme" / "virt.git"
    (half / "objects").mkdir(parents=True)
    assert checkout.branch_tip("acme/virt", "main").tip == tip


def test_a_full_disk_is_a_storage_error(origin: Origin, checkout: Checkout) -> None:
    origin.commit({"a": "1\n" * 10_000})
    merged = checkout.branch_tip("acme/virt", "main")
    with Path("/dev/full").open("wb") as full, pytest.raises(StorageError):
        checkout.archive(merged, full)
    assert checkout.branch_tip("acme/virt", "main").tree == merged.tree


def test_many_threads_share_a_cache(origin: Origin, checkout: Checkout, tmp_path: Path) -> None:
    base = origin.commit({"a": "1\n"})
    refs = [f"refs/changes/{n:02d}/{n}/1" for n in range(1, 9)]
    changes = [origin.commit({f"c{ref[-3]}": "c\n"}, onto=base, to=ref) for ref in refs]
    start = threading.Barrier(8)

    def work(number: int) -> list[str]:
        start.wait()
        merged = checkout.merge("acme/virt", "main", refs[number], changes[number])
        with (tmp_path / f"{number}.tar").open("w+b") as file:
            checkout.archive(merged, file)
            file.seek(0)
            with tarfile.open(fileobj=file) as tar:
                return sorted(tar.getnames())

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))
    assert found == [["a", f"c{n}"] for n in range(1, 9)]


def test_tidy_keeps_what_a_build_needs(origin: Origin, checkout: Checkout) -> None:
    base = origin.commit({"a": "1\n"})
    change = origin.commit({"c": "c\n"}, onto=base, to=REF)
    origin.commit({"b": "b\n"}, onto=base)
    merged = checkout.merge("acme/virt", "main", REF, change)
    checkout.tidy()
    assert set(_files(checkout, merged)) == {"a", "b", "c"}
    assert checkout.merge("acme/virt", "main", REF, change) == merged


def test_tidy_is_done_once_a_day_and_never_while_a_build_fetches(
    origin: Origin, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.commit({"a": "1\n"})
    checkout.branch_tip("acme/virt", "main")
    packed: list[str] = []
    real = checkout._cache.git

    def git(git_dir: Path, *arguments: str, **options: object) -> object:
        if arguments[0] == "gc":
            packed.append(git_dir.name)
        return real(git_dir, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(checkout._cache, "git", git)
    monkeypatch.setattr("ci.git_cache.TIDY_WAIT_S", 0.05)
    checkout._cache.use("acme/virt", lambda _git_dir, _slot: checkout.tidy())
    assert packed == []
    checkout.tidy()
    checkout.tidy()
    assert packed == ["virt.git"]


def test_over_ssh_with_a_pinned_host_key(origin: Origin, tmp_path: Path) -> None:
    tip = origin.commit({"a": "1\n"})
    try:
        with sshd.running(tmp_path / "sshd") as daemon:
            remote = Remote(
                transport="ssh",
                server="127.0.0.1",
                port=daemon.port,
                user=getuser(),
                key_file=daemon.key_file,
                known_hosts=daemon.known_hosts,
            )
            project = str(origin.bare).lstrip("/")
            got = Checkout(tmp_path / "cache", remote)
            assert got.branch_tip(project, "main").tip == tip
            daemon.known_hosts.write_text("")
            with pytest.raises(ReviewServerError, match="could not be fetched by ssh"):
                got.branch_tip(project, "main")
    except sshd.SshdMissing as missing:
        require("sshd", present=False, why=str(missing))
