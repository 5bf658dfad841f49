# SPDX-License-Identifier: Apache-2.0
"""The sandbox's rules without a server: three accounts, one change, and what is told of it."""

import json
from pathlib import Path
from typing import Any

from ci.clock import FakeClock
from ci.sandbox.changes import Changes, ReviewInput
from ci.sandbox.events import Announcer, Stream
from ci.sandbox.records import AccountRecord, ChangeRecord, PatchSetRecord
from ci.sandbox.repositories import Repositories
from ci.sandbox.shapes import Shapes
from ci.sandbox.store import Store

URL = "http://127.0.0.1:8080"
OWNER = AccountRecord(number=1, username="ada", full_name="Ada", email="ada@example.com")
CI = AccountRecord(
    number=2, username="ci", full_name="Hypervouch CI", email="ci@example.com", vote=True
)
ADMIN = AccountRecord(number=0, username="root", full_name="Root", email="r@e.org", admin=True)


def a_patchset(number: int = 1, kind: str = "REWORK") -> PatchSetRecord:
    """A patch set by Ada."""
    return PatchSetRecord(
        number=number,
        revision=str(number) * 40,
        parents=("0" * 40,),
        uploader="ada",
        author_name="Ada",
        author_email="ada@example.com",
        created=0.0,
        kind=kind,
        insertions=1,
        deletions=0,
        message="Fix\n\nChange-Id: I1\n",
    )


class Desk:
    """The rules over a store on disk, with the events that they sent."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory / "sandbox.sqlite")
        for account in (OWNER, CI, ADMIN):
            self.store.save_account(account)
        stream = Stream()
        self._follower = stream.follow(())
        self.changes = Changes(
            self.store,
            Repositories(directory / "git"),
            Announcer(stream, Shapes(self.store, URL)),
            FakeClock(),
        )
        self.store.save_change(
            ChangeRecord(
                number=1,
                project="acme",
                branch="master",
                change_id="I" + "1" * 40,
                owner="ada",
                created=0.0,
                updated=0.0,
                patchsets=(a_patchset(),),
            )
        )

    def vote(self, value: int, *, by: AccountRecord = CI, text: str = "done") -> object:
        """Vote Verified on the one patch set."""
        return self.changes.review(
            1, 1, by, ReviewInput(message=text, labels={"Verified": value}, tag="t")
        )

    @property
    def change(self) -> ChangeRecord:
        """The one change, as it is now."""
        found = self.store.change(1)
        assert found is not None
        return found

    def events(self) -> list[dict[str, Any]]:
        """What was told since the last time, metadata aside."""
        found = []
        while line := self._follower.take(0.0):
            event = json.loads(line)
            if event["type"] != "ref-updated":
                found.append(event)
        return found
