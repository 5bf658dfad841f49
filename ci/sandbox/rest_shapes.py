# SPDX-License-Identifier: Apache-2.0
"""Changes as Gerrit's REST side shows them.

Source: replies of Gerrit 3.10.2 kept in `tests/data/`.
"""

import re
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from ci.sandbox.labels import LABELS, VoteLabel, permitted_range, spelled
from ci.sandbox.records import AccountRecord, ChangeRecord, PatchSetRecord
from ci.sandbox.repositories import Repositories
from ci.sandbox.store import Store

Json = dict[str, Any]
DETAIL = frozenset({"DETAILED_LABELS", "DETAILED_ACCOUNTS", "MESSAGES"})
_TOKEN = re.compile(r"<GERRIT_ACCOUNT_(\d+)>")
_REGULAR_FILE = 0o100644


def timestamp(seconds: float) -> str:
    """Epoch seconds as REST spells a time: UTC, nine decimals that say nothing."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%d %H:%M:%S.000000000")


class RestShapes:
    """Makes REST's JSON values out of records.

    Args:
        store: Where accounts are looked up.
        repositories: Where file lists come from.
    """

    def __init__(self, store: Store, repositories: Repositories) -> None:
        self._store = store
        self._repositories = repositories

    def account(self, username: str, *, detailed: bool) -> Json:
        """An account: its number, and who it is if asked for."""
        known = self._store.account(username)
        if known is None:
            return {"username": username}
        if not detailed:
            return {"_account_id": known.number}
        return {
            "_account_id": known.number,
            "name": known.full_name,
            "email": known.email,
            "username": known.username,
        }

    def change(
        self, change: ChangeRecord, options: Collection[str], viewer: AccountRecord | None
    ) -> Json:
        """A change with the parts that `options` (REST's `o=`) name."""
        detailed = "DETAILED_ACCOUNTS" in options
        shown: Json = {
            "id": f"{quote(change.project, safe='')}~{change.number}",
            "triplet_id": f"{quote(change.project, safe='')}~{change.branch}~{change.change_id}",
            "project": change.project,
            "branch": change.branch,
            **({"topic": change.topic} if change.topic else {}),
            "hashtags": list(change.hashtags),
            "change_id": change.change_id,
            "subject": change.subject,
            "status": change.status,
            "created": timestamp(change.created),
            "updated": timestamp(change.updated),
            **({"submit_type": "MERGE_IF_NECESSARY"} if change.open else {}),
            "insertions": change.current.insertions,
            "deletions": change.current.deletions,
            "total_comment_count": len(change.comments),
            "unresolved_comment_count": sum(one.unresolved for one in change.comments),
            **({"is_private": True} if change.private else {}),
            "has_review_started": not change.wip,
            "meta_rev_id": change.messages[-1].id if change.messages else "0" * 40,
            "_number": change.number,
            "virtual_id_number": change.number,
            "owner": self.account(change.owner, detailed=detailed),
            "current_revision_number": change.current.number,
            "requirements": [],
            "submit_records": [],
        }
        if change.wip:
            shown["work_in_progress"] = True
        if "DETAILED_LABELS" in options or "LABELS" in options:
            shown |= self._labels(change, options, viewer)
        if "MESSAGES" in options:
            shown["messages"] = self.messages(change, detailed=detailed)
        if "CURRENT_REVISION" in options or "ALL_REVISIONS" in options:
            shown |= self._revisions(change, options)
        return shown

    def _revisions(self, change: ChangeRecord, options: Collection[str]) -> Json:
        wanted = change.patchsets if "ALL_REVISIONS" in options else (change.current,)
        return {
            "current_revision": change.current.revision,
            "revisions": {one.revision: self._revision(change, one, options) for one in wanted},
        }

    def _revision(
        self, change: ChangeRecord, patchset: PatchSetRecord, options: Collection[str]
    ) -> Json:
        shown: Json = {
            "kind": patchset.kind,
            "_number": patchset.number,
            "created": timestamp(patchset.created),
            "uploader": self.account(patchset.uploader, detailed="DETAILED_ACCOUNTS" in options),
            "ref": change.ref(patchset.number),
            "fetch": {},
            "branch": f"refs/heads/{change.branch}",
        }
        every = "ALL_FILES" in options
        if every or ("CURRENT_FILES" in options and patchset is change.current):
            files = self.files(change, patchset)
            del files["/COMMIT_MSG"]
            shown["files"] = files
        if "CURRENT_COMMIT" in options or "ALL_COMMITS" in options:
            shown["commit"] = self.commit(patchset)
        return shown

    def commit(self, patchset: PatchSetRecord) -> Json:
        """The commit of a patch set."""
        return {
            "parents": [{"commit": one} for one in patchset.parents],
            "author": {"name": patchset.author_name, "email": patchset.author_email},
            "subject": patchset.message.split("\n", 1)[0],
            "message": patchset.message,
        }

    def files(self, change: ChangeRecord, patchset: PatchSetRecord) -> Json:
        """Path to what happened to it; the commit message counts as a file."""
        size = len(patchset.message.encode())
        shown: Json = {
            "/COMMIT_MSG": {
                "status": "A",
                "lines_inserted": patchset.message_lines,
                "size_delta": size,
                "size": size,
            }
        }
        for one in self._repositories.files(change.project, patchset.revision):
            entry: Json = {} if one.status == "M" else {"status": one.status}
            if one.status == "A":
                entry["new_mode"] = _REGULAR_FILE
            entry |= {"binary": True} if one.binary else {}
            entry |= {"lines_inserted": one.insertions} if one.insertions else {}
            entry |= {"lines_deleted": one.deletions} if one.deletions else {}
            shown[one.path] = entry
        return shown

    def messages(self, change: ChangeRecord, *, detailed: bool) -> list[Json]:
        """What was said, oldest first."""
        return [
            {
                "id": one.id,
                **({"tag": one.tag} if one.tag else {}),
                "author": self.account(one.username, detailed=detailed),
                "date": timestamp(one.date),
                "message": one.text,
                "accounts_in_message": self._named_in(one.text, detailed=detailed),
                "_revision_number": one.patchset,
            }
            for one in change.messages
        ]

    def _named_in(self, text: str, *, detailed: bool) -> list[Json]:
        numbers = {int(one) for one in _TOKEN.findall(text)}
        if not numbers:
            return []
        found = (one for one in self._store.accounts() if one.number in numbers)
        return [self.account(one.username, detailed=detailed) for one in found]

    def comments(self, change: ChangeRecord, patchset: int | None = None) -> Json:
        """Remarks by file, of all patch sets or of one; `/PATCHSET_LEVEL` is a file too."""
        revisions = {one.number: one.revision for one in change.patchsets}
        shown: dict[str, list[Json]] = {}
        for one in change.comments:
            if patchset not in {None, one.patchset}:
                continue
            entry: Json = {
                "author": self.account(one.username, detailed=True),
                "unresolved": one.unresolved,
                "id": one.id,
                "updated": timestamp(one.date),
                "message": one.text,
                "commit_id": revisions[one.patchset],
            }
            entry |= {"line": one.line} if one.line else {}
            if patchset is None:
                entry |= {"change_message_id": one.message_id, "patch_set": one.patchset}
            shown.setdefault(one.path, []).append(entry)
        return shown

    def votes(self, change: ChangeRecord, username: str) -> dict[str, int]:
        """What somebody voted on the current patch set."""
        given = [one for one in change.approvals if one.username == username and one.value]
        return {one.label: one.value for one in given if one.patchset == change.current.number}

    def reviewers(self, change: ChangeRecord) -> list[Json]:
        """Who reviews, with the votes they gave or may give."""
        return [self._reviewer(change, one) for one in self._reviewers(change)]

    def _reviewer(self, change: ChangeRecord, account: AccountRecord) -> Json:
        given = self.votes(change, account.username)
        approvals = {
            name: spelled(given.get(name, 0))
            for name, label in sorted(LABELS.items())
            if name in given or permitted_range(account, label) is not None
        }
        return {"approvals": approvals, **self.account(account.username, detailed=True)}

    def _labels(
        self, change: ChangeRecord, options: Collection[str], viewer: AccountRecord | None
    ) -> Json:
        detailed = "DETAILED_ACCOUNTS" in options
        reviewers = self._reviewers(change)
        shown: Json = {
            "labels": {
                label.name: self._label(
                    change, label, reviewers, ranges="DETAILED_LABELS" in options, named=detailed
                )
                for label in sorted(LABELS.values(), key=lambda one: one.name)
            },
            "reviewers": {
                "REVIEWER": [self.account(one.username, detailed=detailed) for one in reviewers]
            }
            if reviewers
            else {},
            "pending_reviewers": {},
        }
        if "DETAILED_LABELS" in options and viewer is not None:
            shown["permitted_labels"] = _permitted(viewer) if change.open else {}
        return shown

    def _reviewers(self, change: ChangeRecord) -> list[AccountRecord]:
        names = change.all_reviewers()
        found = (self._store.account(name) for name in names)
        return sorted((one for one in found if one is not None), key=lambda one: one.number)

    def _label(
        self,
        change: ChangeRecord,
        label: VoteLabel,
        reviewers: list[AccountRecord],
        *,
        ranges: bool,
        named: bool,
    ) -> Json:
        rows: list[Json] = []
        extremes: Json = {}
        for account in reviewers:
            vote = change.vote_of(account.username, label.name, change.current.number)
            value = vote.value if vote else 0
            row: Json = {"tag": vote.tag} if vote and vote.tag else {}
            row["value"] = value
            if vote is not None:
                row["date"] = timestamp(vote.granted)
            allowed = permitted_range(account, label)
            if ranges and allowed is not None:
                row["permitted_voting_range"] = dict(zip(("min", "max"), allowed, strict=True))
            who = self.account(account.username, detailed=named)
            rows.append(row | who)
            if value == label.highest:
                extremes["approved"] = who
            elif value == label.lowest:
                extremes["rejected"] = who
        return {
            **extremes,
            **({"all": rows} if rows else {}),
            "values": label.described(),
            "default_value": 0,
            **({"optional": True} if label.optional else {}),
        }


def _permitted(viewer: AccountRecord) -> dict[str, list[str]]:
    permitted: dict[str, list[str]] = {}
    for label in LABELS.values():
        allowed = permitted_range(viewer, label)
        if allowed is not None:
            permitted[label.name] = [spelled(one) for one in range(allowed[0], allowed[1] + 1)]
    return permitted
