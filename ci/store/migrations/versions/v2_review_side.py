# SPDX-License-Identifier: Apache-2.0
"""Version 2: other accounts' votes, branch tips, stacks, notices and the audit log."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy import JSON, Boolean, Column, DateTime, Integer, String, Text

revision = "2"
down_revision = "1"


def upgrade() -> None:
    """Add what version 2 has more."""
    _tables_of_the_review_side()
    _tables_of_notices()
    for table, column in (
        ("ci_attempt", Column("base_tree", String(64))),
        ("ci_attempt", Column("dependency", Boolean, nullable=False, server_default=sa.false())),
        ("ci_buildset", Column("requested_by", String(255), nullable=False, server_default="")),
        ("ci_buildset", Column("request", Text, nullable=False, server_default="")),
        ("ci_buildset", Column("made_up", Boolean, nullable=False, server_default=sa.false())),
        ("ci_buildset", Column("depends", JSON)),
        ("ci_change", Column("seen_at", DateTime)),
        ("ci_event", Column("author", String(255), nullable=False, server_default="")),
        ("ci_outbox", Column("stale", String(10), nullable=False, server_default="drop")),
        ("ci_outbox", Column("transport", String(10), nullable=False, server_default="")),
    ):
        op.add_column(table, column)
    op.create_index("ci_attempt_tree", "ci_attempt", ["tree"])
    op.create_index("ci_buildset_state", "ci_buildset", ["state"])
    op.create_index("ci_buildset_requested", "ci_buildset", ["requested_by", "created_at"])


def _tables_of_the_review_side() -> None:
    op.create_table(
        "ci_branch",
        Column("connection", String(100), primary_key=True),
        Column("project", String(255), primary_key=True),
        Column("name", String(255), primary_key=True),
        Column("tip", String(40), nullable=False),
        Column("moved_at", DateTime, nullable=False),
    )
    op.create_table(
        "ci_approval",
        Column("connection", String(100), primary_key=True),
        Column("change_number", Integer, primary_key=True),
        Column("patchset", Integer, primary_key=True),
        Column("account", String(255), primary_key=True),
        Column("label", String(100), primary_key=True),
        Column("name", String(255), nullable=False),
        Column("value", Integer, nullable=False),
        Column("said", String(20), nullable=False),
        Column("is_ci", Boolean, nullable=False),
        Column("at", DateTime, nullable=False),
    )
    op.create_index("ci_approval_ci", "ci_approval", ["is_ci", "at"])
    op.create_table(
        "ci_audit",
        Column("id", Integer, primary_key=True),
        Column("at", DateTime, nullable=False),
        Column("by", String(255), nullable=False),
        Column("action", String(40), nullable=False),
        Column("subject", Text, nullable=False),
        Column("note", Text, nullable=False),
    )


def _tables_of_notices() -> None:
    op.create_table(
        "ci_notice",
        Column("id", Integer, primary_key=True),
        Column("kind", String(40), nullable=False),
        Column("key", Text, nullable=False, unique=True),
        Column("subject", Text, nullable=False),
        Column("text", Text, nullable=False),
        Column("url", Text, nullable=False),
        Column("facts", JSON, nullable=False),
        Column("occurred_at", DateTime, nullable=False),
    )
    op.create_table(
        "ci_reporter",
        Column("name", String(100), primary_key=True),
        Column("seen", Integer, nullable=False),
        Column("since", DateTime, nullable=False),
    )
    op.create_table(
        "ci_delivery",
        Column("id", Integer, primary_key=True),
        Column("notice_id", Integer, sa.ForeignKey("ci_notice.id"), nullable=False),
        Column("reporter", String(100), nullable=False),
        Column("state", String(20), nullable=False),
        Column("tries", Integer, nullable=False),
        Column("next_at", DateTime, nullable=False),
        Column("error", Text, nullable=False),
        Column("settled_at", DateTime),
        sa.UniqueConstraint("notice_id", "reporter"),
    )
    op.create_index("ci_delivery_todo", "ci_delivery", ["reporter", "state", "next_at"])
