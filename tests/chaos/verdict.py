# SPDX-License-Identifier: Apache-2.0
"""Whether every change got what it deserves, by the review server's own records. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.plan import Kind, Story


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the review server has of one change.

    Attributes:
        patchset: The current one.
        vote: Our vote on it; 0 for none.
        comments: Patch sets of our comments, in order.
    """

    patchset: int
    vote: int
    comments: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Case:
    """One change as its author left it.

    Attributes:
        story: What the author meant to do.
        number: The change's number.
        patchsets: How many were pushed.
        rechecks: How often a run was asked for again, all on the last patch set.
    """

    story: Story
    number: int
    patchsets: int
    rechecks: int = 0

    @property
    def due(self) -> int | None:
        """Comments owed on the last patch set; None where it does not matter."""
        if self.story.kind is Kind.ABANDONED:
            return None
        return 0 if self.story.kind is Kind.DOCS else 1 + self.rechecks


def lacking(case: Case, told: Told) -> str:
    """What is still owed; empty when nothing is. It may come with time."""
    if told.patchset != case.patchsets:
        return f"the server has patch set {told.patchset} of {case.patchsets}"
    said = told.comments.count(told.patchset)
    if case.due is not None and said < case.due:
        return f"{said} of {case.due} comments on patch set {told.patchset}"
    return ""


def wrong(case: Case, told: Told) -> list[str]:
    """What no time will mend."""
    found = []
    for patchset, said in sorted(Counter(told.comments).items()):
        most = 1 + (case.rechecks if patchset == case.patchsets else 0)
        if case.story.kind is Kind.DOCS:
            most = 0
        if said > most:
            found.append(f"{said} comments on patch set {patchset}, at most {most} are right")
    expected = case.story.vote
    if expected is not None and not lacking(case, told) and told.vote != expected:
        found.append(f"vote {told.vote:+d}, deserved {expected:+d}")
    return found


def report(cases: Sequence[Case], told: Mapping[int, Told]) -> dict[int, list[str]]:
    """By change number, all that is lacking or wrong."""
    found: dict[int, list[str]] = {}
    for case in cases:
        one = told[case.number]
        said = [*([missing] if (missing := lacking(case, one)) else []), *wrong(case, one)]
        if said:
            found[case.number] = said
    return found
