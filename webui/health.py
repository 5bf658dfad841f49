# SPDX-License-Identifier: Apache-2.0
"""`/healthz`, `/readyz` and `/metrics`: for those who watch this process and balance its load.

The pages serve them, and a process without pages serves them alone on an address of its own.
Nothing here writes, waits for a silent database or shows a secret.
"""

import threading
from collections.abc import Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ci.board import Found, HealthBoard
from webui.headers import NO_STORE


def health_routes(board: HealthBoard, registry: CollectorRegistry) -> tuple[Route, ...]:
    """The three routes.

    Args:
        board: The process's loops and checks.
        registry: Its metrics.
    """

    # Plain functions: Starlette runs them in threads, so that one that waits delays no page.
    def healthz(_request: Request) -> Response:
        return _answer(board, board.health(), "loops")

    def readyz(_request: Request) -> Response:
        return _answer(board, board.readiness(), "checks")

    def metrics(request: Request) -> Response:
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        return Response(
            encode(registry), headers={"Content-Type": media_type, "Cache-Control": NO_STORE}
        )

    return (
        Route("/healthz", healthz, name="health"),
        Route("/readyz", readyz, name="ready"),
        Route("/metrics", metrics, name="metrics"),
    )


def create_health_app(board: HealthBoard, registry: CollectorRegistry) -> Starlette:
    """The application of a process without pages."""
    app = Starlette(routes=list(health_routes(board, registry)))
    app.state.stopping = threading.Event()
    return app


def _answer(board: HealthBoard, found: Sequence[Found], kind: str) -> Response:
    good = all(one.good for one in found)
    body = {
        "status": "ok" if good else "failing",
        "process": board.name,
        "roles": list(board.roles),
        kind: [
            {
                "name": one.name,
                "ok": one.good,
                "message": one.message,
                "since": one.since.isoformat(timespec="seconds"),
            }
            for one in found
        ],
    }
    return JSONResponse(body, status_code=200 if good else 503, headers={"Cache-Control": NO_STORE})
