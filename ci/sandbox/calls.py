# SPDX-License-Identifier: Apache-2.0
"""A REST call and its reply, without the HTTP; and what both of the sandbox's sides share."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ci.sandbox.changes import FORBIDDEN, Refused, Remark, ReviewInput
from ci.sandbox.records import AccountRecord

COMPATIBLE_WITH = "3.10.2"
QUERY_LIMIT = 500
CREATED, NO_CONTENT, BAD_REQUEST = 201, 204, 400


@dataclass(frozen=True, kw_only=True)
class Request:
    """A call, with the path divided at its slashes and decoded.

    Attributes:
        method: GET, POST, PUT or DELETE.
        path: Segments without empty ones and without `a`.
        query: Parameter to its values.
        body: Parsed JSON; None when nothing was sent.
        account: Who is logged in, or None.
    """

    method: str
    path: tuple[str, ...]
    query: Mapping[str, Sequence[str]]
    account: AccountRecord | None
    body: Any = None

    def number(self, name: str, default: int) -> int:
        """A parameter that is a number."""
        given = self.query.get(name, [""])[-1]
        return int(given) if given.isdecimal() else default

    @property
    def fields(self) -> Mapping[str, Any]:
        """The body as an object."""
        if self.body is None:
            return {}
        if not isinstance(self.body, dict):
            raise Refused(BAD_REQUEST, "Invalid application/json in request")
        return self.body

    @property
    def user(self) -> AccountRecord:
        """Who is logged in.

        Raises:
            Refused: Nobody is.
        """
        if self.account is None:
            raise Refused(FORBIDDEN, "Authentication required")
        return self.account

    @property
    def username(self) -> str:
        """Who is logged in; empty for nobody."""
        return self.account.username if self.account is not None else ""

    def words(self, name: str) -> list[str]:
        """A field of the body that is a list of words.

        Raises:
            Refused: It is something else.
        """
        given = self.fields.get(name) or []
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            raise Refused(BAD_REQUEST, "Invalid application/json in request")
        return given


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A status and a JSON value; or, where `text` is not None, just that text.

    With status NO_CONTENT nothing is sent.
    """

    value: Any = None
    status: int = 200
    text: str | None = None


def read_review(fields: Mapping[str, Any]) -> ReviewInput:
    """Read the body of a review; fields that the sandbox has no use for are passed over.

    Raises:
        Refused: A field has another type than Gerrit's.
    """
    labels, comments = fields.get("labels"), fields.get("comments") or {}
    wip = True if fields.get("work_in_progress") else False if fields.get("ready") else None
    try:
        return ReviewInput(
            message=str(fields.get("message") or ""),
            labels=None if labels is None else {str(k): int(v) for k, v in labels.items()},
            tag=str(fields.get("tag") or ""),
            comments=tuple(
                _remark(str(path), one) for path, some in comments.items() for one in some
            ),
            wip=wip,
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise Refused(BAD_REQUEST, "Invalid application/json in request") from error


def _remark(path: str, fields: Mapping[str, Any]) -> Remark:
    return Remark(
        path=path,
        text=str(fields.get("message") or ""),
        line=int(fields.get("line") or 0),
        unresolved=bool(fields.get("unresolved", False)),
    )


def spell(value: Any) -> bytes:
    """A JSON value as Gerrit sends it: after a line that no script can run."""
    return b")]}'\n" + json.dumps(value, separators=(",", ":")).encode() + b"\n"
