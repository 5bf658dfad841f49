# SPDX-License-Identifier: Apache-2.0
"""Version 3: many processes, lines and turns, pauses, pins; texts and numbers without a limit."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy import JSON, Column, DateTime, Text

revision = "3"
down_revision = "2"

BigInteger = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add what version 3 has more, and take the limits off texts and numbers."""
    _tables()
    for table, column in (
        ("ci_attempt", Column("peers", JSON, nullable=False, server_default="[]")),
        ("ci_attempt", Column("worker", Text)),
        ("ci_attempt", Column("claim", BigInteger, nullable=False, server_default="0")),
        ("ci_build", Column("priority", BigInteger, nullable=False, server_default="1")),
        ("ci_build", Column("turn", BigInteger, nullable=False, server_default="0")),
        ("ci_build", Column("wants", JSON, nullable=False, server_default="[]")),
        ("ci_build", Column("requires", JSON, nullable=False, server_default="[]")),
        ("ci_build", Column("position", BigInteger)),
        ("ci_build", Column("eta_at", DateTime)),
        ("ci_build", Column("worker", Text)),
        ("ci_build", Column("claim", BigInteger, nullable=False, server_default="0")),
        ("ci_build", Column("logs", Text, nullable=False, server_default="kept")),
        ("ci_delivery", Column("sender", Text)),
        ("ci_delivery", Column("sending_until", DateTime)),
        ("ci_node", Column("tags", JSON, nullable=False, server_default="[]")),
        ("ci_node", Column("worker", Text)),
        ("ci_node", Column("holder_worker", Text)),
        ("ci_outbox", Column("sender", Text)),
        ("ci_outbox", Column("sending_until", DateTime)),
    ):
        op.add_column(table, column)
    op.drop_index("ci_build_state", "ci_build")
    line = ["state", "node_label", "priority", "turn", "id"]
    op.create_index("ci_build_line", "ci_build", line)
    op.create_index("ci_build_finished", "ci_build", ["finished_at"])
    op.create_index("ci_attempt_state", "ci_attempt", ["state"])
    _widen()


def _tables() -> None:
    op.create_table(
        "ci_turn",
        Column("project", Text, primary_key=True),
        Column("node_label", Text, primary_key=True),
        Column("priority", BigInteger, primary_key=True),
        Column("turn", BigInteger, nullable=False),
    )
    op.create_table(
        "ci_pause",
        Column("kind", Text, primary_key=True),
        Column("name", Text, primary_key=True),
        Column("by", Text, nullable=False),
        Column("why", Text, nullable=False),
        Column("since", DateTime, nullable=False),
        Column("until", DateTime),
    )
    op.create_table(
        "ci_pin",
        Column("build_id", Text, sa.ForeignKey("ci_build.id"), primary_key=True),
        Column("by", Text, nullable=False),
        Column("why", Text, nullable=False),
        Column("at", DateTime, nullable=False),
    )
    op.create_table(
        "ci_process",
        Column("name", Text, primary_key=True),
        Column("incarnation", Text, nullable=False),
        Column("roles", JSON, nullable=False),
        Column("host", Text, nullable=False),
        Column("pid", BigInteger, nullable=False),
        Column("version", Text, nullable=False),
        Column("slots", BigInteger, nullable=False),
        Column("state", Text, nullable=False),
        Column("started_at", DateTime, nullable=False),
        Column("beat_at", DateTime, nullable=False),
    )
    op.create_table(
        "ci_leader",
        Column("name", Text, primary_key=True),
        Column("holder", Text, nullable=False),
        Column("incarnation", Text, nullable=False),
        Column("token", BigInteger, nullable=False),
        Column("expires_at", DateTime, nullable=False),
    )


def _widen() -> None:
    """Texts of any length, numbers of 64 bits, and no default but the program's.

    SQLite's integers have 64 bits whatever they are called, and it copies each table once.
    """
    inspector = sa.inspect(op.get_bind())
    for table in sorted(inspector.get_table_names()):
        if table.startswith("ci_"):
            with op.batch_alter_table(table) as batch:
                for column in inspector.get_columns(table):
                    if changes := _changes(column):
                        batch.alter_column(
                            column["name"],
                            existing_type=column["type"],
                            existing_nullable=column["nullable"],
                            **changes,
                        )
    if op.get_context().dialect.name == "postgresql":
        _widen_sequences(inspector)


def _changes(column: Any) -> dict[str, Any]:
    found, changes = column["type"], dict[str, Any]()
    if isinstance(found, sa.String) and not isinstance(found, sa.Text):
        changes["type_"] = sa.Text()
    on_sqlite = op.get_context().dialect.name == "sqlite"
    if isinstance(found, sa.Integer) and not isinstance(found, sa.BigInteger) and not on_sqlite:
        changes["type_"] = sa.BigInteger()
    default = column["default"]
    if default is not None and "nextval" not in default:
        changes["server_default"] = None
    return changes


def _widen_sequences(inspector: sa.Inspector) -> None:
    for name in inspector.get_sequence_names():
        if name.startswith("ci_"):
            op.execute(f'ALTER SEQUENCE "{name}" AS bigint')
