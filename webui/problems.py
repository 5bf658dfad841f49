# SPDX-License-Identifier: Apache-2.0
"""Error pages: one plain sentence and what to do; JSON where JSON was asked for."""

from http import HTTPStatus

from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ci import log
from webui.ansi import one_line
from webui.headers import HEADERS
from webui.pages import render

_HINTS = {
    400: "Look at the address again, or start from the list of builds.",
    403: "Operators find the token in the secret that operator-token names.",
    404: "The address may be mistyped, or its build older than what this site keeps.",
    405: "This address is for reading.",
    409: "Look at the outbox again: it may have been delivered meanwhile.",
    410: "What the tests said is on the build's page for longer than its logs.",
    413: "Shorten what was typed.",
    429: "Wait a minute, or use hypervouch outbox on the command line.",
    503: "It should pass; the page can be loaded again in a moment.",
}


def problem(request: Request, status: int, message: str) -> Response:
    """An error as a page, or as JSON for a JSON twin."""
    title = HTTPStatus(status).phrase
    if request.url.path.endswith(".json"):
        body = {"error": {"status": status, "title": title, "message": message}}
        return JSONResponse(body, status_code=status)
    context = {
        "status": status,
        "title": title,
        "message": message,
        "hint": _HINTS.get(status, ""),
        "twin": "/index.json",
    }
    return render(request, "problem.html", context, status=status)


def on_http(request: Request, error: Exception) -> Response:
    """What a route refused, and addresses that do not exist."""
    if not isinstance(error, HTTPException):
        raise error
    said = error.detail if error.detail != HTTPStatus(error.status_code).phrase else ""
    message = said or f"There is no page at {one_line(request.url.path, 200)}."
    response = problem(request, error.status_code, message)
    response.headers.update(error.headers or {})
    return response


def on_database(request: Request, error: Exception) -> Response:
    """The database is away or locked."""
    log.get("page").error("the database cannot be read", path=request.url.path, error=str(error))
    return problem(request, 503, "The database cannot be read at the moment.")


def on_bug(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """An error nobody foresaw: the server logs it, the reader sees no traceback.

    This response is made outside of the middleware, so it brings the headers itself.
    """
    response = problem(request, 500, "This page could not be made: a defect on our side.")
    response.headers.update(HEADERS)
    return response


HANDLERS = {HTTPException: on_http, SQLAlchemyError: on_database, Exception: on_bug}
