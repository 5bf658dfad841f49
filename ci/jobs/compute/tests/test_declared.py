# SPDX-License-Identifier: Apache-2.0
"""Rows that no other test tries: what the adapter says of itself, and what is left open."""

import pytest

from ci.jobs.compute.bench import Bench, not_tried
from ci.jobs.compute.untested import UNTESTED
from ci.model.feature import Feature
from nodes.hypervisors.faults import Unsupported

pytestmark = pytest.mark.told


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=pytest.mark.feature(key), id=key.value) for key in UNTESTED]
)
def test_declared(bench: Bench, key: Feature) -> None:
    """Unsupported where the adapter says so; else it was not tried."""
    reason = bench.hypervisor.missing.get(key)
    if reason is not None:
        raise Unsupported(key, reason)
    not_tried(UNTESTED[key])
