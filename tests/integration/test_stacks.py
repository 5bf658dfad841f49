# SPDX-License-Identifier: Apache-2.0
"""Stacks of dependencies, and trees that become baselines, with real git over HTTP."""

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci import attempt
from ci.checkout import Checkout, MergedTree, RefMissing, Remote
from ci.errors import ConfigError, DependencyError, MergeConflict, ReviewServerError
from ci.model.change import Change, Patchset
from ci.model.stack import Dependency
from ci.store import attempts, schema
from ci.store.builds import NewBuildset, add_buildset
from ci.trees import Trees, archive_beside, assemble
from tests.kit.core import GERRIT, PROJECT, Lab, ScriptedRunner, job, lab, rows
from tests.kit.git_http import GitHttp, serving
from tests.kit.origin import Origin, git

pytestmark = pytest.mark.integration
REF = "refs/changes/12/12/1"
TEN = "".join(f"line {n}\n" for n in range(10))
GOOD = "write-junit r.xml pass=3"
WORSE = "write-junit r.xml pass=2 fail=test_pass_3; exit 1"
WORST = "write-junit r.xml pass=1 fail=test_pass_2 fail=test_pass_3; exit 1"


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


def ref(number: int) -> str:
    return f"refs/changes/{number:02d}/{number}/1"


def dependency(number: int, revision: str, project: str = PROJECT, tip: str = "") -> Dependency:
    return Dependency(
        project=project,
        branch="main",
        number=number,
        patchset=1,
        revision=revision,
        ref=ref(number),
        tip=tip,
    )


def names(checkout: Checkout, merged: MergedTree, folder: Path) -> list[str]:
    with (folder / "one.tar").open("w+b") as file:
        checkout.archive(merged, file)
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            return sorted(entry.name for entry in tar if entry.isreg())


class Three:
    """A branch that went on, two dependencies and a change: each adds a file of its own."""

    def __init__(self, origin: Origin) -> None:
        self.base = origin.commit({"base": "b\n"})
        first = origin.commit({"first": "1\n"}, onto=self.base, to=ref(40))
        second = origin.commit({"second": "2\n"}, onto=self.base, to=ref(41))
        self.change = origin.commit({"change": "c\n"}, onto=self.base, to=REF)
        self.tip = origin.commit({"later": "l\n"}, onto=self.base)
        self.stack = (dependency(40, first), dependency(41, second))

    def merge(self, checkout: Checkout, *, tip: str | None = None) -> MergedTree:
        return checkout.merge(PROJECT, "main", REF, self.change, tip=tip, stack=self.stack)


class TestMerging:
    def test_the_stack_lies_below_the_change(self, origin, checkout, tmp_path):
        three = Three(origin)
        merged = three.merge(checkout)
        everything = ["base", "change", "first", "later", "second"]
        assert names(checkout, merged, tmp_path) == everything
        base = checkout.base(PROJECT, "main", merged.tip, three.stack)
        assert base.tree == base.base_tree == merged.base_tree
        everything.remove("change")
        assert names(checkout, base, tmp_path) == everything

    def test_without_a_stack_the_base_is_the_tip(self, origin, checkout):
        three = Three(origin)
        merged = checkout.merge(PROJECT, "main", REF, three.change)
        assert merged.base_tree == git(origin.work, "rev-parse", f"{three.tip}^{{tree}}")
        assert checkout.base(PROJECT, "main", three.tip).tree == merged.base_tree

    def test_any_cache_gives_the_same_trees(self, origin, checkout, server, tmp_path):
        three = Three(origin)
        here = three.merge(checkout)
        other = Checkout(tmp_path / "other", Remote(transport="http", url=server.url))
        there = three.merge(other, tip=three.tip)
        assert (here.tree, here.base_tree) == (there.tree, there.base_tree)

    def test_what_is_known_is_not_fetched_again(self, origin, checkout, server):
        three = Three(origin)
        first = three.merge(checkout)
        server.requests.clear()
        assert three.merge(checkout, tip=first.tip) == first
        checkout.base(PROJECT, "main", first.tip, three.stack)
        assert server.requests == []

    def test_a_lost_cache_is_filled_again_for_a_baseline(self, origin, checkout, tmp_path):
        three = Three(origin)
        merged = three.merge(checkout)
        origin.commit({"much later": "m\n"}, onto=three.tip)
        shutil.rmtree(tmp_path / "cache")
        base = checkout.base(PROJECT, "main", merged.tip, three.stack)
        assert base.tree == merged.base_tree

    def test_a_dependency_that_conflicts_with_the_tip_is_named(self, origin, checkout):
        base = origin.commit({"a.py": TEN})
        first = origin.commit({"a.py": "mine\n"}, onto=base, to=ref(40))
        change = origin.commit({"c": "c\n"}, onto=base, to=REF)
        origin.commit({"a.py": "yours\n"}, onto=base)
        stack = [dependency(40, first)]
        for _ in range(2):
            with pytest.raises(DependencyError, match=r"change 40,1 of .* conflict in a\.py"):
                checkout.merge(PROJECT, "main", REF, change, stack=stack)

    def test_two_dependencies_that_conflict(self, origin, checkout):
        base = origin.commit({"a.py": TEN})
        first = origin.commit({"a.py": "mine\n"}, onto=base, to=ref(40))
        second = origin.commit({"a.py": "yours\n"}, onto=base, to=ref(41))
        change = origin.commit({"c": "c\n"}, onto=base, to=REF)
        stack = [dependency(40, first), dependency(41, second)]
        with pytest.raises(DependencyError, match="change 41,1"):
            checkout.merge(PROJECT, "main", REF, change, stack=stack)

    def test_the_change_itself_that_conflicts_with_a_dependency(self, origin, checkout):
        base = origin.commit({"a.py": TEN})
        first = origin.commit({"a.py": "mine\n"}, onto=base, to=ref(40))
        change = origin.commit({"a.py": "yours\n"}, onto=base, to=REF)
        checkout.merge(PROJECT, "main", REF, change)
        with pytest.raises(MergeConflict, match="with what it depends on: conflict in a"):
            checkout.merge(PROJECT, "main", REF, change, stack=[dependency(40, first)])

    def test_a_dependency_that_is_merged_meanwhile_changes_nothing(self, origin, checkout):
        base = origin.commit({"base": "b\n"})
        first = origin.commit({"first": "1\n"}, onto=base, to=ref(40))
        change = origin.commit({"change": "c\n"}, onto=first, to=REF)
        git(origin.work, "push", "-q", str(origin.bare), f"{first}:refs/heads/main")
        with_it = checkout.merge(PROJECT, "main", REF, change, stack=[dependency(40, first)])
        assert with_it.tip == first
        assert with_it.tree == checkout.merge(PROJECT, "main", REF, change).tree

    @pytest.mark.parametrize(
        "wrong",
        [
            {"project": "acme/os"},
            {"branch": "stable"},
            {"ref": "refs/heads/main"},
            {"ref": ""},
            {"revision": "--help"},
        ],
    )
    def test_what_does_not_belong_into_a_stack_never_reaches_git(self, checkout, wrong):
        fields = {**vars(dependency(40, "1" * 40)), **wrong}
        with pytest.raises(ConfigError):
            checkout.merge(PROJECT, "main", REF, "2" * 40, stack=[Dependency(**fields)])
        with pytest.raises(ConfigError):
            checkout.base(PROJECT, "main", "2" * 40, [Dependency(**fields)])


class TestMissing:
    def test_a_ref_that_is_gone_is_named(self, origin, checkout):
        three = Three(origin)
        git(origin.work, "push", "-q", str(origin.bare), f":{ref(41)}")
        with pytest.raises(RefMissing) as error:
            three.merge(checkout)
        assert (error.value.project, error.value.ref) == (PROJECT, ref(41))
        assert error.value.retryable

    def test_a_ref_that_has_another_commit_is_named(self, origin, checkout):
        three = Three(origin)
        git(origin.work, "push", "-q", "-f", str(origin.bare), f"{three.tip}:{ref(40)}")
        with pytest.raises(RefMissing, match="not") as error:
            three.merge(checkout)
        assert error.value.ref == ref(40)

    def test_the_change_or_its_branch(self, origin, checkout):
        three = Three(origin)
        with pytest.raises(RefMissing) as error:
            checkout.newest(PROJECT, "gone", REF, three.change)
        assert error.value.ref == "refs/heads/gone"
        with pytest.raises(RefMissing) as error:
            checkout.newest(PROJECT, "main", ref(99), three.change)
        assert error.value.ref == ref(99)

    def test_a_commit_that_the_branch_dropped(self, origin, checkout):
        three = Three(origin)
        with pytest.raises(RefMissing) as error:
            checkout.base(PROJECT, "main", "1" * 40)
        assert (error.value.project, error.value.ref) == (PROJECT, "1" * 40)
        assert checkout.branch_tip(PROJECT, "main").tip == three.tip

    @pytest.mark.parametrize("status", [401, 404, 500, 503])
    def test_a_server_that_refuses_lacks_nothing(self, origin, checkout, server, status):
        three = Three(origin)
        server.refusal = status
        with pytest.raises(ReviewServerError) as error:
            three.merge(checkout)
        assert not isinstance(error.value, RefMissing)


class TestMessage:
    def test_as_git_has_it(self, origin, checkout):
        text = "A change\n\nDepends-On: https://review.example.org/1\n\nChange-Id: I1"
        change = origin.commit({"a": "1\n"}, to=REF, message=text)
        assert checkout.message(PROJECT, REF, change).rstrip("\n") == text

    def test_neither_long_nor_broken_ones_harm(self, origin, checkout):
        (origin.work / "long").write_bytes(b"Long \xff\xfe\n\n" + b"Depends-On: x\n" * 100_000)
        git(origin.work, "commit", "-q", "--allow-empty", "-F", "long")
        git(origin.work, "push", "-q", str(origin.bare), f"HEAD:{REF}", "HEAD:refs/heads/main")
        change = git(origin.work, "rev-parse", "HEAD")
        text = checkout.message(PROJECT, REF, change)
        assert text.startswith("Long")
        assert len(text) <= 256 * 1024

    def test_a_tip_with_a_long_one_hides_no_other(self, origin, checkout):
        (origin.work / "long").write_text("Long\n\n" + "blah\n" * 200_000)
        git(origin.work, "commit", "-q", "--allow-empty", "-F", "long")
        git(origin.work, "push", "-q", str(origin.bare), "HEAD:refs/heads/main")
        change = origin.commit({"a": "1\n"}, to=REF, message="Depends-On: I1")
        tip = checkout.newest(PROJECT, "main", REF, change)
        assert checkout.message(PROJECT, REF, change).strip() == "Depends-On: I1"
        merged = checkout.merge(PROJECT, "main", REF, change, tip=tip)
        assert merged.base_tree == git(origin.work, "rev-parse", f"{tip}^{{tree}}")


class TestBeside:
    def test_other_projects_lie_in_folders_of_their_names(self, origin, server, checkout, tmp_path):
        tip, tree = origin.commit({"a": "a\n"}), {}
        for project in ("acme/os", "tools"):
            other = Origin(server.root, project)
            base = other.commit({"zeros": "\0" * 1536, "sub/x": f"{project}\n"})
            (other.work / "link").symlink_to("sub/x")
            change = other.commit({"new": "n\n"}, onto=base, to=ref(40))
            tree[project] = checkout.base(project, "main", base, [dependency(40, change, project)])
        trees = Trees(main=checkout.base(PROJECT, "main", tip), beside=tuple(sorted(tree.items())))
        with (tmp_path / "beside.tar").open("w+b") as file:
            archive_beside(checkout, trees, file)
        out = tmp_path / "out"
        out.mkdir()
        subprocess.run(["tar", "-xof", tmp_path / "beside.tar"], cwd=out, check=True)
        for project in tree:
            assert (out / project / "zeros").read_bytes() == b"\0" * 1536
            assert (out / project / "new").read_text() == "n\n"
            assert (out / project / "link").read_text() == f"{project}\n"

    def test_what_lies_beside_tells_trees_apart(self, origin, server, checkout):
        tip = origin.commit({"a": "a\n"})
        change = origin.commit({"c": "c\n"}, onto=tip, to=REF)
        other = Origin(server.root, "acme/os")
        base = other.commit({"x": "x\n"})
        news = [other.commit({"new": f"{n}\n"}, onto=base, to=ref(n)) for n in (40, 41)]
        stacks = [(), *([dependency(n, r, "acme/os", base)] for n, r in enumerate(news, 40))]

        class Order:
            project, branch, ref, revision, change_number = PROJECT, "main", REF, change, 12

        def trees(*, baseline: bool) -> list[Trees]:
            return [
                assemble(
                    checkout,
                    Order(),  # type: ignore[arg-type]
                    lambda _, stack=stack: stack,  # type: ignore[misc]
                    tip=tip,
                    baseline=baseline,
                )
                for stack in stacks
            ]

        checks, baselines = trees(baseline=False), trees(baseline=True)
        assert [one.base_tree for one in checks] == [one.tree for one in baselines]
        assert len({one.tree for one in (*checks, *baselines)}) == 6


class Flow:
    """A lab whose trees come from real git: the file `script` of a tree is what runs."""

    def __init__(self, folder: Path, origin: Origin, checkout: Checkout) -> None:
        self.origin = origin
        self.base = origin.commit({"script": GOOD, "other": "o\n"})
        self.lab: Lab = lab(folder / "state", checkout)  # type: ignore[arg-type]

    def push(self, number: int, files: dict[str, str], onto: str) -> str:
        return self.origin.commit(files, onto=onto, to=ref(number))

    def run(self, number: int, revision: str) -> str:
        """Test a change; returns the build's id."""
        change = Change(project=PROJECT, branch="main", number=number, change_id="I" + "a" * 40)
        new = NewBuildset(
            connection=GERRIT,
            change=change,
            patchset=Patchset(number=1, revision=revision, ref=ref(number)),
            pipeline="check",
            jobs=[job()],
            event_id=None,
            reason="a test",
        )
        with self.lab.database.write() as tx:
            made = add_buildset(tx, new, at=self.lab.clock.now())
        (row,) = rows(self.lab.database, schema.build, buildset_id=made)
        self.lab.clock.advance(60)
        self.lab.drive(row.id)
        return str(row.id)

    def kinds(self, build: str) -> list[str]:
        return [kind for kind, _ in self.lab.kinds(build)]

    def merge(self, revision: str, *, fast_forward: bool) -> str:
        """Submit a commit as Gerrit would; returns the new tip."""
        work = self.origin.work
        git(work, "fetch", "-q", str(self.origin.bare), "main")
        git(work, "checkout", "-q", "--detach", "FETCH_HEAD")
        git(work, "merge", "-q", "--ff-only" if fast_forward else "--no-ff", revision)
        git(work, "push", "-q", str(self.origin.bare), "HEAD:refs/heads/main")
        return git(work, "rev-parse", "HEAD")


@pytest.fixture
def flow(
    tmp_path: Path, origin: Origin, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> Flow:
    monkeypatch.setattr(attempt, "runner_for", lambda _: ScriptedRunner())
    (tmp_path / "state").mkdir()
    return Flow(tmp_path, origin, checkout)


class TestMergedBecomesBaseline:
    @pytest.mark.parametrize("fast_forward", [True, False])
    def test_the_next_regression_needs_no_baseline(self, flow, fast_forward):
        good = flow.push(20, {"more": "m\n"}, flow.base)
        assert flow.kinds(flow.run(20, good)) == ["check"]
        tip = flow.merge(good, fast_forward=fast_forward)
        assert (tip == good) is fast_forward
        bad = flow.push(21, {"script": WORSE}, tip)
        build = flow.run(21, bad)
        assert flow.kinds(build) == ["check", "repeat"]
        row = flow.lab.build(build)
        assert row.failure_class == "regression"
        (check,) = rows(flow.lab.database, schema.attempt, build_id=build, kind="check")
        assert check.tip == tip
        [borrowed] = set(row.judgement["attempts_compared"]) - {
            a.id for a in rows(flow.lab.database, schema.attempt, build_id=build)
        }
        (found,) = rows(flow.lab.database, schema.attempt, id=borrowed)
        assert (found.kind, found.tree) == ("check", check.base_tree)

    def test_a_regression_that_was_merged_is_known_for_the_next(self, flow):
        bad = flow.push(20, {"script": WORSE}, flow.base)
        assert flow.kinds(flow.run(20, bad)) == ["check", "baseline", "repeat"]
        tip = flow.merge(bad, fast_forward=True)
        same = flow.push(21, {"other": "changed\n"}, tip)
        build = flow.run(21, same)
        assert flow.kinds(build) == ["check"]
        assert flow.lab.build(build).failure_class == "known"
        worse = flow.push(22, {"script": WORST}, tip)
        build = flow.run(22, worse)
        assert flow.kinds(build) == ["check", "repeat"]
        assert flow.lab.build(build).failure_class == "regression"

    def test_merged_beside_something_else_it_is_another_tree(self, flow):
        good = flow.push(20, {"more": "m\n"}, flow.base)
        flow.run(20, good)
        late = flow.push(23, {"late": "l\n"}, flow.base)
        flow.merge(late, fast_forward=True)
        tip = flow.merge(good, fast_forward=False)
        bad = flow.push(21, {"script": WORSE}, tip)
        assert flow.kinds(flow.run(21, bad)) == ["check", "baseline", "repeat"]

    def test_one_that_was_never_finished_does_not_count(self, flow):
        good = flow.push(20, {"more": "m\n"}, flow.base)
        build = flow.run(20, good)
        with flow.lab.database.write() as tx:
            (row,) = rows(flow.lab.database, schema.attempt, build_id=build)
            attempts.update(tx, row.id, result="LOST", interrupted=True)
        tip = flow.merge(good, fast_forward=True)
        bad = flow.push(21, {"script": WORSE}, tip)
        assert flow.kinds(flow.run(21, bad)) == ["check", "baseline", "repeat"]

    def test_a_change_that_changes_nothing_is_not_its_own_baseline(self, flow):
        bad = flow.merge(flow.push(20, {"script": WORSE}, flow.base), fast_forward=True)
        empty = flow.push(21, {}, bad)
        build = flow.run(21, empty)
        (check, *_) = rows(flow.lab.database, schema.attempt, build_id=build, kind="check")
        assert check.tree == check.base_tree
        assert flow.kinds(build) == ["check", "baseline"]
        assert flow.lab.build(build).failure_class == "known"
