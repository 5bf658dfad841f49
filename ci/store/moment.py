# SPDX-License-Identifier: Apache-2.0
"""One clock for rows that several machines compare: the database server's own."""

from datetime import datetime

import sqlalchemy as sa

from ci.clock import Clock


def moment(tx: sa.Connection, clock: Clock) -> datetime:
    """The time, aware, UTC: PostgreSQL's, or on SQLite, which is one machine's, our clock's."""
    if tx.dialect.name == "sqlite":
        return clock.now()
    found: datetime = tx.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return found
