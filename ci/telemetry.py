# SPDX-License-Identifier: Apache-2.0
"""What a process measures and traces: one value that the composition root hands to every role."""

from dataclasses import dataclass, field

from ci.metrics import Metrics
from ci.tracing import Traces


@dataclass(frozen=True, kw_only=True)
class Telemetry:
    """Where measures and traces of a process go; by default a registry that nobody asks.

    Attributes:
        metrics: Counters and times.
        traces: Spans.
    """

    metrics: Metrics = field(default_factory=Metrics)
    traces: Traces = field(default_factory=Traces)
