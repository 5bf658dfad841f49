# SPDX-License-Identifier: Apache-2.0
"""How many of the matrix's features the builds of a change tried, and how that went."""

from collections import defaultdict
from collections.abc import Sequence

import sqlalchemy as sa

from ci.model.build import AttemptKind
from ci.model.feature import Feature
from ci.model.result import Result, Status
from ci.store import schema
from ci.store.reads.records import FeatureCounts

_FEATURES = frozenset(one.value for one in Feature)
_COUNTED = (Result.SUCCESS.value, Result.FAILURE.value)
_BAD = {status.value for status in Status if status.bad}


def feature_counts(tx: sa.Connection, build_ids: Sequence[str]) -> tuple[FeatureCounts, ...]:
    """Of the last run of each build with the patch; builds that tried none are left out.

    Two queries, whatever the number of builds.
    """
    table, outcome = schema.attempt, schema.outcome
    runs = tx.execute(
        sa.select(table.c.build_id, table.c.id)
        .where(
            table.c.build_id.in_(build_ids),
            table.c.kind != AttemptKind.BASELINE.value,
            table.c.result.in_(_COUNTED),
        )
        .order_by(table.c.number)
    )
    last: dict[str, str] = {row.build_id: row.id for row in runs}
    shown: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    words = sa.select(outcome.c.attempt_id, outcome.c.feature, outcome.c.status).where(
        outcome.c.attempt_id.in_(last.values()), outcome.c.feature.in_(_FEATURES)
    )
    for row in tx.execute(words.distinct()):
        shown[row.attempt_id][row.feature].add(row.status)
    return tuple(
        _counts(build_id, list(shown[run].values()))
        for build_id, run in last.items()
        if run in shown
    )


def _counts(build_id: str, features: Sequence[set[str]]) -> FeatureCounts:
    fail = sum(1 for statuses in features if statuses & _BAD)
    works = sum(1 for statuses in features if Status.PASS.value in statuses and not statuses & _BAD)
    return FeatureCounts(build_id=build_id, tried=len(features), works=works, fails=fail)
