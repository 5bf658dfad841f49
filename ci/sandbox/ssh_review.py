# SPDX-License-Identifier: Apache-2.0
"""`gerrit review`: a review given on the command line, or as JSON on standard input."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ci.errors import HypervouchError
from ci.sandbox.calls import read_review
from ci.sandbox.changes import Changes, Refused, ReviewInput
from ci.sandbox.labels import LABELS
from ci.sandbox.records import ChangeRecord
from ci.sandbox.ssh import Session

MAX_INPUT_BYTES = 1 << 20
_PATCH_SET = re.compile(r"(\d{1,9}),(\d{1,6})")
_REVISION = re.compile(r"[0-9a-f]{7,40}")


class BadReview(HypervouchError):
    """The command line, or its input, is not understood."""


@dataclass(kw_only=True)
class ReviewLine:
    """The words after `gerrit review`, read.

    Attributes:
        json: The review comes by standard input.
        message: Text, where it does not.
        tag: For messages of programs.
        labels: Votes asked for.
        targets: Patch sets, as `CHANGE,PATCHSET` or commit ids.
    """

    json: bool = False
    message: str = ""
    tag: str = ""
    labels: dict[str, int] = field(default_factory=dict)
    targets: list[str] = field(default_factory=list)


def read_line(words: Sequence[str]) -> ReviewLine:
    """Read the words.

    Raises:
        BadReview: An option that does not exist, or two that exclude each other.
    """
    line, left = ReviewLine(), iter(words)
    votes = {f"--{name.lower()}": name for name in LABELS}
    for word in left:
        name, equals, value = word.partition("=")
        if word in {"--json", "-j"}:
            line.json = True
        elif not word.startswith("-"):
            line.targets.append(word)
        elif name in {"--message", "-m"}:
            line.message = value if equals else next(left, "")
        elif name in {"--tag", "-t"}:
            line.tag = value if equals else next(left, "")
        elif name in votes:
            line.labels[votes[name]] = _vote(value if equals else next(left, ""))
        elif name in {"--label", "-l"}:
            label, _, number = (word.split("=", 1)[1] if equals else next(left, "")).partition("=")
            line.labels[label] = _vote(number)
        else:
            raise BadReview(f'"{word}" is not a valid option')
    if line.json and line.message:
        raise BadReview("json and message are mutually exclusive")
    return line


def _vote(text: str) -> int:
    if re.fullmatch(r"[+-]?\d{1,3}", text) is None:
        raise BadReview(f'"{text}" is not a valid vote')
    return int(text)


def review(changes: Changes, session: Session, words: Sequence[str]) -> int:
    """Carry out the command; returns its exit status.

    Raises:
        BadReview: The command line or its input is not understood, or names no patch set.
    """
    line = read_line(words)
    targets = [_find(changes, one, session.username) for one in line.targets]
    if not targets:
        raise BadReview('Argument "{COMMIT | CHANGE,PATCHSET}" is required')
    said = ReviewInput(message=line.message, tag=line.tag, labels=line.labels or None)
    if line.json:
        said = _from_input(session)
    account = changes.store.account(session.username)
    if account is None:
        raise BadReview(f"unknown account {session.username}")
    for change, patchset in targets:
        try:
            changes.review(change.number, patchset, account, said)
        except Refused as refusal:
            session.complain(f"error: {refusal.message}\n")
            raise BadReview("one or more reviews failed; review output above") from refusal
    return 0


def _from_input(session: Session) -> ReviewInput:
    text = b""
    while data := session.read():
        text += data
        if len(text) > MAX_INPUT_BYTES:
            raise BadReview("internal error while reading review input")
    try:
        parsed: Any = json.loads(text) if text.strip() else {}
        if not isinstance(parsed, dict):
            raise BadReview("internal error while reading review input")
        return read_review(parsed)
    except (ValueError, RecursionError, Refused) as error:
        session.complain(f"error: {error}\n")
        raise BadReview("internal error while reading review input") from error


def _find(changes: Changes, target: str, username: str) -> tuple[ChangeRecord, int]:
    pair = _PATCH_SET.fullmatch(target)
    if pair is not None:
        change = changes.store.change(int(pair.group(1)))
        if change is None or not change.visible_to(username):
            raise BadReview(f'"{pair.group(1)}" no such change')
        if change.patchset(int(pair.group(2))) is None:
            raise BadReview(f'"{target}" no such patch set')
        return change, int(pair.group(2))
    if _REVISION.fullmatch(target):
        for change in changes.store.changes():
            for one in change.patchsets:
                if one.revision.startswith(target) and change.visible_to(username):
                    return change, one.number
    raise BadReview(f'"{target}" no such patch set')
