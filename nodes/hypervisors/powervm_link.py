# SPDX-License-Identifier: Apache-2.0
"""A session with the REST API of a PowerVM management console: log on, read, run jobs.

A session that has ended is opened once more; a refused log-on is never tried again. Calls come
one at a time.

The vendor's `pypowervm` is not used: it checks the certificate at log-on alone, and its last
release is of 2021. The answers that it recorded of real consoles are what the tests replay.

Source: those answers, and the names of paths, operations and parameters in pypowervm 1.1.27.
"""

import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote, unquote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import httpx

from ci.errors import HypervouchError
from nodes.hypervisors import api_url, certificates
from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import (
    CallerFault,
    CertificateRefused,
    LoginRefused,
    NodeFault,
    TransientFault,
)

PORT = 12443
_WEB = "http://www.ibm.com/xmlns/systems/power/firmware/web/mc/2012_10/"
_TYPE = "application/vnd.ibm.powervm.web+xml; type={}"
_WORDS = 600
# What httpx tells of a line that was closed too early; it has one error for that and for rubbish.
_HUNG_UP = ("disconnected", "closed connection")
_SESSION = "X-API-Session"
_LOOK_S = 1.0
_DONE = frozenset({"COMPLETED_OK", "COMPLETED_WITH_WARNINGS"})
_GOES_ON = frozenset({"NOT_STARTED", "RUNNING"})
_REFUSALS = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})
_BUSY = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.CONFLICT})


@dataclass(frozen=True, kw_only=True)
class Address:
    """What a URL says: `powervm://user@console:12443/SYSTEM`.

    Attributes:
        host: Name or address of the console, or of NovaLink.
        port: TCP port.
        user: Login.
        system: Name of the managed system; the only one when empty.
    """

    host: str
    port: int
    user: str
    system: str


def address(url: str) -> Address:
    """Take a URL apart.

    Raises:
        CallerFault: It is none of a console, or holds a password.
    """
    example = "powervm://hscroot@console/SYSTEM"
    parts, host, port = api_url.split(url, PORT, example)
    system = unquote(parts.path.strip("/"))
    if not host or not parts.username or "/" in system or parts.query:
        raise CallerFault(f"{url!r} is no URL of a PowerVM console", hint=example)
    return Address(host=host, port=port, user=unquote(parts.username), system=system)


class PowerVmLink:
    """One log-on.

    Args:
        where: What the URL says.
        access: Password and certificates.
        transport: What carries requests; TLS, checked on each connection, when None.
    """

    def __init__(
        self, where: Address, access: Access, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Log on, once.

        Raises:
            CallerFault: There is no password.
            TransientFault: It does not answer.
            NodeFault: It refuses us, or is no console.
        """
        if not access.password:
            raise CallerFault(
                f"there is no password for {where.user} on {where.host}",
                hint="name a file or a variable that holds it",
            )
        self.where = where
        self.timeout_s = access.timeout_s
        self._password = access.password
        self._lock = threading.Lock()
        self._refused = False
        host = f"[{where.host}]" if ":" in where.host else where.host
        self._client = httpx.Client(
            base_url=f"https://{host}:{where.port}/rest/api",
            verify=certificates.context(access),
            timeout=access.timeout_s,
            transport=transport,
            trust_env=False,
        )
        try:
            self._log_on()
        except BaseException:
            self._client.close()
            raise

    def close(self) -> None:
        """Log off; repeatable, never raises."""
        with self._lock, suppress(Exception):
            self._client.delete("/web/Logon")
        self._client.close()

    def _log_on(self) -> None:
        where = self.where
        doing = f"log in to {where.host} as {where.user}"
        self._client.headers.pop(_SESSION, None)
        headers = _headers(("LogonRequest", "LogonResponse"))
        content = _logon(where.user, self._password)
        answer = self._send(doing, "PUT", "/web/Logon", content, headers)
        self._refused = answer.status_code in _REFUSALS
        token = text(_content(answer, doing), _SESSION)
        if not token:
            raise NodeFault(f"{where.host} gave no session", hint="is it a PowerVM console?")
        self._client.headers[_SESSION] = token

    def read(self, path: str, kind: str) -> list[tuple[str, ET.Element]]:
        """The entries of a feed, each as its uuid and the element of that kind.

        Raises:
            HypervouchError: It is not to be had.
        """
        return entries(self._ask(f"read {path}", "GET", f"/uom/{path}"), kind)

    def run(self, doing: str, path: str, operation: str, parameters: Mapping[str, str]) -> None:
        """Run a job on something and wait until it is over.

        Raises:
            TransientFault: It was not over in time.
            NodeFault: It failed, with the console's words.
        """
        body, kinds = _job(operation, parameters), ("JobRequest", "JobResponse")
        told = self._ask(doing, "PUT", f"/uom/{path}/do/{operation}", content=body, kind=kinds)
        deadline = time.monotonic() + self.timeout_s
        place = f"/uom/jobs/{quote(text(told, 'JobID'), safe='')}"
        while (status := text(told, "Status")) in _GOES_ON:
            if time.monotonic() >= deadline:
                raise TransientFault(
                    f"cannot {doing}: its job has not ended in {self.timeout_s:g} s",
                    hint="look at the console's jobs",
                    retryable=True,
                )
            time.sleep(_LOOK_S)
            told = self._ask(doing, "GET", place)
        with suppress(HypervouchError):
            self._ask("forget a job", "DELETE", place)
        if status not in _DONE:
            words = _said(told) or "it gives no reason"
            raise NodeFault(f"cannot {doing}: {status or 'no job'}: {words}")

    def _ask(
        self,
        doing: str,
        method: str,
        path: str,
        *,
        content: bytes = b"",
        kind: tuple[str, str] = ("", ""),
    ) -> ET.Element:
        headers = _headers(kind)
        with self._lock:
            answer = self._send(doing, method, path, content, headers)
            if answer.status_code == HTTPStatus.UNAUTHORIZED and not self._refused:
                self._log_on()
                answer = self._send(doing, method, path, content, headers)
        return _content(answer, doing)

    def _send(
        self, doing: str, method: str, path: str, content: bytes, headers: Mapping[str, str]
    ) -> httpx.Response:
        try:
            return self._client.request(method, path, content=content, headers=headers)
        except (httpx.HTTPError, ssl.SSLError) as error:
            raise _on_the_way(error, doing) from error


def _headers(kind: tuple[str, str]) -> dict[str, str]:
    """What is sent and what is taken, where a call says so."""
    if not kind[0]:
        return {}
    return {"Content-Type": _TYPE.format(kind[0]), "Accept": _TYPE.format(kind[1])}


def _content(answer: httpx.Response, doing: str) -> ET.Element:
    if not answer.is_success:
        raise _refusal(answer, doing)
    return _parsed(answer, doing)


def entries(feed: ET.Element, kind: str) -> list[tuple[str, ET.Element]]:
    """Uuid and element of each entry of a feed."""
    found = []
    for entry in feed.findall(".//{*}entry"):
        element = entry.find(f"{{*}}content/{{*}}{kind}")
        if element is not None:
            found.append((entry.findtext("{*}id", ""), element))
    return found


def text(element: ET.Element, name: str) -> str:
    """The text of the first element of that name, anywhere below; empty where there is none."""
    found = element.find(f".//{{*}}{name}")
    return "" if found is None else (found.text or "").strip()


def _logon(user: str, password: str) -> bytes:
    return (
        f'<LogonRequest xmlns="{_WEB}" schemaVersion="V1_0"><UserID>{escape(user)}</UserID>'
        f"<Password>{escape(password)}</Password></LogonRequest>"
    ).encode()


def _job(operation: str, parameters: Mapping[str, str]) -> bytes:
    listed = "".join(
        f'<JobParameter schemaVersion="V1_0"><ParameterName>{escape(name)}</ParameterName>'
        f"<ParameterValue>{escape(value)}</ParameterValue></JobParameter>"
        for name, value in parameters.items()
    )
    return (
        f'<JobRequest:JobRequest xmlns:JobRequest="{_WEB}" xmlns="{_WEB}" schemaVersion="V1_0">'
        f'<RequestedOperation schemaVersion="V1_0"><OperationName>{operation}</OperationName>'
        "<GroupName>LogicalPartition</GroupName></RequestedOperation>"
        f'<JobParameters schemaVersion="V1_0">{listed}</JobParameters></JobRequest:JobRequest>'
    ).encode()


def _parsed(answer: httpx.Response, doing: str) -> ET.Element:
    if not answer.content:
        return ET.Element("nothing")
    try:
        return ET.fromstring(answer.content)  # noqa: S314 - of a console we let run our guests
    except ET.ParseError as error:
        raise NodeFault(
            f"cannot {doing}: its answer is no XML: {error}", hint="is it a PowerVM console?"
        ) from error


def _said(told: ET.Element) -> str:
    return _short(text(told, "Message") or text(told, "ParameterValue"))


def _short(told: object) -> str:
    """Foreign words on one line, without what a terminal would obey."""
    words = "".join(char if char.isprintable() else " " for char in str(told))
    return " ".join(words.split())[:_WORDS]


def _refusal(answer: httpx.Response, doing: str) -> HypervouchError:
    """The console's own words, where it has some."""
    try:
        said = _said(ET.fromstring(answer.content))  # noqa: S314 - as above
    except ET.ParseError:
        said = _short(answer.text)
    words = f"HTTP {answer.status_code} {answer.reason_phrase}: {said}".rstrip(": ")
    message = f"cannot {doing}: {words}"
    if answer.status_code in _REFUSALS:
        return LoginRefused(message, hint="look at user and password: it was tried once")
    if answer.is_server_error or answer.status_code in _BUSY:
        return TransientFault(message, hint="try again in a moment", retryable=True)
    return NodeFault(message, hint="look into the console's log")


def _on_the_way(error: Exception, doing: str) -> HypervouchError:
    words = _short(error) or type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CertificateRefused(
                f"cannot {doing}: its certificate is not the one that was expected: {words}",
                hint="set a ca-file, or pin it: certificate = its SHA-256",
            )
        cause = cause.__cause__ or cause.__context__
    strange = isinstance(error, (httpx.RemoteProtocolError, httpx.DecodingError))
    if strange and not any(one in words for one in _HUNG_UP):
        return NodeFault(f"cannot {doing}: {words}", hint="is it a PowerVM console?")
    return TransientFault(f"cannot {doing}: {words}", hint="look whether it runs", retryable=True)
