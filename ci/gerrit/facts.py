# SPDX-License-Identifier: Apache-2.0
"""A change as the server knows it now, with the votes that were given to its current patch set.

Gerrit copies votes to later patch sets, and a copy bears the date at which it was made: that of
the upload, or a later one where somebody voted on an old patch set afterwards. What tells a copy
from a vote is the change's messages: who votes leaves one, on the patch set that was voted on.

Source: tests/integration/test_copied_votes.py, against a real server.
"""

import re
from dataclasses import replace

from ci.gerrit import fields
from ci.gerrit.fields import Json, MalformedEvent
from ci.gerrit.rest import GerritRest, objects
from ci.model.change import Change
from ci.model.event import Account, Approval
from ci.model.facts import ChangeFacts

OPTIONS = (
    "CURRENT_REVISION",
    "CURRENT_COMMIT",
    "DETAILED_LABELS",
    "DETAILED_ACCOUNTS",
    "MESSAGES",
)
MESSAGE_LIMIT = 8_000
HASHTAGS_MOST = 100
# The first line is the server's own: what people write begins in the third.
_VOTED = re.compile(r"(?:Patch Set|Uploaded patch set) (\d{1,6}): ([^\n]{1,4000})")


def change_facts(rest: GerritRest, project: str, number: int) -> ChangeFacts:
    """Ask for a change.

    Raises:
        RestError: The server refused; 404 for a change that is gone or hidden from us.
        ReviewServerError: It did not answer, or said what cannot be read.
    """
    source = rest.change(project, number, OPTIONS)
    page = f"{rest.settings.url}c/{project}/+/{number}"
    return read_facts(source, page)


def read_facts(source: Json, url: str) -> ChangeFacts:
    """A ChangeInfo with OPTIONS as facts.

    Args:
        source: What the server said.
        url: The change's page.

    Raises:
        MalformedEvent: A member that later steps rely on is missing or unsafe.
    """
    change = fields.change(source, number_name="_number", id_name="change_id", url=url)
    revision = fields.text(source, "current_revision")
    current = fields.obj(fields.obj(source, "revisions"), revision)
    patchset = fields.patchset(current, of=change.number, number_name="_number", revision=revision)
    given, copied = _approvals(source, patchset.number)
    return ChangeFacts(
        change=_whole(change, source, current),
        patchset=patchset,
        uploaded_at=fields.rest_time(current, "created"),
        approvals=given,
        copied=copied,
    )


def _whole(change: Change, source: Json, current: Json) -> Change:
    """The change with what only a query of this detail shows."""
    message = fields.text(fields.obj(current, "commit"), "message", default="")
    tags = source.get("hashtags") or []
    if not isinstance(tags, list):
        raise MalformedEvent("hashtags is not a list")
    named = tuple(fields.clean_line(tag) for tag in tags[:HASHTAGS_MOST] if isinstance(tag, str))
    return replace(
        change,
        hashtags=named,
        owner_email=fields.account(source, "owner").email,
        message=fields.clean_text(message, MESSAGE_LIMIT),
    )


def _approvals(source: Json, patchset: int) -> tuple[tuple[Approval, ...], tuple[Approval, ...]]:
    """The votes that stand: those given to this patch set, and those copied to it."""
    votes = _votes_told(source, patchset)
    given: list[Approval] = []
    copied: list[Approval] = []
    labels = source.get("labels")
    for label, detail in (labels if isinstance(labels, dict) else {}).items():
        for one in objects(detail, "all") if isinstance(detail, dict) else ():
            value = one.get("value")
            if not isinstance(value, int) or not value:
                continue
            vote = Approval(
                label=fields.clean_line(label),
                value=value,
                by=_account(one),
                granted_at=fields.rest_time(one, "date") if one.get("date") else None,
            )
            told = (_who(one), f"{vote.label}{value:+d}", vote.granted_at) in votes
            (given if told else copied).append(vote)
    return tuple(given), tuple(copied)


def _votes_told(source: Json, patchset: int) -> set[tuple[object, str, object]]:
    """(account, vote, date) as the messages on this patch set tell them.

    A vote and its message are written at once, so they bear the same date.
    """
    found: set[tuple[object, str, object]] = set()
    for message in objects(source, "messages"):
        first = _VOTED.match(fields.text(message, "message", default=""))
        if message.get("_revision_number") != patchset or first is None:
            continue
        if int(first[1]) != patchset or not isinstance(message.get("author"), dict):
            continue
        who, at = _who(message["author"]), fields.rest_time(message, "date")
        found |= {(who, word.rstrip(".,"), at) for word in first[2].split()}
    return found


def _who(source: Json) -> object:
    number = source.get("_account_id")
    return number if isinstance(number, int) else _account(source)


def _account(source: Json) -> Account:
    return fields.account({"by": source}, "by")
