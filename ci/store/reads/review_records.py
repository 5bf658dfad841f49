# SPDX-License-Identifier: Apache-2.0
"""The records about reviews: what is owed, who voted, who agrees. Field names are a promise.

All times are aware UTC. Subjects, names, labels of other accounts and notes are hostile text.
"""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class OwedRecord:
    """One review that is owed to a review server, or was.

    Attributes:
        id: The number that `hypervouch outbox` knows it by.
        state: `pending`, `held`, `delivered` or `dropped`.
        label: Vote label, or None for a comment without a vote.
        value: Value of the label, or None.
        transport: `rest` or `ssh`, how it got there; empty before.
        next_at: When it is tried again; without meaning once it is settled or held.
        note: The last error, or why it was dropped.
    """

    id: int
    buildset_id: str
    connection: str
    project: str
    change_number: int
    patchset: int
    subject: str
    pipeline: str
    recheck: int
    label: str | None
    value: int | None
    state: str
    transport: str
    tries: int
    next_at: datetime
    note: str
    created_at: datetime
    settled_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class NoticeDelivery:
    """One notice on its way to one reporter.

    Attributes:
        kind: What the notice is about, for instance `held-vote`.
        url: Our page about it; empty where there is none.
        note: The last error.
    """

    id: int
    reporter: str
    kind: str
    subject: str
    url: str
    state: str
    tries: int
    next_at: datetime
    note: str
    occurred_at: datetime
    settled_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class OutboxPage:
    """What has not been delivered, oldest first.

    Attributes:
        owed: Reviews that are pending or held.
        owed_total: How many there are, also those not listed.
        notices: Notices that a reporter has not taken yet.
        notices_total: How many there are, also those not listed.
        settled: The newest delivered and dropped reviews, where they were asked for.
    """

    owed: tuple[OwedRecord, ...]
    owed_total: int
    notices: tuple[NoticeDelivery, ...]
    notices_total: int
    settled: tuple[OwedRecord, ...]


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """One thing that an operator did."""

    id: int
    at: datetime
    by: str
    action: str
    subject: str
    note: str


@dataclass(frozen=True, kw_only=True)
class AuditPage:
    """What operators did, newest first.

    Attributes:
        next: Value of `before` for the following, older page; None at the end.
    """

    lines: tuple[AuditRecord, ...]
    next: int | None


@dataclass(frozen=True, kw_only=True)
class PatchsetVote:
    """What one CI or person says of a patch set.

    Attributes:
        who: Full name; for our own runs the pipeline and the number of the recheck.
        account: Username, or the name where that is hidden; empty for our own runs.
        ours: Whether it is one of our runs.
        is_ci: Whether a CI said it.
        label: Vote label; empty for a report without a vote.
        value: Value of the label; 0 for none.
        opinion: 1, -1 or 0: what the vote or the report comes down to.
        words: What became of it: `delivered`, `pending`, `held`, `dropped`, `not posted`,
            `running`; of others `succeeded` or `failed` where they only comment.
        agrees: Whether another CI's opinion is that of our last run; None where one of the two
            has none, and for people.
        buildset_id: The run behind it; None for others.
        at: When it was said.
    """

    who: str
    account: str
    ours: bool
    is_ci: bool
    label: str
    value: int
    opinion: int
    words: str
    agrees: bool | None
    buildset_id: str | None
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A patch set on which another CI and we differ.

    Attributes:
        ours: Our opinion, 1 or -1.
        theirs: Their opinion, 1 or -1.
        at: When they voted last.
    """

    connection: str
    change_number: int
    patchset: int
    subject: str
    ours: int
    theirs: int
    at: datetime


@dataclass(frozen=True, kw_only=True)
class AgreementRow:
    """How often another CI and we agree on one project.

    Attributes:
        account: Username of the other CI, or its name.
        name: Its full name when it voted last.
        both: Patch sets that both judged.
        agree: Those with the same opinion.
        only_they_failed: Those where we say +1 and they -1.
        only_we_failed: Those where we say -1 and they +1.
        newest_at: Their last vote among them.
        differ: The newest patch sets on which we differ.
    """

    connection: str
    project: str
    account: str
    name: str
    both: int
    agree: int
    only_they_failed: int
    only_we_failed: int
    newest_at: datetime
    differ: tuple[Disagreement, ...]


@dataclass(frozen=True, kw_only=True)
class AgreementPage:
    """Agreement with every other CI over a window.

    Attributes:
        days: Length of the window.
        since: Its start: votes of other CIs before it do not count.
        rows: By connection, project and account.
        complete: False where there were more votes than are read at once; the newest count.
    """

    days: int
    since: datetime
    rows: tuple[AgreementRow, ...]
    complete: bool
