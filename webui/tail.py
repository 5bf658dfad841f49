# SPDX-License-Identifier: Apache-2.0
"""`/builds/ID/stream`: new log lines and changes of state as server-sent events.

Events: `log` (JSON: attempt, lines of [number, time, [[class, text], ...], class]), `state`
(JSON: the pulse) whenever something visible changed, `done` when nothing more will come. Their
ids are `ATTEMPT:LINE`, so a browser that reconnects goes on where it was. Asynchronous, because
a page stays connected for as long as a build runs; what blocks runs in a thread.

Source: the WHATWG HTML standard, section "Server-sent events".
"""

import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ci.store.reads import build_pulse
from ci.store.reads.records import BuildPulse
from webui import views
from webui.ansi import segments
from webui.logs import LogLine
from webui.site import Site, site_of

PERIOD_S = 0.5
SILENCE_S = 15.0
LONGEST_S = 3600.0
LINES_A_STEP = 400
STREAMS = 100


@dataclass(kw_only=True)
class _Follower:
    """How far one reader has got; used by one stream, one step at a time."""

    site: Site
    build_id: str
    attempt_id: str
    line: int
    mark: str | None = None
    finished: bool = False
    out: list[str] = field(default_factory=list)

    def step(self) -> list[str]:
        """Everything new, as ready text; blocks on the database and the file."""
        self.out = []
        pulse = build_pulse(self.site.database, self.build_id)
        if pulse is None:
            self.finished = True
            return [_event("done", {}, "")]
        if pulse.attempt_id and pulse.attempt_id != self.attempt_id:
            self._lines(self.attempt_id)
            self.attempt_id, self.line = pulse.attempt_id, 1
        whole = self._lines(self.attempt_id)
        if self.mark not in {None, pulse.mark}:
            self._say("state", _public(pulse))
        self.mark = pulse.mark
        if pulse.finished and whole:
            self.finished = True
            self._say("done", _public(pulse))
        return self.out

    def _lines(self, attempt_id: str) -> bool:
        """Add the next lines of an attempt; whether that was all there is."""
        path = self.site.logs.console(self.build_id, attempt_id)
        if path is None:
            return True
        window = self.site.logs.window(path, self.line, LINES_A_STEP, complete=True)
        if window.lines:
            self.line = window.last + 1
            lines = [_shown(line) for line in window.lines]
            self._say("log", {"attempt": attempt_id, "lines": lines})
        return self.line > window.total

    def _say(self, kind: str, data: dict[str, Any]) -> None:
        self.out.append(_event(kind, data, f"{self.attempt_id}:{self.line}"))


def _public(pulse: BuildPulse) -> dict[str, Any]:
    return {name: value for name, value in asdict(pulse).items() if name != "mark"}


def _shown(line: LogLine) -> list[Any]:
    return [
        line.number,
        views.clock_time(line.at),
        segments(line.text),
        views.line_class(line.text),
    ]


def _event(kind: str, data: dict[str, Any], event_id: str) -> str:
    return f"event: {kind}\nid: {event_id}\ndata: {json.dumps(data)}\n\n"


async def _follow(follower: _Follower) -> AsyncIterator[str]:
    """Steps until the build is done, the server stops, or an hour has passed."""
    silent_s = 0.0
    yield "retry: 2000\n\n"
    with anyio.move_on_after(LONGEST_S):
        while not follower.site.stopping.is_set():
            news = await anyio.to_thread.run_sync(follower.step)
            for text in news:
                yield text
            if follower.finished:
                return
            silent_s = 0.0 if news else silent_s + PERIOD_S
            if silent_s >= SILENCE_S:
                silent_s = 0.0
                yield ": still here\n\n"
            if not news:
                await anyio.sleep(PERIOD_S)


def _start(request: Request) -> tuple[str, int]:
    """Where the reader is: from its last event id, else from the query, else the top."""
    said = request.headers.get("last-event-id") or "{}:{}".format(
        request.query_params.get("attempt", ""), request.query_params.get("line", "1")
    )
    attempt_id, _, line = said.rpartition(":")
    good = line.isascii() and line.isdigit() and len(line) <= 9  # noqa: PLR2004
    return attempt_id, max(1, int(line)) if good else 1


async def _stream(request: Request) -> Response:
    site = site_of(request)
    build_id = request.path_params["build_id"]
    if await anyio.to_thread.run_sync(build_pulse, site.database, build_id) is None:
        raise HTTPException(404, "There is no such build.")
    if request.method == "HEAD":
        return Response(media_type="text/event-stream")
    open_streams: set[object] = request.app.state.streams
    if len(open_streams) >= STREAMS:
        raise HTTPException(503, "Too many live pages are open.", headers={"Retry-After": "30"})
    attempt_id, line = _start(request)
    follower = _Follower(site=site, build_id=build_id, attempt_id=attempt_id, line=line)

    async def body() -> AsyncIterator[str]:
        ticket = object()
        open_streams.add(ticket)
        try:
            async for text in _follow(follower):
                yield text
        finally:
            open_streams.discard(ticket)

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(body(), media_type="text/event-stream", headers=headers)


ROUTE = Route("/builds/{build_id}/stream", _stream, name="stream")
