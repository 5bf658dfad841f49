# SPDX-License-Identifier: Apache-2.0
"""What both kinds of database promise to the flow."""

import sqlalchemy as sa

from ci.store import schema
from ci.store.database import Database


def test_a_ready_database_has_every_table(database: Database):
    assert set(schema.metadata.tables) <= set(sa.inspect(database.engine).get_table_names())
