# SPDX-License-Identifier: Apache-2.0
"""Hostile JSON, read field by field: right types, bounded, and free of control characters."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ci.clock import from_epoch
from ci.errors import ReviewServerError
from ci.model.change import (
    CHANGE_ID,
    REVISION,
    Change,
    Patchset,
    valid_branch,
    valid_project,
    valid_ref,
)
from ci.model.event import Account, Approval

LINE_LIMIT = 500
"""Characters kept of a subject, a name, a topic or a URL."""
TEXT_LIMIT = 16_384
"""Characters kept of a comment: Gerrit's own limit, so nothing real is cut."""
MESSAGE_LIMIT = 8_000
"""Characters kept of a commit message: filters search it, nobody shows it whole."""
MOST_HASHTAGS = 100
MOST_APPROVALS = 100
MOST_VOTE = 100
LAST_EPOCH_S = 253_402_300_799
MAX_NUMBER = 2**31 - 1
HEADS = "refs/heads/"

_LINE_END = re.compile("\r\n?|[\v\f\x1c-\x1e\x85\u2028\u2029]")
# Controls, lone surrogates, and the marks that reorder text to show what is not there.
_UNWANTED = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

Json = Mapping[str, Any]


class MalformedEvent(ReviewServerError):
    """What the server said cannot be read as what it should be; nothing is stored of it."""


def clean_text(value: str, limit: int = TEXT_LIMIT) -> str:
    """Text of several lines: every line end a newline, no control characters, bounded."""
    return _UNWANTED.sub("", _LINE_END.sub("\n", value[: 2 * limit]))[:limit]


def clean_line(value: str, limit: int = LINE_LIMIT) -> str:
    """Text of one line: whatever would end or bend it becomes a blank, bounded."""
    if value.isascii() and value.isprintable():  # nearly always: nothing to take out
        return " ".join(value[: 2 * limit].split())[:limit].rstrip()
    return " ".join(clean_text(value, 2 * limit).split())[:limit].rstrip()


def obj(source: Json, name: str) -> Json:
    """A member that must be an object.

    Raises:
        MalformedEvent: It is missing or something else.
    """
    value = source.get(name)
    if not isinstance(value, dict):
        raise MalformedEvent(f"{name} is {_kind(value)}, not an object")
    return value


def text(source: Json, name: str, *, default: str | None = None) -> str:
    """A member that must be a string; `default` stands in for a missing one.

    Raises:
        MalformedEvent: It is missing without a default, or no string.
    """
    value = source.get(name, default)
    if not isinstance(value, str):
        raise MalformedEvent(f"{name} is {_kind(value)}, not a string")
    return value


def line(source: Json, name: str, *, default: str = "") -> str:
    """A cleaned one-line string that may be missing.

    Raises:
        MalformedEvent: It is there and no string.
    """
    return clean_line(text(source, name, default=default))


def number(source: Json, name: str) -> int:
    """A positive number, also when written as a string of digits, as older servers do.

    Raises:
        MalformedEvent: It is missing, something else, or out of range.
    """
    value = source.get(name)
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_NUMBER:
        raise MalformedEvent(f"{name} is {_kind(value)}, not a positive number")
    return value


def flag(source: Json, name: str) -> bool:
    """Whether a member is there and true."""
    return source.get(name) is True


def epoch(source: Json, name: str) -> datetime:
    """Epoch seconds as an aware UTC time, cut to whole seconds.

    Raises:
        MalformedEvent: It is missing, no number, or no time that a calendar knows.
    """
    value = source.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LAST_EPOCH_S:
        raise MalformedEvent(f"{name} is {_kind(value)}, not epoch seconds")
    return from_epoch(value)


def rest_time(source: Json, name: str) -> datetime:
    """A REST timestamp (UTC, `2026-11-22 15:28:04.000000000`), cut to whole seconds.

    Raises:
        MalformedEvent: It is missing or no such timestamp.

    Source: https://gerrit-review.googlesource.com/Documentation/rest-api.html#timestamp
    """
    value = text(source, name)
    try:
        return datetime.strptime(value[:19], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError as error:
        raise MalformedEvent(f"{name} is no timestamp: {value[:40]!r}") from error


def account(source: Json, name: str) -> Account:
    """Who did it; all empty where the server hides it.

    Raises:
        MalformedEvent: It is there and no account.
    """
    if source.get(name) is None:
        return Account()
    value = obj(source, name)
    return Account(
        username=line(value, "username"), name=line(value, "name"), email=line(value, "email")
    )


def project(source: Json, name: str = "project") -> str:
    """A project name that is safe in a path, a URL and a git argument.

    Raises:
        MalformedEvent: It is missing or unsafe.
    """
    value = text(source, name)
    if not valid_project(value):
        raise MalformedEvent(f"{name} is not a safe project name: {value[:80]!r}")
    return value


def objects(source: Json, name: str) -> list[Json]:
    """A member that must be a list of objects; empty where it is missing.

    Raises:
        MalformedEvent: It is something else.
    """
    value = source.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise MalformedEvent(f"{name} is not a list of objects")
    return value


def branch(value: str) -> str:
    """A branch's short name, safe in a path, a URL and a git argument.

    Raises:
        MalformedEvent: It is unsafe.
    """
    short = value.removeprefix(HEADS)
    if not valid_branch(short):
        raise MalformedEvent(f"branch is not a safe branch name: {short[:80]!r}")
    return short


def hashtags(source: Json) -> tuple[str, ...]:
    """A change's hashtags, cleaned, the first hundred.

    Raises:
        MalformedEvent: They are there and no list of strings.
    """
    value = [] if source.get("hashtags") is None else source["hashtags"]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise MalformedEvent("hashtags is not a list of strings")
    cleaned = (clean_line(one, 200) for one in value[:MOST_HASHTAGS])
    return tuple(one for one in cleaned if one)


def vote(source: Json, name: str) -> int:
    """A vote's value, which events write as a string and REST as a number.

    Raises:
        MalformedEvent: It is missing, something else, or out of all range.
    """
    value = source.get(name)
    if isinstance(value, str) and re.fullmatch(r" ?[+-]?[0-9]{1,3}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MOST_VOTE:
        raise MalformedEvent(f"{name} is {_kind(value)}, not a vote")
    return value


def approvals(source: Json, by: Account, at: datetime) -> tuple[Approval, ...]:
    """The votes that an event lists, without labels that its author never voted on.

    Args:
        source: The event.
        by: Whose votes they are.
        at: When the event happened: what it changed was given then.

    Raises:
        MalformedEvent: They are there and not what Gerrit writes.
    """
    found = []
    for one in objects(source, "approvals")[:MOST_APPROVALS]:
        label, value = clean_line(text(one, "type"), 100), vote(one, "value")
        changed = one.get("oldValue") is not None
        if label and (changed or value):
            found.append(
                Approval(
                    label=label,
                    value=value,
                    by=by,
                    changed=changed,
                    granted_at=at if changed else None,
                )
            )
    return tuple(found)


def change(
    source: Json, *, number_name: str, id_name: str, url: str | None = None, message: str = ""
) -> Change:
    """A change as an event or a REST reply shows it.

    Args:
        source: The change's object.
        number_name: Which member holds its number.
        id_name: Which member holds its Change-Id.
        url: Its page, where the object does not name it.
        message: Its commit message, where the object does not hold it.

    Raises:
        MalformedEvent: A member that later steps rely on is missing or unsafe.
    """
    change_id = text(source, id_name)
    if not CHANGE_ID.fullmatch(change_id):
        raise MalformedEvent(f"{id_name} is not a Change-Id: {change_id[:80]!r}")
    owner = account(source, "owner")
    return Change(
        project=project(source),
        branch=branch(text(source, "branch")),
        number=number(source, number_name),
        change_id=change_id,
        subject=line(source, "subject"),
        owner=owner.username or owner.name,
        url=url if url is not None else web_url(line(source, "url")),
        status=line(source, "status", default="NEW"),
        wip=flag(source, "wip") or flag(source, "work_in_progress"),
        private=flag(source, "private") or flag(source, "is_private"),
        topic=line(source, "topic"),
        hashtags=hashtags(source),
        owner_email=owner.email,
        message=clean_text(text(source, "commitMessage", default=message), MESSAGE_LIMIT),
    )


def web_url(value: str) -> str:
    """The value if it is a web address, otherwise nothing."""
    return value if re.fullmatch(r"https?://[^\s\"'<>\\]+", value) else ""


def patchset(source: Json, *, of: int, number_name: str, revision: str) -> Patchset:
    """A patch set as an event or a REST reply shows it.

    Args:
        source: The patch set's object.
        of: Number of its change, which its ref must name.
        number_name: Which member holds its number.
        revision: Its commit id, which REST keeps outside of the object.

    Raises:
        MalformedEvent: Its revision or ref is missing or not what Gerrit would give it.
    """
    which, ref = number(source, number_name), text(source, "ref")
    if not REVISION.fullmatch(revision):
        raise MalformedEvent(f"revision is not a commit id: {revision[:80]!r}")
    if not valid_ref(ref, number=of, patchset=which):
        raise MalformedEvent(f"ref does not belong to patch set {of},{which}: {ref[:80]!r}")
    uploader = account(source, "uploader")
    return Patchset(
        number=which,
        revision=revision,
        ref=ref,
        kind=line(source, "kind", default="REWORK"),
        uploader=uploader.username or uploader.name,
    )


def _kind(value: object) -> str:
    names = {type(None): "missing", dict: "an object", list: "a list", str: "a string"}
    return names.get(type(value)) or repr(value)[:40]
