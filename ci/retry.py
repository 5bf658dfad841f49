# SPDX-License-Identifier: Apache-2.0
"""How often an attempt is made again, by what ended it. Pure.

A node that did not come up, a suite that took too long and a lease that was lost are not the
same trouble: a lab may want five more tries for the last and none for the second.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ci.layout import Job
from ci.model.build import AttemptRecord
from ci.model.result import Result

DEFAULT_TRIES = 3
MAX_NAMED = 5
_ERROR_LIMIT = 80


class Trouble(StrEnum):
    """What ended an attempt without outcomes that count; the keys of a job's `retries`."""

    SETUP = "setup"
    NODE = "node"
    LOST = "lost"
    COLLECT = "collect"
    TIMEOUT = "timeout"
    ERROR = "error"


_LATER = {
    Result.NODE_FAILURE: Trouble.NODE,
    Result.TIMED_OUT: Trouble.TIMEOUT,
    Result.LOST: Trouble.LOST,
    Result.POST_FAILURE: Trouble.COLLECT,
}
_BEFORE = {Result.NODE_FAILURE: Trouble.SETUP, Result.TIMED_OUT: Trouble.SETUP}


def trouble_of(attempt: AttemptRecord) -> Trouble:
    """The class of an attempt whose outcomes do not count."""
    if attempt.finished_tests:
        return Trouble.NODE  # it ran to its end, on a node unlike the one it is compared with
    known = _LATER if attempt.began else {**_LATER, **_BEFORE}
    return known.get(attempt.result, Trouble.ERROR)


@dataclass(frozen=True, kw_only=True)
class Quota:
    """Tries after the first that each trouble allows, for each kind of attempt anew.

    Attributes:
        retries: By trouble; what is missing has `default`.
        default: For the rest.
    """

    retries: Mapping[Trouble, int] = field(default_factory=dict)
    default: int = DEFAULT_TRIES - 1

    @classmethod
    def of(cls, job: Job) -> "Quota":
        """What a job says."""
        named = {one: getattr(job.retries, one.value) for one in Trouble}
        return cls(
            retries={one: tries for one, tries in named.items() if tries is not None},
            default=job.node_attempts - 1,
        )

    def limit(self, trouble: Trouble) -> int:
        """Retries after such trouble."""
        return self.retries.get(trouble, self.default)

    @property
    def tries(self) -> int:
        """Tries in all, whatever mixture of troubles there is."""
        return 1 + max(self.limit(one) for one in Trouble)

    def used_up(self, failed: Sequence[AttemptRecord]) -> str:
        """Why there is no further try after these, all of one kind; empty where there is one."""
        counts = Counter(trouble_of(attempt) for attempt in failed)
        for trouble, count in counts.items():
            limit = self.limit(trouble)
            if count > limit and limit:
                return f"the {_times(limit)} for {trouble.value} trouble used up"
            if count > limit:
                return f"no retry for {trouble.value} trouble"
        if len(failed) >= self.tries:
            return f"all {self.tries} tries used up"
        return ""


def told(failed: Sequence[AttemptRecord]) -> str:
    """What each try ended with, and where: `lab-1 (it did not answer), ...`."""
    named = [f"{a.node or 'no node'} ({_short(a.error)})" for a in failed[-MAX_NAMED:]]
    more = len(failed) - len(named)
    return ", ".join(named) + (f" and {more} before" if more else "")


def _times(retries: int) -> str:
    return "one retry" if retries == 1 else f"{retries} retries"


def _short(text: str) -> str:
    return text if len(text) <= _ERROR_LIMIT else f"{text[: _ERROR_LIMIT - 3]}..."
