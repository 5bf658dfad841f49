# SPDX-License-Identifier: Apache-2.0
"""Zuul's nouns for the work itself: Attempt, and what the judge needs to know of one."""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NamedTuple

from ci.model.result import Outcome, Result


class Claim(NamedTuple):
    """A worker's right to run a build.

    Attributes:
        build_id: Which one.
        number: Fencing token: it grows with each claim of the build, and a smaller one can no
            longer write.
    """

    build_id: str
    number: int


class AttemptKind(StrEnum):
    """Why a build goes to a node.

    `check` tests the patch; `repeat` tests it again on another lease, to see whether a
    failure stays; `baseline` tests the branch tip without it, to see whose failure it is.
    """

    CHECK = "check"
    REPEAT = "repeat"
    BASELINE = "baseline"


class Priority(IntEnum):
    """Which builds go first; smaller goes before larger, whatever waits there.

    `asked`: a person asked for it (a recheck), or it ran before and its worker died; `pushed`: a
    new patch set; `missed`: its event had been missed, so nobody has been waiting just now.
    """

    ASKED = 0
    PUSHED = 1
    MISSED = 2


class Phase(StrEnum):
    """Where an attempt is; each phase has a deadline of its own."""

    MERGE = "merge"
    LEASE = "lease"
    SETUP = "setup"
    RUN = "run"
    COLLECT = "collect"
    DONE = "done"


INFRA_RESULTS = frozenset(
    {Result.NODE_FAILURE, Result.LOST, Result.TIMED_OUT, Result.POST_FAILURE, Result.ERROR}
)


@dataclass(frozen=True, kw_only=True)
class AttemptRecord:
    """One finished attempt as the judge sees it.

    Attributes:
        attempt_id: Id of the attempt.
        kind: Why it ran.
        result: How it ended.
        node: Where, or empty when it never got a node.
        outcomes: Its tests, in run order.
        error: What went wrong, for results other than SUCCESS and FAILURE.
        hint: How to mend that.
        tip: Branch tip that it was merged onto, or that it tested.
        tree: What it tested; what was put beside the checkout counts.
        base_tree: What its baseline has to test: the same without the patch.
        dependency: It ended because of what the change depends on, not of the change.
        interrupted: It ended because this program was stopped or killed: nobody's fault,
            and not counted against the nodes.
        grade: Evidence grade of the node it ran on.
        hypervisor: What ran there, with its version.
        began: Whether its suite was started.
        peers: Further nodes of its set.
        likeness: What its node has in common with those it may be compared with; empty for
            one from before this was noted.
    """

    attempt_id: str
    kind: AttemptKind
    result: Result
    node: str = ""
    outcomes: tuple[Outcome, ...] = field(default=())
    error: str = ""
    hint: str = ""
    tip: str = ""
    tree: str = ""
    base_tree: str = ""
    dependency: bool = False
    interrupted: bool = False
    grade: str = "none"
    hypervisor: str = ""
    began: bool = False
    peers: tuple[str, ...] = ()
    likeness: str = ""

    @property
    def finished_tests(self) -> bool:
        """Whether its outcomes can be compared: the suite ran to its end."""
        return self.result in {Result.SUCCESS, Result.FAILURE}
