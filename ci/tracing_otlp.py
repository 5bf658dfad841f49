# SPDX-License-Identifier: Apache-2.0
"""Sending traces by OTLP over HTTP, with OpenTelemetry's own library; imported when configured.

Spans wait in the library's queue and are sent by its thread. While nobody answers they are
dropped, which is said once, and so is the end of it: traces are never worth a build's time.
"""

import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from importlib.metadata import version
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from ci.log import get
from ci.tracing import ROOT, Traces, span_id, span_key, trace_id

SEND_S = 3.0
"""How long one batch is tried."""
EVERY_MS = 2000
MOST_WAITING = 2048
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class OtlpTraces(Traces):
    """Tells a collector; see `open_traces`."""

    on = True

    def __init__(
        self,
        endpoint: str,
        *,
        process: Callable[[], str],
        service_name: str,
        headers: Mapping[str, str],
    ) -> None:
        # The library logs a traceback for each batch that nobody took; `_Told` says it once.
        logging.getLogger("opentelemetry").setLevel("CRITICAL")
        self._service_name = service_name
        self._process = process
        self._scope = InstrumentationScope("hypervouch")
        sender = OTLPSpanExporter(endpoint=endpoint, headers=dict(headers), timeout=SEND_S)
        self._queue = BatchSpanProcessor(
            _Told(sender, endpoint),
            max_queue_size=MOST_WAITING,
            schedule_delay_millis=EVERY_MS,
            export_timeout_millis=SEND_S * 1000,
        )

    @cached_property
    def _resource(self) -> Resource:
        return Resource(
            {
                "service.name": self._service_name,
                "service.version": version("hypervouch"),
                "service.instance.id": self._process(),
                "host.name": socket.gethostname(),
            }
        )

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
        """Put a span into the queue."""
        if start is None:
            return
        trace = trace_id(buildset_id)
        above = None
        if name != ROOT:
            above = _context(trace, span_id(buildset_id, parent or span_key(ROOT)))
        self._queue.on_end(
            ReadableSpan(
                name=name,
                context=_context(trace, span_id(buildset_id, span_key(name, key))),
                parent=above,
                resource=self._resource,
                attributes={
                    "hypervouch.buildset": buildset_id,
                    **{f"hypervouch.{k}": v for k, v in facts.items() if v is not None},
                },
                kind=SpanKind.INTERNAL,
                instrumentation_scope=self._scope,
                start_time=_nanoseconds(start),
                end_time=max(_nanoseconds(start), _nanoseconds(end)),
            )
        )

    def close(self) -> None:
        """Send what is left."""
        self._queue.shutdown()  # type: ignore[no-untyped-call]


class _Told(SpanExporter):
    """Sends, and says once when nobody takes it."""

    def __init__(self, sender: SpanExporter, endpoint: str) -> None:
        self._sender = sender
        self._well = True
        self._log = get("trace").bind(endpoint=endpoint)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; one that is not taken is lost."""
        try:
            result = self._sender.export(spans)
        except Exception:  # noqa: BLE001 - whatever the library meets costs traces and no more
            result = SpanExportResult.FAILURE
        well = result is SpanExportResult.SUCCESS
        if well is not self._well:
            self._well = well
            if well:
                self._log.info("traces are taken again", action="sent")
            else:
                self._log.warning("traces are lost: nobody takes them", action="lost")
        return result

    def shutdown(self) -> None:
        """End a try in hand."""
        self._sender.shutdown()

    def force_flush(self, timeout_millis: int = 3000) -> bool:  # noqa: ARG002 - the library's signature
        """Nothing waits here."""
        return True


def _context(trace: int, span: int) -> SpanContext:
    return SpanContext(trace_id=trace, span_id=span, is_remote=True, trace_flags=_SAMPLED)


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1000
