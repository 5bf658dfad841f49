# SPDX-License-Identifier: Apache-2.0
"""Notices to test with, ordinary and hostile."""

from datetime import UTC, datetime
from typing import Any

from ci.model.notice import Notice, NoticeKind

AT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
HOSTILE = (
    "Evil\r\nBcc: victim@example.org\r\n\r\nbody \x1b[31mred\x00 \u202egnp.exe \ud800 "
    "<script>alert(1)</script> \u2028 line"
)


def notice(number: int = 1, kind: NoticeKind = NoticeKind.VERDICT, **more: Any) -> Notice:
    """A notice; its key is its number's."""
    fields: dict[str, Any] = {
        "key": f"{kind.value}:{number}",
        "subject": f"acme/virt {number},1: succeeded, Verified +1",
        "text": f"The builds were judged.\nWhere: change {number}.",
        "url": f"https://ci.example.org/changes/{number}/1",
        "facts": {"change": number, "vote": {"label": "Verified", "value": 1}},
        "occurred_at": AT,
    }
    return Notice(kind=kind, **{**fields, **more})
