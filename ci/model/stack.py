# SPDX-License-Identifier: Apache-2.0
"""What a change depends on by `Depends-On:`, resolved: the patch sets stacked below it."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Dependency:
    """One patch set that has to be there first.

    Attributes:
        project: Gerrit project; another one than the change's is checked out beside it.
        branch: Short name of its target branch.
        number: Change number.
        patchset: Its current patch set when the stack was resolved.
        revision: Commit id.
        ref: `refs/changes/NN/CHANGE/PATCHSET`.
        tip: For another project or branch than the change's own: the commit that it is merged
            onto, the same for every attempt; empty otherwise.
    """

    project: str
    branch: str
    number: int
    patchset: int
    revision: str
    ref: str
    tip: str = ""


def stack_to_json(stack: tuple[Dependency, ...]) -> list[dict[str, Any]]:
    """A stack as JSON types, lowest first."""
    return [asdict(one) for one in stack]


def stack_from_json(value: list[dict[str, Any]]) -> tuple[Dependency, ...]:
    """What `stack_to_json` wrote."""
    return tuple(Dependency(**one) for one in value)
