# SPDX-License-Identifier: Apache-2.0
"""Which votes are allowed, which are news, and what they leave; pure."""

from collections.abc import Mapping

from ci.sandbox.labels import LABELS, permitted_range
from ci.sandbox.records import AccountRecord, ApprovalRecord, ChangeRecord, MessageRecord


def restricted(account: AccountRecord, votes: Mapping[str, int]) -> tuple[str, int] | None:
    """The first vote that this account may not give."""
    for name, value in votes.items():
        allowed = permitted_range(account, LABELS[name])
        if value and (allowed is None or not allowed[0] <= value <= allowed[1]):
            return name, value
    return None


def changed_votes(
    change: ChangeRecord, account: AccountRecord, patchset: int, votes: Mapping[str, int]
) -> dict[str, int]:
    """The labels whose vote is news, with the account's vote before.

    A vote that was only copied from the patch set before is news when it is given again.
    """
    changed: dict[str, int] = {}
    for name, value in votes.items():
        before = change.vote_of(account.username, name, patchset)
        old = before.value if before else 0
        if old != value or (before is not None and before.copied):
            changed[name] = old
    return changed


def with_votes(
    change: ChangeRecord,
    account: AccountRecord,
    message: MessageRecord,
    votes: Mapping[str, int],
) -> tuple[ApprovalRecord, ...]:
    """All votes of a change once these were given by a message."""
    kept = [
        one
        for one in change.approvals
        if (one.username, one.patchset) != (account.username, message.patchset)
        or one.label not in votes
    ]
    given = [
        ApprovalRecord(
            patchset=message.patchset,
            username=account.username,
            label=name,
            value=value,
            granted=message.date,
            tag=message.tag,
        )
        for name, value in votes.items()
    ]
    return (*kept, *given)


def has_review(change: ChangeRecord) -> bool:
    """Whether the current patch set may be merged: the highest Code-Review and no veto."""
    mine = [
        one.value
        for one in change.approvals
        if one.label == "Code-Review" and one.patchset == change.current.number
    ]
    return (
        max(mine, default=0) == LABELS["Code-Review"].highest
        and min(mine) > LABELS["Code-Review"].lowest
    )
