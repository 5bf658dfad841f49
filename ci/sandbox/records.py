# SPDX-License-Identifier: Apache-2.0
"""What the sandbox remembers, as frozen values; times are epoch seconds."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
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


@dataclass(frozen=True, kw_only=True, slots=True)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class ApprovalRecord:
    """One vote on one patch set; `copied` when it was kept from the one before."""

    patchset: int
    username: str
    label: str
    value: int
    granted: float
    tag: str = ""
    copied: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class MessageRecord:
    """One message on a change."""

    id: str
    patchset: int
    username: str
    date: float
    text: str
    tag: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CommentRecord:
    """One remark on a file or, as `/PATCHSET_LEVEL`, on the patch set; `line` 0 for neither."""

    id: str
    message_id: str
    patchset: int
    username: str
    path: str
    line: int
    date: float
    text: str
    unresolved: bool


@dataclass(frozen=True, kw_only=True, slots=True)
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
    private: bool = False
    hashtags: tuple[str, ...] = ()
    reviewers: tuple[str, ...] = ()
    patchsets: tuple[PatchSetRecord, ...] = ()
    approvals: tuple[ApprovalRecord, ...] = ()
    messages: tuple[MessageRecord, ...] = ()
    comments: tuple[CommentRecord, ...] = ()

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

    def all_reviewers(self) -> list[str]:
        """Whoever was added, voted, or spoke on somebody else's change; each once."""
        return list(
            dict.fromkeys(
                [
                    *self.reviewers,
                    *(one.username for one in self.approvals),
                    *(one.username for one in self.messages if one.username != self.owner),
                ]
            )
        )

    def visible_to(self, username: str) -> bool:
        """Whether an account may see it: a private change is its owner's and reviewers'."""
        return not self.private or username == self.owner or username in self.all_reviewers()


def to_json(record: AccountRecord | ChangeRecord) -> dict[str, Any]:
    """A record as JSON values."""
    stored = _fields(record)
    for name in ("patchsets", "approvals", "messages", "comments"):
        if name in stored:
            stored[name] = [_fields(one) for one in stored[name]]
    return stored


def _fields(record: Any) -> dict[str, Any]:
    # Far faster than dataclasses.asdict, which copies every value in it.
    return {name: getattr(record, name) for name in record.__slots__}


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
            "comments": tuple(CommentRecord(**one) for one in stored.get("comments", ())),
            "hashtags": tuple(stored.get("hashtags", ())),
            "reviewers": tuple(stored.get("reviewers", ())),
        }
    )
