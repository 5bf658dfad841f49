# SPDX-License-Identifier: Apache-2.0
"""Rows of an installation of four processes: one silent, one stopped, one of another version."""

from datetime import timedelta

import sqlalchemy as sa

from ci.store import processes, schema
from ci.store.database import Database
from tests.kit.rows import NOW, ago

PROCESSES = (
    ("ci-lab1-4f21aa", ("listen", "work", "relay", "web"), "0.1.0", 7, "running"),
    ("ci-lab2-90c3de", ("work",), "0.1.0", 12, "draining"),
    ("worker-with-a-rather-long-name.lab.example.org", ("work",), "0.0.9", 900, "running"),
    ("web-old", ("web",), "0.1.0", 86_400, "stopped"),
)
LEASES = (("chores", 0), ("listen:review", 0), ("relay:review", 0), ("notify:mail", 2))


def fill_processes(database: Database) -> None:
    """Processes, what they lead, and who runs the running builds."""
    with database.write() as tx:
        for name, roles, version, late_s, state in PROCESSES:
            processes.register(
                tx,
                name=name,
                incarnation="1",
                roles=roles,
                host=f"{name[:7]}.example.org",
                pid=4711,
                version=version,
                slots=4 if "work" in roles else 0,
                at=ago(late_s),
            )
            processes.set_state(tx, name, state)
        for token, (lease, holder) in enumerate(LEASES, start=1):
            tx.execute(
                sa.insert(schema.leader).values(
                    name=lease,
                    holder=PROCESSES[holder][0],
                    incarnation="1",
                    token=token,
                    expires_at=NOW + timedelta(seconds=18 if holder == 0 else -840),
                )
            )
        build = schema.build
        mine = build.c.state == "running"
        tx.execute(sa.update(build).where(mine).values(worker=PROCESSES[0][0], claim=1))
