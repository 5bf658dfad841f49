# SPDX-License-Identifier: Apache-2.0
"""tests/unit/test_worker.py, over PostgreSQL."""

from ci.store import schema
from ci.store.moment import moment
from tests.kit.again import again
from tests.kit.core import rows
from tests.unit.test_worker import run, site

globals().update(again("tests.unit.test_worker"))


def test_a_review_is_due_by_the_databases_clock_whatever_the_workers_says(tmp_path):
    made = site(tmp_path)
    with made.database.read() as tx:
        began = moment(tx, made.clock)
    made.clock.advance(2 * 365 * 86_400.0)
    run(made)
    (row,) = rows(made.database, schema.outbox)
    with made.database.read() as tx:
        assert began <= row.next_at <= moment(tx, made.clock)
