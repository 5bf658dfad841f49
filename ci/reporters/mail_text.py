# SPDX-License-Identifier: Apache-2.0
"""The mail that tells notices; pure. Hostile text can end no header and start none."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from ci.model.notice import Notice

ADDRESS = re.compile(r"[A-Za-z0-9._%+=-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){0,8}")
SUBJECT_CHARACTERS = 180
RULE = "-" * 72


def compose(
    notices: Sequence[Notice], *, sender: str, to: Sequence[str], at: datetime
) -> EmailMessage:
    """One mail about all these notices.

    Its Message-ID depends on the notices alone: a repeat is the same mail to whoever reads
    it. A mail about several names each one's own id as a reference, so that repeats in other
    company are shown in one thread.
    """
    domain = sender.rpartition("@")[2]
    ids = [_message_id([notice], domain) for notice in notices]
    mail = EmailMessage(policy=SMTP)
    mail["From"] = sender
    mail["To"] = ", ".join(to)
    mail["Subject"] = f"[hypervouch] {_subject(notices)}"[:SUBJECT_CHARACTERS]
    mail["Date"] = format_datetime(at)
    mail["Message-ID"] = _message_id(notices, domain)
    if len(ids) > 1:
        mail["References"] = " ".join(ids)
    # No holiday reply to a machine.
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Hypervouch-Notice"] = ", ".join(sorted({notice.kind.value for notice in notices}))
    mail.set_content(_body(notices))
    return mail


def _message_id(notices: Sequence[Notice], domain: str) -> str:
    keys = "\n".join(notice.key for notice in notices)
    digest = hashlib.sha256(keys.encode("utf-8", "replace")).hexdigest()
    return f"<hypervouch.{digest[:32]}@{domain}>"


def _subject(notices: Sequence[Notice]) -> str:
    if len(notices) == 1:
        return _one_line(notices[0].subject)
    kinds = Counter(notice.kind.value for notice in notices)
    said = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"{len(notices)} notices: {said}"


def _body(notices: Sequence[Notice]) -> str:
    parts = [_part(notice) for notice in notices]
    if len(parts) == 1:
        return parts[0]
    contents = "\n".join(f"- {_one_line(notice.subject)}" for notice in notices)
    return f"\n{RULE}\n\n".join([f"{contents}\n", *parts])


def _part(notice: Notice) -> str:
    when = notice.occurred_at.strftime("%Y-%m-%d %H:%M:%S UTC")
    lines = [_one_line(notice.subject), when, "", *map(_printable, notice.text.split("\n"))]
    if notice.url and notice.url not in notice.text:
        lines += ["", _one_line(notice.url)]
    return "\n".join(lines) + "\n"


def _one_line(text: str) -> str:
    return " ".join(_printable(text).split())


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text)
