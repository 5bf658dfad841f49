# SPDX-License-Identifier: Apache-2.0
"""Version 4: evidence for the matrix, and what is known of nodes' health."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import JSON, Column, DateTime, Float, Text

revision = "4"
down_revision = "3"

BigInteger = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add what version 4 has more."""
    op.create_table(
        "ci_evidence",
        Column("id", BigInteger, primary_key=True),
        Column("system", Text, nullable=False),
        Column("title", Text, nullable=False),
        Column("grade", Text, nullable=False),
        Column("versions", JSON, nullable=False),
        Column("feature", Text, nullable=False),
        Column("test_id", Text, nullable=False),
        Column("shown", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("at", DateTime, nullable=False),
        Column("source", Text, nullable=False),
        Column("duration_s", Float, nullable=False),
        sa.UniqueConstraint("system", "grade", "feature", "test_id", "shown"),
    )
    for table, column in (
        ("ci_attempt", Column("likeness", Text, nullable=False, server_default="")),
        ("ci_attempt", Column("left_behind", JSON, nullable=False, server_default="[]")),
        ("ci_outcome", Column("feature", Text, nullable=False, server_default="")),
        ("ci_node", Column("facts", JSON, nullable=False, server_default="{}")),
        ("ci_node", Column("blamed_by", JSON, nullable=False, server_default="[]")),
        ("ci_node", Column("health_at", DateTime)),
        ("ci_node", Column("health_tries", BigInteger, nullable=False, server_default="0")),
        ("ci_node", Column("held_until", DateTime)),
        ("ci_node", Column("held_for_s", BigInteger, nullable=False, server_default="0")),
        ("ci_node", Column("held_by", Text, nullable=False, server_default="")),
        ("ci_node", Column("held_why", Text, nullable=False, server_default="")),
        ("ci_node", Column("held_login", Text, nullable=False, server_default="")),
    ):
        op.add_column(table, column)
    # No default but the program's.
    for table, columns in (
        ("ci_attempt", ("likeness", "left_behind")),
        ("ci_outcome", ("feature",)),
        (
            "ci_node",
            (
                "facts",
                "blamed_by",
                "health_tries",
                "held_for_s",
                "held_by",
                "held_why",
                "held_login",
            ),
        ),
    ):
        with op.batch_alter_table(table) as batch:
            for name in columns:
                batch.alter_column(name, server_default=None)
