# SPDX-License-Identifier: Apache-2.0
"""Accounts, patch sets and changes as Gerrit's SSH side shows them: in events and queries.

Source: the recorded events of Gerrit 3.10.2 in `tests/data/`.
"""

import re
from collections.abc import Sequence
from typing import Any

from ci.sandbox.labels import LABELS
from ci.sandbox.records import AccountRecord, ChangeRecord, PatchSetRecord
from ci.sandbox.repositories import FileChange
from ci.sandbox.store import Store

Json = dict[str, Any]
_TOKEN = re.compile(r"<GERRIT_ACCOUNT_(\d+)>")
_FILE_TYPES = {"A": "ADDED", "M": "MODIFIED", "D": "DELETED"}


class Shapes:
    """Makes JSON values out of records.

    Args:
        store: Where accounts are looked up.
        url: Base address of the pages, without a trailing slash.
    """

    def __init__(self, store: Store, url: str) -> None:
        self._store = store
        self._url = url

    def account(self, username: str) -> Json:
        """Name, address and username."""
        known = self._store.account(username)
        if known is None:
            return {"username": username}
        return {"name": known.full_name, "email": known.email, "username": known.username}

    def _author(self, patchset: PatchSetRecord) -> Json:
        known = self._store.account_by_email(patchset.author_email)
        if known is not None:
            return self.account(known.username)
        return {"name": patchset.author_name, "email": patchset.author_email}

    def page(self, change: ChangeRecord) -> str:
        """The change's address."""
        return f"{self._url}/c/{change.project}/+/{change.number}"

    def patchset(self, change: ChangeRecord, patchset: PatchSetRecord) -> Json:
        """A patch set, as events show it."""
        return {
            "number": patchset.number,
            "revision": patchset.revision,
            "parents": list(patchset.parents),
            "ref": change.ref(patchset.number),
            "uploader": self.account(patchset.uploader),
            "createdOn": int(patchset.created),
            "author": self._author(patchset),
            "kind": patchset.kind,
            "sizeInsertions": patchset.insertions + patchset.message_lines,
            "sizeDeletions": patchset.deletions,
        }

    def change(self, change: ChangeRecord) -> Json:
        """A change, as events show it."""
        shown: Json = {"project": change.project, "branch": change.branch}
        if change.topic:
            shown["topic"] = change.topic
        shown |= {
            "id": change.change_id,
            "number": change.number,
            "subject": change.subject,
            "owner": self.account(change.owner),
            "url": self.page(change),
            "commitMessage": change.current.message,
            "createdOn": int(change.created),
            "status": change.status,
        }
        if change.hashtags:
            shown["hashtags"] = list(change.hashtags)
        if change.wip:
            shown["wip"] = True
        if change.private:
            shown["private"] = True
        return shown

    def spelled_out(self, text: str) -> str:
        """A message with names and addresses where REST has the numbers of accounts."""
        names = {str(one.number): f"{one.full_name} <{one.email}>" for one in self._accounts(text)}
        return _TOKEN.sub(lambda found: names.get(found.group(1), found.group(0)), text)

    def _accounts(self, text: str) -> list[AccountRecord]:
        return self._store.accounts() if _TOKEN.search(text) else []

    def row(self, change: ChangeRecord, *, comments: bool, message: bool) -> Json:
        """A change, as `gerrit query` shows it."""
        shown = self.change(change)
        text = shown.pop("commitMessage")
        shown |= {
            "hashtags": list(change.hashtags),
            "createdOn": int(change.created),
            "lastUpdated": int(change.updated),
            "open": change.open,
        }
        if message:
            shown["commitMessage"] = text
        if comments:
            shown["comments"] = [
                {
                    "timestamp": int(one.date),
                    "reviewer": self.account(one.username),
                    "message": self.spelled_out(one.text),
                }
                for one in change.messages
            ]
        return shown

    def row_patchset(
        self,
        change: ChangeRecord,
        patchset: PatchSetRecord,
        files: Sequence[FileChange] | None,
        *,
        votes: bool,
        comments: bool,
    ) -> Json:
        """A patch set, as `gerrit query` shows it: files, votes and remarks if asked for."""
        shown = self.patchset(change, patchset)
        approvals = [
            {
                "type": one.label,
                "description": one.label,
                "value": str(one.value),
                "grantedOn": int(one.granted),
                "by": self.account(one.username),
            }
            for one in change.approvals
            if one.patchset == patchset.number and one.value != 0
        ]
        if approvals and votes:
            shown["approvals"] = approvals
        remarks = [one for one in change.comments if one.patchset == patchset.number]
        if comments and remarks:
            shown["comments"] = [
                {
                    "file": one.path,
                    "line": one.line,
                    "reviewer": self.account(one.username),
                    "message": one.text,
                }
                for one in remarks
            ]
        if files is not None:
            shown["files"] = [
                {
                    "file": "/COMMIT_MSG",
                    "type": "ADDED",
                    "insertions": patchset.message_lines,
                    "deletions": 0,
                },
                *(
                    {
                        "file": one.path,
                        "type": _FILE_TYPES[one.status],
                        "insertions": one.insertions,
                        "deletions": -one.deletions,
                    }
                    for one in files
                ),
            ]
        return shown

    def approvals(
        self, change: ChangeRecord, username: str, patchset: int, old: dict[str, int]
    ) -> list[Json]:
        """Every label of one voter; `oldValue` only where this event changed the vote."""
        rows: list[Json] = []
        for name in LABELS:
            vote = change.vote_of(username, name, patchset)
            row: Json = {
                "type": name,
                "description": name,
                "value": str(vote.value if vote else 0),
            }
            if name in old:
                row["oldValue"] = str(old[name])
            rows.append(row)
        return rows
