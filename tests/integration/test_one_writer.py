# SPDX-License-Identifier: Apache-2.0
"""Writers on PostgreSQL wait for each other: ids appear in order, a frozen one is thrown out."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from ci.clock import FakeClock
from ci.store import audit, schema
from ci.store.database import STALLED_S, Database

pytestmark = pytest.mark.integration
HOLDER = """
import sys
from ci.clock import FakeClock
from ci.errors import StorageError
from ci.store import audit
from ci.store.database import Database
database = Database(sys.argv[1])
try:
    with database.write() as tx:
        audit.note(tx, by="frozen", action="test", subject="", at=FakeClock().now())
        print("inside", flush=True)
        sys.stdin.readline()
except StorageError as error:
    print("thrown out", error.retryable, flush=True)
"""


def _note(database: Database, by: str) -> None:
    with database.write() as tx:
        audit.note(tx, by=by, action="test", subject="", at=FakeClock().now())


def _authors(database: Database, after: int = 0) -> list[str]:
    with database.read() as tx:
        query = sa.select(schema.audit.c.by).where(schema.audit.c.id > after)
        return list(tx.execute(query.order_by(schema.audit.c.id)).scalars())


def test_ids_become_visible_in_order(ready_postgresql_url: str):
    """Who walks by id never passes over a row of a transaction that commits later."""
    with closing(Database(ready_postgresql_url)) as one, closing(Database(one.full_url())) as two:
        second = threading.Thread(target=_note, args=(two, "second"))
        with one.write() as tx:
            audit.note(tx, by="first", action="test", subject="", at=FakeClock().now())
            second.start()
            second.join(0.3)
            assert second.is_alive()
            assert _authors(two) == []
        second.join()
        assert _authors(two) == ["first", "second"]


def test_readers_wait_for_nobody(ready_postgresql_url: str):
    with closing(Database(ready_postgresql_url)) as one, one.write() as tx:
        audit.note(tx, by="ann", action="test", subject="", at=FakeClock().now())
        began = time.monotonic()
        assert _authors(one) == []
        assert time.monotonic() - began < STALLED_S / 2


def test_a_frozen_writer_is_thrown_out(ready_postgresql_url: str):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, ready_postgresql_url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with child, closing(Database(ready_postgresql_url)) as database:
        assert child.stdin
        assert child.stdout
        assert child.stdout.readline() == "inside\n"
        os.kill(child.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            _note(database, "alive")
            waited_s = time.monotonic() - began
        finally:
            os.kill(child.pid, signal.SIGCONT)
        child.stdin.write("\n")
        child.stdin.close()
        assert child.stdout.readline() == "thrown out True\n"
        assert STALLED_S / 2 < waited_s < 2.5 * STALLED_S
        assert _authors(database) == ["alive"]
