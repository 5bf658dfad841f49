# SPDX-License-Identifier: Apache-2.0
"""What operators did, written in the transaction of the deed."""

from datetime import datetime

import sqlalchemy as sa

from ci.store import schema


def note(
    tx: sa.Connection, *, by: str, action: str, subject: str, at: datetime, why: str = ""
) -> None:
    """Write one line of the audit log.

    Args:
        tx: The transaction of the deed itself.
        by: Who, and where from: `ann (command line)`.
        action: A verb: `outbox-retry`, `outbox-drop`, `outbox-release`, `recheck`, `cancel`.
        subject: What it was done to: `review 12`.
        at: When.
        why: What they said of it.
    """
    tx.execute(
        sa.insert(schema.audit).values(at=at, by=by, action=action, subject=subject, note=why)
    )
