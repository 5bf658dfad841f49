# SPDX-License-Identifier: Apache-2.0
"""One trace for each buildset, over processes, to a collector on loopback that may be away."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ci import observed
from ci.clock import FakeClock
from ci.layout import TraceConfig
from ci.telemetry import Telemetry
from ci.tracing import Traces, open_traces, span_id, span_key, trace_id
from tests.kit.core import FakeCheckout, ScriptedRunner, event, lab, queue_buildset

GOOD = "write-junit r.xml pass=2"


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP and keeps what it was sent."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Taking)
        self.requests, self.headers = [], []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}/v1/traces"

    def spans(self):
        """(span, process that told it) pairs."""
        found = []
        for request in self.requests:
            for resource in request.resource_spans:
                facts = {a.key: a.value.string_value for a in resource.resource.attributes}
                for scope in resource.scope_spans:
                    found += [(span, facts["service.instance.id"]) for span in scope.spans]
        return found


class _Taking(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip  # noqa: PLC0415

            body = gzip.decompress(body)
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.server.headers.append(dict(self.headers))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.shutdown()
    made.server_close()


def traces_of(endpoint, process):
    return open_traces(
        endpoint,
        process=lambda: process,
        service_name="hypervouch",
        headers={"authorization": "Bearer s3cret"},
    )


def test_a_build_is_one_trace_over_three_processes(collector, tmp_path, monkeypatch):
    monkeypatch.setattr("ci.attempt.runner_for", lambda _: ScriptedRunner())
    made = lab(tmp_path, FakeCheckout((GOOD,), GOOD))
    told = {name: traces_of(collector.endpoint, name) for name in ("listen", "work", "relay")}
    made.worker._telemetry = Telemetry(traces=told["work"])
    (build_id,) = queue_buildset(made.database, at=made.clock.now())
    made.drive(build_id)
    buildset_id = made.build(build_id).buildset_id
    now = made.clock.now()
    observed.planned(told["listen"], event(made.clock), [buildset_id], began=now, at=now)
    observed.posted(
        told["relay"],
        made.database,
        buildset_id,
        began=now,
        at=now,
        outcome="delivered",
        transport="rest",
    )
    for one in told.values():
        one.close()
    spans = collector.spans()
    by_name = {span.name: (span, process) for span, process in spans}
    assert {span.trace_id for span, _ in spans} == {trace_id(buildset_id).to_bytes(16, "big")}
    assert {"event", "plan", "attempt", "merge", "lease", "setup", "run", "collect", "judge",
            "post", "buildset"} <= set(by_name)  # fmt: skip
    root = by_name["buildset"][0]
    assert root.parent_span_id == b""
    assert by_name["plan"][0].parent_span_id == root.span_id
    assert by_name["run"][0].parent_span_id == by_name["attempt"][0].span_id
    assert [by_name[name][1] for name in ("plan", "attempt", "post")] == ["listen", "work", "relay"]
    assert all(span.end_time_unix_nano >= span.start_time_unix_nano for span, _ in spans)
    assert collector.headers[0]["authorization"] == "Bearer s3cret"


def test_a_piece_that_is_told_twice_has_one_id():
    assert span_id("b", span_key("attempt", "1")) == span_id("b", span_key("attempt", "1"))
    assert span_id("b", span_key("attempt", "1")) != span_id("b", span_key("attempt", "2"))
    assert trace_id("b") != trace_id("c")


def test_a_collector_that_is_away_disturbs_nobody():
    traces, clock = traces_of("http://127.0.0.1:9/v1/traces", "ci1"), FakeClock()
    began = time.monotonic()
    for number in range(5000):
        traces.span("b", "plan", key=str(number), start=clock.now(), end=clock.now())
    assert time.monotonic() - began < 5
    traces.close()
    assert time.monotonic() - began < 20


def test_nothing_is_told_and_imported_without_a_configuration(collector):
    Traces().span("b", "plan", start=FakeClock().now(), end=FakeClock().now())
    assert not Traces.on
    assert collector.requests == []


def test_an_endpoint_has_to_be_an_address():
    with pytest.raises(ValueError, match="endpoint"):
        TraceConfig(endpoint="127.0.0.1:4318")


def test_an_attempt_is_counted_by_label_kind_and_result(tmp_path, monkeypatch):
    monkeypatch.setattr("ci.attempt.runner_for", lambda _: ScriptedRunner())
    made = lab(tmp_path, FakeCheckout((GOOD,), GOOD))
    (build_id,) = queue_buildset(made.database, at=made.clock.now())
    made.drive(build_id)
    sample = made.worker._telemetry.metrics.registry.get_sample_value
    labels = {"label": "lab", "kind": "check", "result": "SUCCESS"}
    assert sample("hypervouch_attempts_total", labels) == 1
    assert sample("hypervouch_attempt_seconds_count", {"label": "lab"}) == 1
    assert sample("hypervouch_attempts_running") == 0
