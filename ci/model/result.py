# SPDX-License-Identifier: Apache-2.0
"""What a run showed: Outcome (one test), Result (one Build), Verdict (a Buildset), Vote."""

from dataclasses import dataclass, field
from enum import StrEnum


class Status(StrEnum):
    """How one test ended."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    ERROR = "error"
    SKIP = "skip"

    @property
    def bad(self) -> bool:
        """Whether it counts against the run."""
        return self in {Status.FAIL, Status.ERROR}


class Result(StrEnum):
    """How one Build or one of its attempts ended, in Zuul's words."""

    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    SKIPPED = "SKIPPED"
    TIMED_OUT = "TIMED_OUT"
    CANCELED = "CANCELED"
    NODE_FAILURE = "NODE_FAILURE"
    RETRY_LIMIT = "RETRY_LIMIT"
    POST_FAILURE = "POST_FAILURE"
    MERGE_CONFLICT = "MERGE_CONFLICT"
    LOST = "LOST"
    ERROR = "ERROR"


class Grade(StrEnum):
    """How real the hypervisor behind the evidence is; never upgraded by wording."""

    BARE = "bare"
    NESTED = "nested"
    SIMULATOR = "simulator"
    EMULATOR = "emulator"
    NONE = "none"


class FailureClass(StrEnum):
    """The class that the judge gives a Build: the one table of who gets -1."""

    PASS = "pass"  # noqa: S105
    REGRESSION = "regression"
    KNOWN = "known"
    FLAKY = "flaky"
    NEW_FAILING = "new-failing"
    INFRA = "infra"
    CONFLICT = "conflict"
    DEPENDENCY = "dependency"
    EMPTY = "empty"
    CANCELED = "canceled"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One test of one attempt.

    Attributes:
        test_id: Stable over runs: `module.Class::name` as the suite names it.
        status: How it ended.
        duration_s: Seconds it took.
        message: First line of the failure or the skip's reason; hostile text.
        details: Traceback and captured output, capped; hostile text.
        feature: The row of Nova's matrix that it tries, or nothing.
    """

    test_id: str
    status: Status
    duration_s: float = 0.0
    message: str = ""
    details: str = ""
    feature: str = ""


@dataclass(frozen=True, kw_only=True)
class TestFinding:
    """Why one failing test does or does not count, with the attempts compared."""

    __test__ = False

    test_id: str
    failure_class: FailureClass
    reason: str
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the judge says of one Build, and why.

    Attributes:
        result: The word in the comment.
        failure_class: The row of the table.
        vote: +1, -1 or 0 for none.
        reason: One sentence for the page.
        findings: One per failing test, in run order.
        attempts_compared: Ids of the attempts the judgement rests on.
    """

    result: Result
    failure_class: FailureClass
    vote: int
    reason: str
    findings: tuple[TestFinding, ...] = field(default=())
    attempts_compared: tuple[str, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Vote:
    """A label and its value; value 0 means a comment without a label."""

    label: str
    value: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is said of a Buildset: the vote, the reason and the comment's first word.

    Attributes:
        vote: What goes to Gerrit, or None where nothing is voted.
        succeeded: Whether the comment says "succeeded".
        reason: One sentence.
        report: Whether anything is posted at all (a merge conflict may be silent).
        held: Whether the review waits until an operator releases it.
    """

    vote: Vote | None
    succeeded: bool
    reason: str
    report: bool = True
    held: bool = False
