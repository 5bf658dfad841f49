# SPDX-License-Identifier: Apache-2.0
"""What the pages need: functions over the database that return frozen records."""

from ci.store.reads.agreement import agreement_page
from ci.store.reads.build import build_detail, build_pulse
from ci.store.reads.builds import builds_page, filter_choices, parse_cursor
from ci.store.reads.change import change_detail
from ci.store.reads.matrix import all_evidence, cell_words
from ci.store.reads.nodes import all_nodes, all_pauses
from ci.store.reads.outbox import audit_page, outbox_page
from ci.store.reads.runs import patchset_runs
from ci.store.reads.status import schema_found, status_overview

__all__ = [
    "agreement_page",
    "all_evidence",
    "all_nodes",
    "all_pauses",
    "audit_page",
    "build_detail",
    "build_pulse",
    "builds_page",
    "cell_words",
    "change_detail",
    "filter_choices",
    "outbox_page",
    "parse_cursor",
    "patchset_runs",
    "schema_found",
    "status_overview",
]
