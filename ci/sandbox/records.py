# SPDX-License-Identifier: Apache-2.0
"""What the sandbox remembers, as frozen values; times are epoch seconds."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class AccountRecord:
    """Somebody who may log in.

    Attributes:
        number: Gerrit's `_account_id`.
        username: Login name.
        full_name: Shown beside comments; a CI's ends in ` CI`.
        email: Address its commits carry.
        salt: Of the password's digest.
        digest: Hexadecimal digest of salt and HTTP password; empty: no password login.
        public_key: OpenSSH public key, `TYPE BASE64`; empty: no SSH login.
        stream_events: Whether it may follow the event stream.
        vote: Whether it may give the Verified label.
        admin: Whether it may do everything.
    """

    number: int
    username: str
    full_name: str
    email: str
    salt: str = ""
    digest: str = ""
    public_key: str = ""
    stream_events: bool = False
    vote: bool = False
    admin: bool = False


@dataclass(frozen=True, kw_only=True)
class PatchSetRecord:
    """One version of a change."""

    number: int
    revision: str
    parents: tuple[str, ...]
    uploader: str
    author_name: str
    author_email: str
    created: float
    kind: str
    insertions: int
    deletions: int
    message: str

    @property
    def message_lines(self) -> int:
        """Lines of the `/COMMIT_MSG` pseudo file: five of header, a blank one, the message."""
        return 6 + self.message.count("\n")


@dataclass(frozen=True, kw_only=True)
class ApprovalRecord:
    """One vote on one patch set; `copied` when it was kept from the one before."""

    patchset: int
    username: str
    label: str
    value: int
    granted: float
    tag: str = ""
    copied: bool = False


@dataclass(frozen=True, kw_only=True)
class MessageRecord:
    """One message on a change."""

    id: str
    patchset: int
    username: str
    date: float
    text: str
    tag: str = ""


@dataclass(frozen=True, kw_only=True)
class ChangeRecord:
    """A change with all that was said of it; patch sets in order, the last one is current."""

    number: int
    project: str
    branch: str
    change_id: str
    owner: str
    created: float
    updated: float
    status: str = "NEW"
    topic: str = ""
    wip: bool = False
    patchsets: tuple[PatchSetRecord, ...] = field(default=())
    approvals: tuple[ApprovalRecord, ...] = field(default=())
    messages: tuple[MessageRecord, ...] = field(default=())

    @property
    def current(self) -> PatchSetRecord:
        """The newest patch set."""
        return self.patchsets[-1]

    @property
    def subject(self) -> str:
        """First line of the current commit message."""
        return self.current.message.split("\n", 1)[0]

    @property
    def open(self) -> bool:
        """Whether it still takes patch sets and votes."""
        return self.status == "NEW"

    def patchset(self, number: int) -> PatchSetRecord | None:
        """The patch set of that number."""
        return next((one for one in self.patchsets if one.number == number), None)

    def ref(self, patchset: int) -> str:
        """Where git keeps a patch set."""
        return f"refs/changes/{self.number % 100:02d}/{self.number}/{patchset}"

    def vote_of(self, username: str, label: str, patchset: int) -> ApprovalRecord | None:
        """What somebody voted on a patch set."""
        return next(
            (
                one
                for one in self.approvals
                if (one.username, one.label, one.patchset) == (username, label, patchset)
            ),
            None,
        )


def to_json(record: AccountRecord | ChangeRecord) -> dict[str, Any]:
    """A record as JSON values."""
    return asdict(record)


def change_from_json(stored: dict[str, Any]) -> ChangeRecord:
    """The change that `to_json` wrote."""
    return ChangeRecord(
        **{
            **stored,
            "patchsets": tuple(
                PatchSetRecord(**{**one, "parents": tuple(one["parents"])})
                for one in stored["patchsets"]
            ),
            "approvals": tuple(ApprovalRecord(**one) for one in stored["approvals"]),
            "messages": tuple(MessageRecord(**one) for one in stored["messages"]),
        }
    )
