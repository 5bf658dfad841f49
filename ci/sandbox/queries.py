# SPDX-License-Identifier: Apache-2.0
"""Gerrit's query language, the part that a CI uses; pure.

Terms stand side by side (and), with `OR`, `AND`, `-` or `NOT`, and brackets. Operators:
status is project branch change owner topic hashtag message label after since before until
limit, a bare change number or Change-Id.
"""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from ci.errors import HypervouchError
from ci.sandbox.labels import LABELS
from ci.sandbox.records import ChangeRecord

Predicate = Callable[[ChangeRecord], bool]
_TOKEN = re.compile(r'\(|\)|-?[a-z]+:(?:"[^"]*"?|\{[^}]*\}?|[^\s()]+)|"[^"]*"?|[^\s()]+')
_TIME_FORMATS = ("%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d")
_VOTE = re.compile(r"([A-Za-z][\w-]*?)([<>]=?|=)?([+-]?\d+|MAX|MIN)(?:,(?:user=)?([^,]+))?")
_COMPARED: dict[str, Callable[[int, int], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CLOSED = frozenset({"MERGED", "ABANDONED"})
MAX_DEPTH = 20


class BadQuery(HypervouchError):
    """The query is not understood."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """A parsed query: what matches, and at most how many (None: the server's limit)."""

    matches: Predicate
    limit: int | None = None


def parse(text: str) -> Query:
    """Read a query; an empty one matches everything.

    Raises:
        BadQuery: With Gerrit's own words where it has some.
    """
    reader = _Reader(_TOKEN.findall(text.replace("\n", " ")))
    matches = reader.alternatives(0)
    if reader.token() is not None:
        raise BadQuery(f"unexpected {reader.token()!r} in the query")
    return Query(matches=matches, limit=reader.limit)


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self.limit: int | None = None

    def token(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def alternatives(self, depth: int) -> Predicate:
        if depth > MAX_DEPTH:
            raise BadQuery("the query is nested too deeply")
        options = [self._together(depth)]
        while self.token() == "OR":
            self._at += 1
            options.append(self._together(depth))
        return lambda change: any(one(change) for one in options)

    def _together(self, depth: int) -> Predicate:
        terms: list[Predicate] = []
        while (token := self.token()) not in {None, ")", "OR"}:
            if token != "AND":  # noqa: S105
                terms.append(self._term(depth))
            else:
                self._at += 1
        return lambda change: all(one(change) for one in terms)

    def _term(self, depth: int) -> Predicate:
        token = self._tokens[self._at]
        self._at += 1
        if token in {"-", "NOT"} and self.token() is not None:
            return _not(self._term(depth))
        if token == "(":  # noqa: S105
            inside = self.alternatives(depth + 1)
            if self.token() != ")":
                raise BadQuery("a bracket is not closed in the query")
            self._at += 1
            return inside
        if token.startswith("-") and ":" in token:
            return _not(self._operator(token[1:]))
        return self._operator(token)

    def _operator(self, token: str) -> Predicate:
        name, colon, value = token.partition(":")
        if not colon:
            return _bare(token.strip('"'))
        value = value.strip('"').removeprefix("{").removesuffix("}")
        if name == "limit":
            if not value.isdecimal():
                raise BadQuery(f"Invalid limit: {value}")
            if int(value) < 1:
                raise BadQuery(f"limit must be positive: {value}")
            self.limit = int(value)
            return lambda _change: True
        return _predicate(name, value)


def _not(inner: Predicate) -> Predicate:
    return lambda change: not inner(change)


def _bare(word: str) -> Predicate:
    if word.isdecimal():
        return lambda change: change.number == int(word)
    if re.fullmatch(r"I[0-9a-f]{6,40}", word):
        return lambda change: change.change_id.startswith(word)
    raise BadQuery(f"Unsupported query: {word}")


def _status(value: str) -> Predicate:
    word = value.upper()
    if word in {"OPEN", "PENDING", "NEW"}:
        return lambda change: change.open
    if word == "CLOSED":
        return lambda change: change.status in _CLOSED
    if word in _CLOSED:
        return lambda change: change.status == word
    if word == "WIP":
        return lambda change: change.wip
    if word == "PRIVATE":
        return lambda change: change.private
    raise BadQuery(f"Unrecognized value: {value}")


def _change(value: str) -> Predicate:
    project, tilde, number = value.rpartition("~")
    if not tilde:
        return _bare(value)
    if not number.isdecimal():
        raise BadQuery(f"Invalid change: {value}")
    return lambda change: (change.project, change.number) == (project, int(number))


def _message(value: str) -> Predicate:
    """All of these words stand in the commit message."""
    wanted = _words(value)
    return lambda change: wanted <= _words(change.current.message)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _label(value: str) -> Predicate:
    """`NAME=N`, `NAME+N`, `NAME>=N`, ... on the current patch set, by `,user=NAME` or anybody."""
    found = _VOTE.fullmatch(value)
    if found is None:
        raise BadQuery(f"Invalid label query: {value}")
    name, sign, wanted, who = found.groups()
    label = LABELS.get(name)
    if label is None:
        return lambda _change: False
    number = {"MAX": label.highest, "MIN": label.lowest}.get(wanted)
    number = int(wanted) if number is None else number
    holds = _COMPARED[sign or "="]

    def matches(change: ChangeRecord) -> bool:
        given = [
            one.value
            for one in change.approvals
            if (one.label, one.patchset) == (name, change.current.number)
            and who in {None, one.username}
        ]
        return any(holds(one, number) for one in given or [0])

    return matches


def _predicate(name: str, value: str) -> Predicate:
    if name in {"after", "since"}:
        moment = parse_time(value)
        return lambda change: change.updated >= moment
    if name in {"before", "until"}:
        moment = parse_time(value)
        return lambda change: change.updated <= moment
    simple: dict[str, Predicate] = {
        "project": lambda change: change.project == value,
        "p": lambda change: change.project == value,
        "projects": lambda change: change.project.startswith(value),
        "branch": lambda change: change.branch == value.removeprefix("refs/heads/"),
        "topic": lambda change: change.topic == value,
        "owner": lambda change: change.owner == value,
        "hashtag": lambda change: value.lstrip("#").lower() in map(str.lower, change.hashtags),
    }
    if name in simple:
        return simple[name]
    if name in {"message", "label"}:
        return _message(value) if name == "message" else _label(value)
    if name in {"status", "is"}:
        return _status(value)
    if name == "change":
        return _change(value)
    raise BadQuery(f"Unsupported operator {name}:{value}")


def parse_time(value: str) -> float:
    """A time in Gerrit's spelling, UTC without a zone, as epoch seconds.

    Raises:
        BadQuery: It is not one.
    """
    for pattern in (*_TIME_FORMATS, *(f"{one} %z" for one in _TIME_FORMATS)):
        try:
            found = datetime.strptime(value, pattern)  # noqa: DTZ007
        except ValueError:
            continue
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    raise BadQuery(f"Invalid timestamp: {value}")
