# SPDX-License-Identifier: Apache-2.0
"""Reviews by Gerrit's SSH commands, for the times when REST does not answer.

A command line holds nothing but numbers of ours: what others wrote goes by stdin. SSH neither
names the labels that it took nor those that we may vote on, and shows no tags; so each post is
read back, and messages are known by their author and marker.

Source: https://gerrit-review.googlesource.com/Documentation/cmd-review.html
"""

import json
from collections.abc import Callable, Mapping

from ci.errors import ReviewServerError
from ci.gerrit import fields
from ci.gerrit.fields import Json, MalformedEvent
from ci.gerrit.rest import objects
from ci.gerrit.ssh import AccessError
from ci.gerrit.ssh_command import CommandFailed, CommandLost, run
from ci.layout import Connection
from ci.model.review import Review
from ci.reporters.transport import Instead, Invisible, Refused, Seen, Trouble

QUERY = "gerrit query --format=JSON --comments --current-patch-set --all-approvals"
TIMEOUT_S = 30.0
LOGIN_PAUSE_S = 60.0
NO_RIGHT = " is restricted"
NO_SUCH = "no such patch set"

Run = Callable[..., bytes]


class SshTransport:
    """One account's SSH access as a transport.

    Args:
        settings: The connection.
        run_command: Runs one command, as `ci.gerrit.ssh_command.run` does.
    """

    name = "ssh"

    def __init__(self, settings: Connection, run_command: Run = run) -> None:
        self._settings = settings
        self._run = run_command

    def read(self, review: Review) -> Seen:
        """The change that a review is about."""
        return self._seen(self._change(review), review)

    def post(self, review: Review, message: str, labels: Mapping[str, int]) -> Mapping[str, int]:
        """Post a message with votes, and read back which of them the server took."""
        body = {"message": message, "tag": review.tag, "labels": dict(labels)}
        command = f"gerrit review --json {review.change_number:d},{review.patchset:d}"
        self._command(command, json.dumps(body).encode(), sent=True)
        if not labels:
            return {}
        try:
            seen = self.read(review)
        except ReviewServerError as error:
            raise Trouble(
                f"posted by SSH, but not read back: {error.message}", sent=True
            ) from error
        return {review.label: seen.value} if review.label and seen.value else {}

    def _change(self, review: Review) -> Json:
        output = self._command(f"{QUERY} change:{review.change_number:d}", b"", sent=False)
        try:
            rows = [json.loads(line) for line in output.decode().split("\n") if line.strip()]
            found = [r for r in objects({"rows": rows}, "rows") if "type" not in r]
        except (ValueError, RecursionError, MalformedEvent) as error:
            raise Trouble(
                f"SSH answered a query with something that is not JSON: {error}"
            ) from error
        for row in found:
            place = (fields.text(row, "project"), fields.number(row, "number"))
            if place == (review.project, review.change_number):
                return row
        # The search index may have forgotten it: this alone proves nothing.
        raise Invisible(
            f"a query by SSH does not find change {review.change_number} of {review.project}",
            certain=False,
        )

    def _seen(self, row: Json, review: Review) -> Seen:
        current = fields.obj(row, "currentPatchSet")
        _require_revision(row, review)
        return Seen(
            status=fields.line(row, "status"),
            current_patchset=fields.number(current, "number"),
            current_revision=fields.text(current, "revision"),
            comment=self._comment(row, review.marker),
            value=self._value(current, review.label),
            rights=None,
        )

    def _comment(self, row: Json, marker: str) -> str | None:
        for one in objects(row, "comments"):
            text = fields.clean_text(fields.text(one, "message", default=""))
            if marker in text and self._is_ours(one, "reviewer"):
                return text
        return None

    def _value(self, patchset: Json, label: str | None) -> int:
        for one in objects(patchset, "approvals"):
            if one.get("type") == label and self._is_ours(one, "by"):
                return _integer(one, "value")
        return 0

    def _is_ours(self, source: Json, name: str) -> bool:
        return fields.account(source, name).username == self._settings.user

    def _command(self, command: str, stdin: bytes, *, sent: bool) -> bytes:
        try:
            return self._run(self._settings, command, stdin, timeout_s=TIMEOUT_S)
        except CommandFailed as error:
            raise _failed(error, sent=sent) from error
        except ReviewServerError as error:
            away = isinstance(error, AccessError)
            raise Trouble(
                error.message,
                hint=error.hint,
                sent=sent and isinstance(error, CommandLost),
                slow=isinstance(error, CommandLost) and error.slow,
                instead=Instead.AT_ONCE,
                whole_server=True,
                pause_s=LOGIN_PAUSE_S if away else 0.0,
            ) from error


def _integer(source: Json, name: str) -> int:
    """A vote, which this interface writes as a string."""
    value = fields.line(source, name)
    try:
        return int(value)
    except ValueError as error:
        raise MalformedEvent(f"{name} is {value[:40]!r}, not a vote") from error


def _require_revision(row: Json, review: Review) -> None:
    """A patch set is named by its number here: make sure that it is the commit we tested."""
    for one in objects(row, "patchSets"):
        if one.get("number") == review.patchset and one.get("revision") != review.revision:
            raise Refused(
                f"patch set {review.change_number},{review.patchset} on the server is another"
                f" commit than {review.revision}, which was tested"
            )


def _failed(error: CommandFailed, *, sent: bool) -> ReviewServerError:
    if sent and NO_RIGHT in error.said:
        return Refused(error.message, no_right=True)
    if sent and NO_SUCH in error.said:
        return Refused(error.message)
    return Trouble(error.message, sent=sent)
