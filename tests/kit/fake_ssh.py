# SPDX-License-Identifier: Apache-2.0
"""The SSH commands of a Gerrit that exists only in `fake_rest`: query and review, no socket."""

import json
import re
from typing import Any

from ci.gerrit.ssh_command import CommandFailed, CommandLost
from ci.layout import Connection
from tests.kit.fake_rest import CI, REVISIONS, FakeChange


class FakeSsh:
    """Runs a command on change 7, as `ci.gerrit.ssh_command.run` does.

    Args:
        change: The change.
        fail: What the next commands raise, in order; None for an ordinary answer.
    """

    def __init__(self, change: FakeChange, fail: list[Exception | None] | None = None) -> None:
        self.change = change
        self.fail = fail or []
        self.commands: list[str] = []

    def __call__(
        self, settings: Connection, command: str, stdin: bytes = b"", *, timeout_s: float
    ) -> bytes:
        """Run one command."""
        del settings, timeout_s
        self.commands.append(command)
        error = self.fail.pop(0) if self.fail else None
        if error is not None:
            raise error
        if command.startswith("gerrit query --format=JSON "):
            return self._query()
        found = re.fullmatch(r"gerrit review --json 7,([0-9]+)", command)
        assert found, command
        return self._review(int(found.group(1)), json.loads(stdin))

    def _query(self) -> bytes:
        rows: list[dict[str, Any]] = [] if self.change.deleted else [self._row()]
        rows.append({"type": "stats", "rowCount": len(rows)})
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    def _row(self) -> dict[str, Any]:
        change = self.change
        patchsets = [
            {"number": number, "revision": revision}
            for number, revision in enumerate(REVISIONS[: change.current], 1)
        ]
        votes = [
            {"type": name, "value": str(value), "by": {"username": CI}}
            for name, value in change.votes.items()
        ]
        return {
            "project": "hv/demo",
            "number": 7,
            "status": change.status,
            "comments": [
                {"reviewer": one["author"], "message": one["message"]} for one in change.messages
            ],
            "currentPatchSet": patchsets[-1] | ({"approvals": votes} if votes else {}),
            "patchSets": patchsets,
        }

    def _review(self, number: int, body: dict[str, Any]) -> bytes:
        change = self.change
        if change.refuses(body):
            said = 'error: Applying label "Verified": 1 is restricted fatal: one or more failed'
            raise CommandFailed(f"review ended with 1: {said}", status=1, said=said)
        change.take(number, body)
        if change.lose_answers:
            change.lose_answers -= 1
            raise CommandLost("review.example.org broke off")
        return b""
