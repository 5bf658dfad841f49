# SPDX-License-Identifier: Apache-2.0
"""The least of a Gerrit REST client, for those who look at a server from outside."""

import json
import ssl
from collections.abc import Sequence
from functools import cache
from typing import Any

import httpx

from ci.errors import ReviewServerError

MAGIC = ")]}'"


class RestFailed(ReviewServerError):
    """The server answered with an error.

    Attributes:
        status: HTTP status.
        text: What it said.
    """

    def __init__(self, what: str, status: int, text: str) -> None:
        super().__init__(f"{what}: {status} {text[:300]}")
        self.status = status
        self.text = text


@cache
def authorities() -> ssl.SSLContext:
    """Whom a client trusts, read once: anew for each request it costs 25 ms of a core."""
    return httpx.create_ssl_context(trust_env=False)


def rest(
    url: str,
    method: str,
    path: str,
    body: object = None,
    *,
    auth: tuple[str, str] | None,
    ok: Sequence[int] = (),
    timeout_s: float = 60.0,
) -> Any:
    """Call a Gerrit REST endpoint.

    Args:
        url: The server's base address without a trailing slash.
        method: HTTP method.
        path: From the first slash on, without `/a`.
        body: Sent as JSON; None sends nothing.
        auth: User and HTTP password (adds `/a`), or None to be anonymous.
        ok: Error statuses that are answered with None.
        timeout_s: Seconds to wait.

    Raises:
        RestFailed: Another error status.
    """
    prefix = "" if auth is None else "/a"
    try:
        reply = httpx.request(
            method,
            url + prefix + path,
            json=body,
            auth=auth,
            timeout=timeout_s,
            trust_env=False,
            verify=authorities(),
        )
    except httpx.HTTPError as error:
        raise ReviewServerError(f"{method} {path}: {error}", retryable=True) from error
    if reply.status_code in ok:
        return None
    if reply.is_error:
        raise RestFailed(f"{method} {path}", reply.status_code, reply.text)
    text = reply.text
    return json.loads(text[len(MAGIC) :]) if text.startswith(MAGIC) else text
