# SPDX-License-Identifier: Apache-2.0
"""The tables, all prefixed `ci_`: the engine keeps its own beside them in the same file.

Times are aware UTC datetimes outside and naive UTC inside (SQLite has no time zones):
`UtcDateTime` converts at the edge and refuses naive values.
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

SCHEMA_VERSION = 2


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime, stored without its zone."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        """Drop the zone of an aware value; refuse a naive one."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime: give one with a time zone")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        """Put the zone back."""
        return None if value is None else value.replace(tzinfo=UTC)


metadata = sa.MetaData()
Column, String, Integer, Text, Boolean, JSON = (
    sa.Column,
    sa.String,
    sa.Integer,
    sa.Text,
    sa.Boolean,
    sa.JSON,
)

schema_version = sa.Table("ci_schema", metadata, Column("version", Integer, primary_key=True))

# Step 1. One row per fact; `decision` is why it did or did not start something.
event = sa.Table(
    "ci_event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("connection", String(100), nullable=False),
    Column("key", String(200), nullable=False),
    Column("kind", String(40), nullable=False),
    Column("project", String(255), nullable=False),
    Column("change_number", Integer, nullable=False),
    Column("patchset", Integer),
    Column("payload", JSON, nullable=False),  # Event as JSON, see ci/store/events.py
    Column("source", String(20), nullable=False),  # stream | catch-up | request
    Column("author", String(255), nullable=False, default=""),  # username, else name
    Column("occurred_at", UtcDateTime, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("processed_at", UtcDateTime),  # NULL: still to be planned
    Column("decision", Text),
    sa.UniqueConstraint("connection", "key"),
    sa.Index("ci_event_todo", "processed_at", "id"),
    sa.Index("ci_event_change", "connection", "change_number"),
)

# Step 1. How far a connection has been read; moves in the event's own transaction.
watermark = sa.Table(
    "ci_watermark",
    metadata,
    Column("connection", String(100), primary_key=True),
    Column("at", UtcDateTime, nullable=False),
)

# Step 1. What the connection is doing now, for the pages.
connection_state = sa.Table(
    "ci_connection",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("state", String(20), nullable=False),  # connecting | connected | away
    Column("message", Text, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("malformed", Integer, nullable=False, default=0),  # lines that could not be read
    Column("unknown", Integer, nullable=False, default=0),  # events of types nobody acts on
)

# The newest facts about each change that a pipeline watched.
change = sa.Table(
    "ci_change",
    metadata,
    Column("connection", String(100), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("project", String(255), nullable=False),
    Column("branch", String(255), nullable=False),
    Column("change_id", String(64), nullable=False),
    Column("subject", Text, nullable=False),
    Column("owner", String(255), nullable=False),
    Column("url", Text, nullable=False),
    Column("status", String(20), nullable=False),
    Column("patchset", Integer, nullable=False),  # newest one seen
    Column("updated_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime),  # server's time of these facts: older ones never replace them
    sa.Index("ci_change_number", "number"),
)

# Tips of branches as the stream told them: what a baseline stands on, and since when.
branch = sa.Table(
    "ci_branch",
    metadata,
    Column("connection", String(100), primary_key=True),
    Column("project", String(255), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("tip", String(64), nullable=False),  # empty: deleted
    Column("moved_at", UtcDateTime, nullable=False),
)

# Votes and reports of other accounts on the patch sets we know, one row per account and label.
approval = sa.Table(
    "ci_approval",
    metadata,
    Column("connection", String(100), primary_key=True),
    Column("change_number", Integer, primary_key=True),
    Column("patchset", Integer, primary_key=True),
    Column("account", String(255), primary_key=True),  # username, else name
    Column("label", String(100), primary_key=True),  # empty: a report without a vote
    Column("name", String(255), nullable=False),
    Column("value", Integer, nullable=False),  # 0: taken away, or none
    Column("said", String(20), nullable=False, default=""),  # succeeded | failed: comment's word
    Column("is_ci", Boolean, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    sa.Index("ci_approval_ci", "is_ci", "at"),
)

# Step 3. One vote's worth of work.
buildset = sa.Table(
    "ci_buildset",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("connection", String(100), nullable=False),
    Column("project", String(255), nullable=False),
    Column("branch", String(255), nullable=False),
    Column("change_number", Integer, nullable=False),
    Column("patchset", Integer, nullable=False),
    Column("revision", String(64), nullable=False),
    Column("ref", String(100), nullable=False),
    Column("pipeline", String(40), nullable=False),
    Column("recheck", Integer, nullable=False),  # 0: the patch set itself; then 1, 2, ...
    Column("event_id", Integer, sa.ForeignKey("ci_event.id")),
    Column("reason", Text, nullable=False),  # why it was started
    Column("requested_by", String(255), nullable=False, default=""),  # who asked for a recheck
    Column("request", Text, nullable=False, default=""),  # the reason they gave
    Column("made_up", Boolean, nullable=False, default=False),  # its event had been missed
    Column("depends", JSON),  # list of what is stacked below it, see ci/model/stack.py
    Column("state", String(20), nullable=False),  # queued | running | done | canceled
    Column("verdict", JSON),  # Verdict as JSON once done
    Column("created_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    sa.UniqueConstraint("connection", "change_number", "patchset", "pipeline", "recheck"),
    sa.Index("ci_buildset_created", "created_at"),
    sa.Index("ci_buildset_state", "state"),
    sa.Index("ci_buildset_requested", "requested_by", "created_at"),
    sa.Index("ci_buildset_change", "change_number"),
)

# Step 3. One job of a buildset. `job` is frozen at that time: a reload does not change it.
build = sa.Table(
    "ci_build",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("buildset_id", String(32), sa.ForeignKey("ci_buildset.id"), nullable=False),
    Column("job_name", String(100), nullable=False),
    Column("job", JSON, nullable=False),
    Column("node_label", String(100), nullable=False),
    Column("voting", Boolean, nullable=False),
    Column("state", String(20), nullable=False),  # queued | running | done | canceled
    Column("waiting", Text, nullable=False, default=""),  # why it does not run yet
    Column("cancel_reason", Text),  # set: stop it
    Column("result", String(20)),
    Column("failure_class", String(20)),
    Column("reason", Text, nullable=False, default=""),
    Column("judgement", JSON),  # Judgement as JSON once done
    Column("queued_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    sa.Index("ci_build_buildset", "buildset_id"),
    sa.Index("ci_build_queued", "queued_at", "id"),
    sa.Index("ci_build_state", "state"),
)

# Steps 4 to 6. One go of a build on one node: the check itself, its repeat, or the baseline.
attempt = sa.Table(
    "ci_attempt",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("build_id", String(32), sa.ForeignKey("ci_build.id"), nullable=False),
    Column("number", Integer, nullable=False),  # 1, 2, ... within the build
    Column("kind", String(20), nullable=False),  # check | repeat | baseline
    Column("state", String(20), nullable=False),  # running | done
    Column("phase", String(20), nullable=False),  # merge | lease | setup | run | collect | done
    Column("result", String(20)),
    Column("error", Text, nullable=False, default=""),
    Column("hint", Text, nullable=False, default=""),
    Column("node", String(100)),
    Column("token", Integer),  # fencing token of its lease
    Column("grade", String(20), nullable=False, default="none"),
    Column("hypervisor", String(255), nullable=False, default=""),
    Column("facts", JSON, nullable=False, default=dict),
    Column("tip", String(64)),  # branch tip it was merged onto
    Column("tree", String(64)),  # tree that was tested
    Column("base_tree", String(64)),  # tree that its baseline tests: the tip and what is stacked
    Column("exit_status", Integer),
    Column("interrupted", Boolean, nullable=False, default=False),  # we were stopped or killed
    Column("dependency", Boolean, nullable=False, default=False),  # ended by what it depends on
    Column("started_at", UtcDateTime, nullable=False),
    Column("leased_at", UtcDateTime),
    Column("suite_started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    sa.UniqueConstraint("build_id", "number"),
    sa.Index("ci_attempt_tree", "tree"),
)

# Step 6. One test of one attempt.
outcome = sa.Table(
    "ci_outcome",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("attempt_id", String(32), sa.ForeignKey("ci_attempt.id"), nullable=False),
    Column("test_id", String(500), nullable=False),
    Column("status", String(10), nullable=False),
    Column("duration_s", sa.Float, nullable=False),
    Column("message", Text, nullable=False),
    Column("details", Text, nullable=False),
    sa.Index("ci_outcome_attempt", "attempt_id"),
    sa.Index("ci_outcome_test", "test_id"),
)

# Step 4. Slots and who holds them. `token` only ever grows.
node = sa.Table(
    "ci_node",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("label", String(100), nullable=False),
    Column("provider", String(100), nullable=False),
    Column("state", String(20), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("failures", Integer, nullable=False, default=0),
    Column("checked_at", UtcDateTime),
    Column("token", Integer, nullable=False, default=0),
    Column("holder", String(32)),  # attempt id; NULL: free
    Column("leased_at", UtcDateTime),
    Column("expires_at", UtcDateTime),
)

# Step 8. What is owed to a review server, written with the verdict.
outbox = sa.Table(
    "ci_outbox",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("buildset_id", String(32), sa.ForeignKey("ci_buildset.id"), nullable=False, unique=True),
    Column("connection", String(100), nullable=False),
    Column("project", String(255), nullable=False),
    Column("change_number", Integer, nullable=False),
    Column("patchset", Integer, nullable=False),
    Column("revision", String(64), nullable=False),
    Column("tag", String(100), nullable=False),
    Column("marker", String(255), nullable=False),  # in the message, to read it back by
    Column("message", Text, nullable=False),
    Column("label", String(100)),  # NULL: comment only
    Column("value", Integer),
    Column("state", String(20), nullable=False),  # pending | held | delivered | dropped
    Column("stale", String(10), nullable=False, default="drop"),  # drop | comment
    Column("transport", String(10), nullable=False, default=""),  # rest | ssh: how it got there
    Column("tries", Integer, nullable=False, default=0),
    Column("next_at", UtcDateTime, nullable=False),
    Column("error", Text, nullable=False, default=""),
    Column("created_at", UtcDateTime, nullable=False),
    Column("settled_at", UtcDateTime),
    sa.Index("ci_outbox_todo", "state", "next_at"),
)

# Step 8. What other programs and the operator want to be told; one delivery per reporter.
notice = sa.Table(
    "ci_notice",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(30), nullable=False),
    Column("key", String(200), nullable=False, unique=True),
    Column("subject", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("facts", JSON, nullable=False),
    Column("occurred_at", UtcDateTime, nullable=False),
)
# How far each reporter that was ever configured has looked through the notices.
reporter = sa.Table(
    "ci_reporter",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("seen", Integer, nullable=False),  # newest notice with a delivery row, or passed over
    Column("since", UtcDateTime, nullable=False),
)
delivery = sa.Table(
    "ci_delivery",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("notice_id", Integer, sa.ForeignKey("ci_notice.id"), nullable=False),
    Column("reporter", String(100), nullable=False),
    Column("state", String(20), nullable=False),  # pending | delivered | dropped
    Column("tries", Integer, nullable=False, default=0),
    Column("next_at", UtcDateTime, nullable=False),
    Column("error", Text, nullable=False, default=""),
    Column("settled_at", UtcDateTime),
    sa.UniqueConstraint("notice_id", "reporter"),
    sa.Index("ci_delivery_todo", "reporter", "state", "next_at"),
)

# What operators did, from the command line or a page.
audit = sa.Table(
    "ci_audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("by", String(255), nullable=False),
    Column("action", String(40), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("note", Text, nullable=False, default=""),
)
