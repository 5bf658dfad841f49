# SPDX-License-Identifier: Apache-2.0
"""Calls to z/VM by IBM's Cloud Connector and its own REST client; its return codes in our words.

The client would wait for ever, believe the environment's proxies, and read the admin's token from
a file: its one request goes by a session of ours instead.

Source: "z/VM Cloud Connector", return codes (overallRC, rc, rs); SMAPI's in rc and rs where
overallRC is 8.
"""

import json
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from zvmconnector import restclient

from ci.errors import HypervouchError
from ci.model.feature import Feature
from nodes.hypervisors import certificates, requests_tls
from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import (
    CallerFault,
    CertificateRefused,
    LoginRefused,
    NodeFault,
    TransientFault,
    Unsupported,
)

_EXAMPLE = "zvm://connector.example.org:8080"
_PORT = 443
_ON_THE_WAY, _UNAUTHORIZED, _FORBIDDEN, _SERVER_ERROR = 101, 401, 403, 500
_FAULTS: Mapping[int, type[TransientFault | NodeFault | CallerFault]] = {
    4: CallerFault,  # the connector's own look at what was asked
    400: CallerFault,
    404: CallerFault,
    409: CallerFault,
    503: TransientFault,
}
_SMAPI, _NOT_IMPLEMENTED = 8, 501
# rc and rs of SMAPI: there is no such image, or its state is another one.
_BY_SMAPI: Mapping[tuple[Any, Any], type[TransientFault | NodeFault | CallerFault]] = {
    (200, 4): CallerFault,
    (200, 8): TransientFault,
    (200, 12): TransientFault,
    (200, 16): TransientFault,
    (400, 12): TransientFault,
}
_HINT = "is it a z/VM Cloud Connector, with auth = token?"
_HINTS = {
    CallerFault: "look at the inventory",
    TransientFault: "look at the guest's state, and try again in a moment",
    NodeFault: "look into the connector's log, and SMAPI's",
}


@dataclass(frozen=True, kw_only=True)
class Address:
    """What a URL says: host and port of the connector's REST server."""

    host: str
    port: int


def address(url: str) -> Address:
    """Take a URL apart.

    Raises:
        CallerFault: It is no URL of a connector, or holds a password.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORT
    except ValueError as error:
        raise CallerFault(f"{url!r} is no URL: {error}", hint=_EXAMPLE) from error
    if parts.password or parts.username:
        raise CallerFault(
            f"the URL of {host} names a user", hint="the connector knows a token only, by reference"
        )
    if not host or parts.path.strip("/") or parts.query:
        raise CallerFault(f"{url!r} names no host, or has a path or options", hint=_EXAMPLE)
    return Address(host=host, port=port)


class _Refused(Exception):
    """The connector does not take the token."""


class _Strange(Exception):
    """It is no answer of a connector's: of a proxy before it, or of something else.

    Args:
        what: What is wrong with it.
        answer: All of it.
    """

    def __init__(self, what: str, answer: requests.Response) -> None:
        super().__init__(f"{what}: HTTP {answer.status_code} {answer.reason}: {answer.text[:300]}")
        self.may_pass = answer.status_code >= _SERVER_ERROR


class _Noted(threading.local):
    """Why the last request of a thread failed."""

    error: Exception | None = None


class _Rest(restclient.RESTClient):  # type: ignore[misc]
    """IBM's client with a session of ours."""

    def __init__(self, where: Address, access: Access) -> None:
        host = f"[{where.host}]" if ":" in where.host else where.host
        super().__init__(host, where.port, ssl_enabled=True)
        tls = certificates.context(access)
        self.session = requests_tls.secure(requests.Session(), self.base_url, tls)
        self.failed = _Noted()
        self._admin = access.password
        self._timeout_s = access.timeout_s
        self._token = ""

    def api_request(
        self, url: str, method: str = "GET", body: Any = None, headers: Any = None, **_: Any
    ) -> Any:
        """One request; a token that has run out is asked for once more."""
        try:
            token = self._token
            answer = self._ask(url, method, body, headers, token or self._log_in())
            if answer.status_code == _UNAUTHORIZED:
                if not token:
                    raise _Refused("it does not take its own token")  # noqa: TRY301
                answer = self._ask(url, method, body, headers, self._log_in())
            if "json" not in answer.headers.get("Content-Type", ""):
                raise _Strange("it is no JSON", answer)  # noqa: TRY301
        except Exception as error:
            # The client makes a text of it; the kind says whose fault it is.
            self.failed.error = error
            raise
        return answer

    def _log_in(self) -> str:
        """A token that lasts an hour, for the admin's, which is tried once."""
        admin = {"Content-Type": "application/json", "X-Admin-Token": self._admin}
        answer = self._send("POST", f"{self.base_url}/token", None, admin)
        if answer.status_code in {_UNAUTHORIZED, _FORBIDDEN}:
            raise _Refused("it does not take the admin's token")
        token = answer.headers.get("X-Auth-Token", "")
        if not token:
            raise _Strange("it gives no token", answer)
        self._token = token
        return str(token)

    def _ask(self, url: str, method: str, body: Any, headers: Any, token: str) -> requests.Response:
        return self._send(method, url, body, {**(headers or {}), "X-Auth-Token": token})

    def _send(self, method: str, url: str, body: Any, headers: Any) -> requests.Response:
        data = body if body is None or isinstance(body, str) else json.dumps(body)
        return self.session.request(
            method, url, data=data, headers=headers, timeout=self._timeout_s, allow_redirects=False
        )


class ZvmLink:
    """One connector."""

    def __init__(self, where: Address, access: Access) -> None:
        """Nothing is contacted yet.

        Raises:
            CallerFault: There is no token, or the certificates cannot be read.
        """
        if not access.password:
            raise CallerFault(
                f"there is no token for {where.host}",
                hint="name a file or a variable that holds it",
            )
        self.where = where
        self._rest = _Rest(where, access)

    def close(self) -> None:
        """Disconnect; never raises."""
        with suppress(Exception):
            self._rest.session.close()

    def call(
        self, doing: str, name: str, *given: Any, feature: Feature | None = None, **more: Any
    ) -> Any:
        """Make a call; returns its output.

        Raises:
            HypervouchError: See `fault`.
            Unsupported: The connector has no such call, and `feature` was given.
        """
        self._rest.failed.error = None
        told = self._rest.call(name, *given, **more)
        cause = self._rest.failed.error
        if not isinstance(told, Mapping):
            raise NodeFault(f"cannot {doing}: its answer is no object", hint=_HINT)
        if told.get("overallRC") == 0:
            return told.get("output")
        raise fault(told, doing, feature, cause) from cause


def fault(
    told: Mapping[str, Any],
    doing: str,
    feature: Feature | None = None,
    cause: Exception | None = None,
) -> HypervouchError | Unsupported:
    """Our error for an answer of the connector: overallRC, rc, rs, and its own message."""
    overall, rc, rs = (told.get(key) for key in ("overallRC", "rc", "rs"))
    overall = overall if isinstance(overall, int) else 0
    # IBM's client tells all threads' failures by one and the same object: a cause is our own.
    words = _short(cause or told.get("errmsg") or "it says nothing")
    text = f"cannot {doing}: {words} (overallRC {overall}, rc {rc}, rs {rs})"
    if overall == _ON_THE_WAY:
        return _on_the_way(text, cause)
    if overall == _NOT_IMPLEMENTED and feature is not None:
        return Unsupported(feature, f"the connector says: {words}")
    kind = _FAULTS.get(overall, NodeFault)
    if overall == _SMAPI:
        kind = _BY_SMAPI.get((rc, rs), NodeFault)
    return kind(text, hint=_HINTS[kind], retryable=kind is TransientFault)


def _short(told: object) -> str:
    """Foreign words on one line, without what a terminal would obey."""
    words = "".join(char if char.isprintable() else " " for char in str(told))
    return " ".join(words.split())[:500]


def _on_the_way(text: str, cause: Exception | None) -> HypervouchError:
    if isinstance(cause, _Strange) and not cause.may_pass:
        return NodeFault(text, hint=_HINT)
    if isinstance(cause, _Refused):
        return LoginRefused(text, hint="look at the admin's token: it was tried once")
    if isinstance(cause, requests.exceptions.SSLError) and _is_certificate(cause):
        return CertificateRefused(
            f"{text}: its certificate is not the one that was expected",
            hint="set a ca-file, or pin it: certificate = its SHA-256",
        )
    if cause is None:
        return NodeFault(text, hint=_HINT)
    return TransientFault(text, hint="look whether it runs", retryable=True)


def _is_certificate(error: BaseException | None) -> bool:
    if isinstance(error, ssl.SSLCertVerificationError):
        return True
    return "is pinned" in str(error) or "CERTIFICATE_VERIFY" in str(error)
