# SPDX-License-Identifier: Apache-2.0
"""Review labels and who may vote what; pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ci.sandbox.records import AccountRecord

NO_CHANGE = "NO_CHANGE"
NO_CODE_CHANGE = "NO_CODE_CHANGE"
TRIVIAL_REBASE = "TRIVIAL_REBASE"
REWORK = "REWORK"
# What a condition on a kind holds for: a patch set that changes nothing is any kind of change.
_COVERED = {NO_CHANGE: (NO_CHANGE, NO_CODE_CHANGE, TRIVIAL_REBASE)}
_LOWEST = "is:MIN"


@dataclass(frozen=True, kw_only=True)
class VoteLabel:
    """A label with its values.

    Attributes:
        name: As in events and REST.
        values: Value to its meaning.
        copied_if: A new patch set keeps a vote if one of these conditions holds.
        optional: Whether a change can be merged without it.
    """

    name: str
    values: Mapping[int, str]
    copied_if: tuple[str, ...]
    optional: bool = field(default=False)

    @property
    def lowest(self) -> int:
        """The lowest value."""
        return min(self.values)

    @property
    def highest(self) -> int:
        """The highest value."""
        return max(self.values)

    def condition(self, value: int, kind: str) -> tuple[bool, str]:
        """Whether a vote is kept by a patch set of this kind, and the condition, as text.

        What held is in bold there, as Gerrit's message about the patch set has it.
        """
        held = {f"changekind:{one}" for one in _COVERED.get(kind, (kind,))}
        held |= {_LOWEST} if value == self.lowest else set()
        words = [f"**{one}**" if one in held else one for one in self.copied_if]
        return bool(held & set(self.copied_if)), " OR ".join(words)

    def described(self) -> dict[str, str]:
        """Values as REST spells them: `-1`, ` 0`, `+1`."""
        return {spelled(value): text for value, text in sorted(self.values.items())}


CODE_REVIEW = VoteLabel(
    name="Code-Review",
    values={
        -2: "This shall not be submitted",
        -1: "I would prefer this is not submitted as is",
        0: "No score",
        1: "Looks good to me, but someone else must approve",
        2: "Looks good to me, approved",
    },
    copied_if=(f"changekind:{NO_CHANGE}", f"changekind:{TRIVIAL_REBASE}", _LOWEST),
)
VERIFIED = VoteLabel(
    name="Verified",
    values={-1: "Fails", 0: "No score", 1: "Verified"},
    copied_if=(f"changekind:{NO_CODE_CHANGE}",),
    optional=True,
)
# In the order in which events list them.
LABELS = {label.name: label for label in (VERIFIED, CODE_REVIEW)}


def spelled(value: int) -> str:
    """A vote as Gerrit spells it: with its sign, zero after a blank."""
    return f"{value:+d}" if value else " 0"


def permitted_range(account: AccountRecord, label: VoteLabel) -> tuple[int, int] | None:
    """Lowest and highest value that this account may give, or None for no right."""
    if account.admin:
        return label.lowest, label.highest
    if label is VERIFIED:
        return (-1, 1) if account.vote else None
    return (-1, 1)


def accepted(asked: Mapping[str, int]) -> dict[str, int]:
    """The votes that exist at all; unknown labels and values are dropped in silence.

    Source: a REST review with `Verified: 5` is answered 200 with empty labels.
    """
    return {
        name: value
        for name, value in asked.items()
        if name in LABELS and value in LABELS[name].values
    }


def headline(patchset: int, given: Mapping[str, int]) -> str:
    """The first line of a review message: `Patch Set 3: Verified+1`, `-Verified` for none."""
    words = [f"{name}{value:+d}" if value else f"-{name}" for name, value in sorted(given.items())]
    return f"Patch Set {patchset}:" + "".join(f" {word}" for word in words)
