# SPDX-License-Identifier: Apache-2.0
"""A compute suite's build for tests and pictures: its features, what it left, troubled nodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ci.model.feature import Feature
from ci.model.result import (
    FailureClass,
    Judgement,
    Outcome,
    Result,
    Status,
    TestFinding,
)
from ci.store.builds import make_id
from tests.kit.evidence_rows import QEMU
from tests.kit.rows import FACTS, Rows, ago

CHANGE = 4730
SUITE = "compute::test_{}"
HOSTILE = "<script>alert(7)</script>\n\x1b[31mno answer"
GONE = "the guest does not answer 20 s after it was resumed: QMP says paused"


@dataclass(frozen=True, kw_only=True)
class ComputeBuild:
    """Ids of what `compute_build` wrote."""

    build: str
    check: str
    baseline: str
    last: str


def compute_build_id() -> str:
    """The build that `compute_build` writes."""
    return make_id("build", make_id("buildset", CHANGE, 1, 0), "compute-libvirt")


def outcome(
    feature: str, status: Status = Status.PASS, message: str = "", *, of: str = ""
) -> Outcome:
    """One test of a compute suite, named after its feature."""
    name = of or str(feature).rpartition(".")[2].replace("-", "_")
    return Outcome(
        test_id=SUITE.format(name),
        status=status,
        duration_s=3.2,
        message=message,
        details=f"E   {message}" if status.bad else "",
        feature=str(feature),
    )


PLAIN = (Feature.LAUNCH, Feature.REBOOT, Feature.RESCUE, Feature.SNAPSHOT, Feature.TERMINATE)


def without_patch() -> list[Outcome]:
    """The suite on the branch tip: resize fails, one machine cannot evacuate."""
    return [
        *(outcome(one) for one in PLAIN),
        outcome(Feature.PAUSE),
        outcome(Feature.PAUSE, of="pause_twice"),
        outcome(Feature.RESUME),
        outcome(Feature.RESIZE, Status.FAIL, "no room on the disk"),
        outcome(Feature.EVACUATE, Status.SKIP, "no second host"),
        outcome(Feature.UEFI_BOOT, Status.SKIP, "unsupported: no firmware"),
        Outcome(test_id="compute::test_helpers", status=Status.PASS),
    ]


def with_patch() -> list[Outcome]:
    """The same with a patch that breaks resume and half of pause, and mends resize."""
    changed = [
        outcome(Feature.PAUSE, Status.FAIL, HOSTILE, of="pause_twice"),
        outcome(Feature.RESUME, Status.FAIL, GONE),
        outcome(Feature.RESIZE),
    ]
    by_test = {one.test_id: one for one in changed}
    return [by_test.get(one.test_id, one) for one in without_patch()]


def compute_build(
    rows: Rows,
    *,
    patch: Sequence[Outcome] | None = None,
    tip: Sequence[Outcome] | None = None,
    status: str = "NEW",
    system: bool = True,
    grade: str = "nested",
    patchset: int = 1,
    **buildset: Any,
) -> ComputeBuild:
    """A check, its baseline (unless `tip` is empty) and its repeat, an hour ago."""
    own = list(with_patch() if patch is None else patch)
    plain = list(without_patch() if tip is None else tip)
    rows.change(CHANGE, "Resume guests in one call", patchset=patchset, status=status)
    set_id = rows.buildset(CHANGE, at=ago(3600), finished_at=ago(3000), **buildset)
    build = make_id("build", set_id, "compute-libvirt")
    assert build == compute_build_id()
    kinds = ("check", "baseline", "repeat") if plain else ("check", "repeat")
    ids = [make_id("attempt", build, number + 1) for number in range(len(kinds))]
    bad = [one for one in own if one.status.bad]
    broken = "this patch breaks a test that the branch tip passes"
    judgement = Judgement(
        result=Result.FAILURE if bad else Result.SUCCESS,
        failure_class=FailureClass.REGRESSION if bad else FailureClass.PASS,
        vote=-1 if bad else 1,
        reason=f"{broken}: {bad[0].test_id}" if bad else "every test passed",
        findings=tuple(
            TestFinding(
                test_id=one.test_id,
                failure_class=FailureClass.REGRESSION,
                reason="passes on the branch tip, and failed again when repeated",
                message=one.message,
            )
            for one in bad
        ),
        attempts_compared=tuple(ids),
    )
    rows.build(
        set_id,
        "compute-libvirt",
        judgement=judgement,
        node_label="libvirt",
        queued_at=ago(3600),
        started_at=ago(3590),
        finished_at=ago(3000),
    )
    named = {"system": QEMU.key, "system-title": QEMU.title} if system else {}
    for number, kind in enumerate(kinds):
        failed = kind != "baseline" and bad
        rows.attempt(
            build,
            number + 1,
            began=ago(3590 - 190 * number),
            kind=kind,
            node=f"libvirt-{number % 2 + 1}",
            grade=grade,
            result="FAILURE" if failed else "SUCCESS",
            exit_status=1 if failed else 0,
            facts={**FACTS, **named},
            left_behind=left(f"libvirt-{number % 2 + 1}") if kind == "check" else [],
        )
        rows.outcomes(ids[number], plain if kind == "baseline" else own)
        rows.console(build, ids[number], ["# run: pytest compute"], began=ago(3500))
    return ComputeBuild(
        build=build,
        check=ids[0],
        baseline=ids[1] if plain else "",
        last=ids[-1],
    )


def left(node: str) -> list[dict[str, str]]:
    """What a killed suite may leave: every kind and every fate."""
    return [
        {"node": node, "kind": "guest", "name": "hv-compute-resume-7f3a", "fate": "removed"},
        {
            "node": node,
            "kind": "volume",
            "name": "default/hv-compute-disk-0.qcow2",
            "fate": "removed",
        },
        {"node": node, "kind": "network", "name": "hv-compute-net", "fate": "stays"},
        {
            "node": node,
            "kind": "snapshot",
            "name": "hv-compute-resume-7f3a/ready",
            "fate": "removed",
        },
        {
            "node": node,
            "kind": "file",
            "name": f"/var/lib/libvirt/images/{'deep/' * 20}x.img",
            "fate": "noted",
        },
        {
            "node": node,
            "kind": "process",
            "name": "qemu-system-x86_64 -name hv-compute",
            "fate": "removed",
        },
        {"node": node, "kind": "socket", "name": HOSTILE, "fate": "noted"},
    ]


def troubled_nodes(rows: Rows) -> None:
    """A node that is held, one that will be, a quarantined one, and one that loops."""
    common = {"label": "libvirt", "provider": "lab"}
    blame = [{"change": f"review 47{n}", "build": f"b{n}"} for n in range(3)]
    rows.node(
        "libvirt-1",
        **common,
        held_until=ago(-5400),
        held_by="ann",
        held_why="looking at the guest that does not resume",
        tags=["kvm"],
        facts={"likeness": "libvirt 9.0.0, qemu 7.2.15", "libvirt": "9.0.0", "qemu": "7.2.15"},
    )
    rows.node(
        "libvirt-2",
        "Bad",
        **common,
        failures=3,
        blamed_by=blame,
        reason="failed three different changes: hv-compute-net could not be removed: device busy",
        health_at=ago(240),
        health_tries=1,
        facts={"likeness": "libvirt 9.0.0, qemu 7.2.15", "libvirt": "9.0.0"},
    )
    rows.node(
        "libvirt-3",
        "Looping",
        **common,
        failures=9,
        blamed_by=blame,
        reason="the health job failed 5 times: no guest of its own boots: "
        "cannot set up guest memory 'pc.ram': Cannot allocate memory",
        health_at=ago(30),
        health_tries=5,
    )
    rows.node("libvirt-4", **common, held_for_s=7200, held_by="ann", held_why="the same again")
