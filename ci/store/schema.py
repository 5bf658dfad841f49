# SPDX-License-Identifier: Apache-2.0
"""The tables, all prefixed `ci_`; the engine keeps its own in another file or schema.

Times are aware UTC datetimes outside and naive UTC inside (SQLite has no time zones):
`UtcDateTime` converts at the edge and refuses naive values. `Words` takes whatever people
wrote: what no database stores becomes U+FFFD. Every integer has 64 bits.
"""

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

SCHEMA_VERSION = 4


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


class Words(TypeDecorator[str]):
    """Text of any length; NUL and lone surrogates are stored as U+FFFD."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:  # noqa: ARG002
        """Replace what PostgreSQL or SQLite would refuse."""
        if value is None or (value.isascii() and "\0" not in value):
            return value
        clean = value.replace("\0", "\ufffd")
        return clean.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


metadata = sa.MetaData()
Column, Boolean, JSON = sa.Column, sa.Boolean, sa.JSON
# SQLite numbers rows by itself only where the type is INTEGER, and that has 64 bits there.
Integer = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

schema_version = sa.Table("ci_schema", metadata, Column("version", Integer, primary_key=True))

# Step 1. One row per fact; `decision` is why it did or did not start something.
event = sa.Table(
    "ci_event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("connection", Words, nullable=False),
    Column("key", Words, nullable=False),
    Column("kind", Words, nullable=False),
    Column("project", Words, nullable=False),
    Column("change_number", Integer, nullable=False),
    Column("patchset", Integer),
    Column("payload", JSON, nullable=False),  # Event as JSON, see ci/store/events.py
    Column("source", Words, nullable=False),  # stream | catch-up | request
    Column("author", Words, nullable=False, default=""),  # username, else name
    Column("occurred_at", UtcDateTime, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("processed_at", UtcDateTime),  # NULL: still to be planned
    Column("decision", Words),
    sa.UniqueConstraint("connection", "key"),
    sa.Index("ci_event_todo", "processed_at", "id"),
    sa.Index("ci_event_change", "connection", "change_number"),
)

# Step 1. How far a connection has been read; moves in the event's own transaction.
watermark = sa.Table(
    "ci_watermark",
    metadata,
    Column("connection", Words, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
)

# Step 1. What the connection is doing now, for the pages.
connection_state = sa.Table(
    "ci_connection",
    metadata,
    Column("name", Words, primary_key=True),
    Column("state", Words, nullable=False),  # connecting | connected | away
    Column("message", Words, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("malformed", Integer, nullable=False, default=0),  # lines that could not be read
    Column("unknown", Integer, nullable=False, default=0),  # events of types nobody acts on
)

# The newest facts about each change that a pipeline watched.
change = sa.Table(
    "ci_change",
    metadata,
    Column("connection", Words, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("project", Words, nullable=False),
    Column("branch", Words, nullable=False),
    Column("change_id", Words, nullable=False),
    Column("subject", Words, nullable=False),
    Column("owner", Words, nullable=False),
    Column("url", Words, nullable=False),
    Column("status", Words, nullable=False),
    Column("patchset", Integer, nullable=False),  # newest one seen
    Column("updated_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime),  # server's time of these facts: older ones never replace them
    sa.Index("ci_change_number", "number"),
)

# Tips of branches as the stream told them: what a baseline stands on, and since when.
branch = sa.Table(
    "ci_branch",
    metadata,
    Column("connection", Words, primary_key=True),
    Column("project", Words, primary_key=True),
    Column("name", Words, primary_key=True),
    Column("tip", Words, nullable=False),  # empty: deleted
    Column("moved_at", UtcDateTime, nullable=False),
)

# Votes and reports of other accounts on the patch sets we know, one row per account and label.
approval = sa.Table(
    "ci_approval",
    metadata,
    Column("connection", Words, primary_key=True),
    Column("change_number", Integer, primary_key=True),
    Column("patchset", Integer, primary_key=True),
    Column("account", Words, primary_key=True),  # username, else name
    Column("label", Words, primary_key=True),  # empty: a report without a vote
    Column("name", Words, nullable=False),
    Column("value", Integer, nullable=False),  # 0: taken away, or none
    Column("said", Words, nullable=False, default=""),  # succeeded | failed: comment's word
    Column("is_ci", Boolean, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    sa.Index("ci_approval_ci", "is_ci", "at"),
)

# Step 3. One vote's worth of work.
buildset = sa.Table(
    "ci_buildset",
    metadata,
    Column("id", Words, primary_key=True),
    Column("connection", Words, nullable=False),
    Column("project", Words, nullable=False),
    Column("branch", Words, nullable=False),
    Column("change_number", Integer, nullable=False),
    Column("patchset", Integer, nullable=False),
    Column("revision", Words, nullable=False),
    Column("ref", Words, nullable=False),
    Column("pipeline", Words, nullable=False),
    Column("recheck", Integer, nullable=False),  # 0: the patch set itself; then 1, 2, ...
    Column("event_id", Integer, sa.ForeignKey("ci_event.id")),
    Column("reason", Words, nullable=False),  # why it was started
    Column("requested_by", Words, nullable=False, default=""),  # who asked for a recheck
    Column("request", Words, nullable=False, default=""),  # the reason they gave
    Column("made_up", Boolean, nullable=False, default=False),  # its event had been missed
    Column("depends", JSON),  # list of what is stacked below it, see ci/model/stack.py
    Column("state", Words, nullable=False),  # queued | running | done | canceled
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
    Column("id", Words, primary_key=True),
    Column("buildset_id", Words, sa.ForeignKey("ci_buildset.id"), nullable=False),
    Column("job_name", Words, nullable=False),
    Column("job", JSON, nullable=False),
    Column("node_label", Words, nullable=False),
    Column("voting", Boolean, nullable=False),
    Column("state", Words, nullable=False),  # queued | running | done | canceled
    Column("waiting", Words, nullable=False, default=""),  # why it does not run yet
    Column("cancel_reason", Words),  # set: stop it
    Column("result", Words),
    Column("failure_class", Words),
    Column("reason", Words, nullable=False, default=""),
    Column("judgement", JSON),  # Judgement as JSON once done
    Column("priority", Integer, nullable=False, default=1),  # ci/model/build.py: smaller first
    Column("turn", Integer, nullable=False, default=0),  # fairness between projects, see ci_turn
    Column("wants", JSON, nullable=False, default=list),  # labels of further nodes of its set
    Column("requires", JSON, nullable=False, default=list),  # tags its nodes must have
    Column("position", Integer),  # in its line, from 1; NULL: far behind, or not queued
    Column("eta_at", UtcDateTime),  # when it will start by what such builds took before
    Column("worker", Words),  # process that claimed it
    Column("claim", Integer, nullable=False, default=0),  # fencing token of the claim
    Column("logs", Words, nullable=False, default="kept"),  # kept | deleted DAY, by retention
    Column("queued_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    sa.Index("ci_build_buildset", "buildset_id"),
    sa.Index("ci_build_queued", "queued_at", "id"),
    sa.Index("ci_build_line", "state", "node_label", "priority", "turn", "id"),
    sa.Index("ci_build_finished", "finished_at"),
)

# How far each project has come in the line of its label and priority; project "" is the line.
turn = sa.Table(
    "ci_turn",
    metadata,
    Column("project", Words, primary_key=True),
    Column("node_label", Words, primary_key=True),
    Column("priority", Integer, primary_key=True),
    Column("turn", Integer, nullable=False),
)

# Builds whose logs and rows retention leaves alone.
pin = sa.Table(
    "ci_pin",
    metadata,
    Column("build_id", Words, sa.ForeignKey("ci_build.id"), primary_key=True),
    Column("by", Words, nullable=False),
    Column("why", Words, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

# What is paused: nothing new starts there, what runs goes on.
pause = sa.Table(
    "ci_pause",
    metadata,
    Column("kind", Words, primary_key=True),  # pipeline | label | node
    Column("name", Words, primary_key=True),
    Column("by", Words, nullable=False),
    Column("why", Words, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("until", UtcDateTime),  # NULL: until somebody resumes it
)

# Processes of this installation. `incarnation` is new at each start: an older one is dead.
process = sa.Table(
    "ci_process",
    metadata,
    Column("name", Words, primary_key=True),
    Column("incarnation", Words, nullable=False),
    Column("roles", JSON, nullable=False),  # list of listen | work | relay | web
    Column("host", Words, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Words, nullable=False),
    Column("slots", Integer, nullable=False, default=0),  # builds it runs at once
    Column("state", Words, nullable=False),  # running | draining | stopped
    Column("started_at", UtcDateTime, nullable=False),
    Column("beat_at", UtcDateTime, nullable=False),
)

# Who does what only one process may do: `listen:CONNECTION`, `relay:CONNECTION`, `chores`, ...
leader = sa.Table(
    "ci_leader",
    metadata,
    Column("name", Words, primary_key=True),
    Column("holder", Words, nullable=False),  # ci_process.name
    Column("incarnation", Words, nullable=False),
    Column("token", Integer, nullable=False),  # only ever grows
    Column("expires_at", UtcDateTime, nullable=False),
)

# Steps 4 to 6. One go of a build on one node: the check itself, its repeat, or the baseline.
attempt = sa.Table(
    "ci_attempt",
    metadata,
    Column("id", Words, primary_key=True),
    Column("build_id", Words, sa.ForeignKey("ci_build.id"), nullable=False),
    Column("number", Integer, nullable=False),  # 1, 2, ... within the build
    Column("kind", Words, nullable=False),  # check | repeat | baseline
    Column("state", Words, nullable=False),  # running | done
    Column("phase", Words, nullable=False),  # merge | lease | setup | run | collect | done
    Column("result", Words),
    Column("error", Words, nullable=False, default=""),
    Column("hint", Words, nullable=False, default=""),
    Column("node", Words),
    Column("token", Integer),  # fencing token of its lease
    Column("peers", JSON, nullable=False, default=list),  # further nodes of its set
    Column("worker", Words),  # process that runs it
    Column("claim", Integer, nullable=False, default=0),  # the build's claim it runs under
    Column("grade", Words, nullable=False, default="none"),
    Column("hypervisor", Words, nullable=False, default=""),
    Column("facts", JSON, nullable=False, default=dict),
    Column("tip", Words),  # branch tip it was merged onto
    Column("tree", Words),  # tree that was tested
    Column("base_tree", Words),  # tree that its baseline tests: the tip and what is stacked
    Column("exit_status", Integer),
    Column("interrupted", Boolean, nullable=False, default=False),  # we were stopped or killed
    Column("dependency", Boolean, nullable=False, default=False),  # ended by what it depends on
    Column("likeness", Words, nullable=False, default=""),  # only equal ones are compared
    Column("left_behind", JSON, nullable=False, default=list),  # what it left on its node
    Column("started_at", UtcDateTime, nullable=False),
    Column("leased_at", UtcDateTime),
    Column("suite_started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    sa.UniqueConstraint("build_id", "number"),
    sa.Index("ci_attempt_tree", "tree"),
    sa.Index("ci_attempt_state", "state"),
)

# Step 6. One test of one attempt.
outcome = sa.Table(
    "ci_outcome",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("attempt_id", Words, sa.ForeignKey("ci_attempt.id"), nullable=False),
    Column("test_id", Words, nullable=False),
    Column("status", Words, nullable=False),
    Column("duration_s", sa.Float, nullable=False),
    Column("message", Words, nullable=False),
    Column("details", Words, nullable=False),
    Column("feature", Words, nullable=False, default=""),  # row of Nova's matrix, or none
    sa.Index("ci_outcome_attempt", "attempt_id"),
    sa.Index("ci_outcome_test", "test_id"),
)

# Step 4. Slots and who holds them. `token` only ever grows.
node = sa.Table(
    "ci_node",
    metadata,
    Column("name", Words, primary_key=True),
    Column("label", Words, nullable=False),
    Column("provider", Words, nullable=False),
    Column("state", Words, nullable=False),
    Column("reason", Words, nullable=False, default=""),
    Column("failures", Integer, nullable=False, default=0),
    Column("checked_at", UtcDateTime),
    Column("token", Integer, nullable=False, default=0),
    Column("tags", JSON, nullable=False, default=list),  # what jobs may require
    Column("worker", Words),  # the one process that can reach it; NULL: any
    Column("holder", Words),  # attempt id; NULL: free
    Column("holder_worker", Words),  # process that runs that attempt
    Column("leased_at", UtcDateTime),
    Column("expires_at", UtcDateTime),
    Column("facts", JSON, nullable=False, default=dict),  # of its last hand-out
    Column(
        "blamed_by", JSON, nullable=False, default=list
    ),  # changes it failed since its last success
    Column("health_at", UtcDateTime),  # when its last health job ended
    Column("health_tries", Integer, nullable=False, default=0),  # health jobs failed in a row
    Column("held_until", UtcDateTime),  # kept as it is for a person; NULL: not
    Column("held_for_s", Integer, nullable=False, default=0),  # so long from its next failure on
    Column("held_by", Words, nullable=False, default=""),
    Column("held_why", Words, nullable=False, default=""),
    Column("held_login", Words, nullable=False, default=""),  # one line that logs in there
)

# What tests showed of hypervisors: the newest word of each test, kept for ever.
evidence = sa.Table(
    "ci_evidence",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("system", Words, nullable=False),  # column of the matrix
    Column("title", Words, nullable=False),
    Column("grade", Words, nullable=False),
    Column("versions", JSON, nullable=False, default=dict),
    Column("feature", Words, nullable=False),
    Column("test_id", Words, nullable=False),
    Column("shown", Words, nullable=False),  # works | fails | unsupported
    Column("reason", Words, nullable=False, default=""),
    Column("at", UtcDateTime, nullable=False),
    Column("source", Words, nullable=False, default=""),  # attempt id, or name of a report
    Column("duration_s", sa.Float, nullable=False, default=0.0),
    sa.UniqueConstraint("system", "grade", "feature", "test_id", "shown"),
)

# Step 8. What is owed to a review server, written with the verdict.
outbox = sa.Table(
    "ci_outbox",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("buildset_id", Words, sa.ForeignKey("ci_buildset.id"), nullable=False, unique=True),
    Column("connection", Words, nullable=False),
    Column("project", Words, nullable=False),
    Column("change_number", Integer, nullable=False),
    Column("patchset", Integer, nullable=False),
    Column("revision", Words, nullable=False),
    Column("tag", Words, nullable=False),
    Column("marker", Words, nullable=False),  # in the message, to read it back by
    Column("message", Words, nullable=False),
    Column("label", Words),  # NULL: comment only
    Column("value", Integer),
    Column("state", Words, nullable=False),  # pending | held | delivered | dropped
    Column("stale", Words, nullable=False, default="drop"),  # drop | comment
    Column("transport", Words, nullable=False, default=""),  # rest | ssh: how it got there
    Column("tries", Integer, nullable=False, default=0),
    Column("sender", Words),  # process that tries it just now
    Column("sending_until", UtcDateTime),  # nobody else may before
    Column("next_at", UtcDateTime, nullable=False),
    Column("error", Words, nullable=False, default=""),
    Column("created_at", UtcDateTime, nullable=False),
    Column("settled_at", UtcDateTime),
    sa.Index("ci_outbox_todo", "state", "next_at"),
)

# Step 8. What other programs and the operator want to be told; one delivery per reporter.
notice = sa.Table(
    "ci_notice",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", Words, nullable=False),
    Column("key", Words, nullable=False, unique=True),
    Column("subject", Words, nullable=False),
    Column("text", Words, nullable=False),
    Column("url", Words, nullable=False),
    Column("facts", JSON, nullable=False),
    Column("occurred_at", UtcDateTime, nullable=False),
)
# How far each reporter that was ever configured has looked through the notices.
reporter = sa.Table(
    "ci_reporter",
    metadata,
    Column("name", Words, primary_key=True),
    Column("seen", Integer, nullable=False),  # newest notice with a delivery row, or passed over
    Column("since", UtcDateTime, nullable=False),
)
delivery = sa.Table(
    "ci_delivery",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("notice_id", Integer, sa.ForeignKey("ci_notice.id"), nullable=False),
    Column("reporter", Words, nullable=False),
    Column("state", Words, nullable=False),  # pending | delivered | dropped
    Column("tries", Integer, nullable=False, default=0),
    Column("sender", Words),  # process that tries it just now
    Column("sending_until", UtcDateTime),  # nobody else may before
    Column("next_at", UtcDateTime, nullable=False),
    Column("error", Words, nullable=False, default=""),
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
    Column("by", Words, nullable=False),
    Column("action", Words, nullable=False),
    Column("subject", Words, nullable=False),
    Column("note", Words, nullable=False, default=""),
)
