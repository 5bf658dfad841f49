# SPDX-License-Identifier: Apache-2.0
"""Traces: one for each buildset, from the event to the posted review, over all processes.

Nothing is stored for it: the ids of a trace and of its spans come of the ids of our rows, so
whoever does a piece of the work tells it alone, when it is done, and a piece that was done twice
after a crash is told twice under one id. Without `traces` in the configuration nothing is
imported and nothing is done.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from ci.errors import ConfigError

ROOT = "buildset"


class Traces:
    """Tells nobody; what there is without a configuration. Thread-safe.

    Attributes:
        on: Whether anybody is told: what costs a look at the database is left out otherwise.
    """

    on = False

    def span(
        self,
        buildset_id: str,
        name: str,
        *,
        start: datetime | None,
        end: datetime,
        key: str = "",
        parent: str = "",
        **facts: Any,
    ) -> None:
        """Tell of a piece of work that is done; returns at once and never raises.

        Args:
            buildset_id: The trace.
            name: The piece: `plan`, `attempt`.
            start: When it began; None: it did not, and nothing is told.
            end: When it ended.
            key: What makes it one of its name in the trace: an attempt's id.
            parent: `span_key` of the piece it is part of; empty: of the whole.
            facts: What else is known: texts, numbers, booleans; None is left out.
        """

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""


def span_key(name: str, key: str = "") -> str:
    """What a part names its `parent` by."""
    return f"{name}\0{key}"


def trace_id(buildset_id: str) -> int:
    """The trace of a buildset: 128 bits, never 0."""
    return int.from_bytes(_digest("trace", buildset_id)[:16], "big") or 1


def span_id(buildset_id: str, span: str) -> int:
    """The span of a trace that `span_key` names: 64 bits, never 0."""
    return int.from_bytes(_digest("span", buildset_id, span)[:8], "big") or 1


def open_traces(
    endpoint: str,
    *,
    process: Callable[[], str],
    service_name: str,
    headers: Mapping[str, str],
) -> Traces:
    """Traces that are sent to a collector by OTLP over HTTP.

    Args:
        endpoint: For instance `http://127.0.0.1:4318/v1/traces`.
        process: Tells the name of this process, once it has one.
        service_name: What this installation is called in the traces.
        headers: Sent with every request: a token.

    Raises:
        ConfigError: The extra `opentelemetry` is not installed.
    """
    try:
        from ci.tracing_otlp import OtlpTraces  # noqa: PLC0415 - an extra, imported when chosen
    except ImportError as error:
        raise ConfigError(
            f"traces are configured, but {error.name} is not installed",
            hint="install hypervouch[opentelemetry], or leave traces out",
        ) from error
    return OtlpTraces(endpoint, process=process, service_name=service_name, headers=headers)


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()
