# SPDX-License-Identifier: Apache-2.0
"""A session with a XenServer or XCP-ng pool by the vendor's SDK: calls, tasks, uploads.

Whatever takes time is started as a task and looked at, so that one connection serves all threads
in turn. Its errors are put into our words by one table.

Source: the XenAPI reference of XCP-ng 8.3, error codes of class `api_errors`.
"""

import http.client
import select
import socket
import ssl
import threading
import time
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode
from xml.parsers.expat import ExpatError

import XenAPI

from ci.errors import HypervouchError
from ci.model.feature import Feature
from nodes.hypervisors import api_url, certificates
from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import (
    CallerFault,
    CertificateRefused,
    LoginRefused,
    NodeFault,
    TransientFault,
    Unsupported,
)

OPTIONS = frozenset({"host", "sr", "network"})
NULL = "OpaqueRef:NULL"
Record = dict[str, Any]
_VERSION, _ORIGIN = "1.0", "hypervouch"
_FIRST_LOOK_S, _LAST_LOOK_S = 0.005, 0.5
_ENOUGH = 1 << 16
_BROKEN_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
_AGAIN = "try again in a moment"
_GOES_ON = frozenset({"pending", "cancelling"})
_REFUSALS = (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)
_REFUSED = "SESSION_AUTHENTICATION_FAILED"
_NO_SESSION = "valid session"  # what the SDK says after it logged in anew three times


@dataclass(frozen=True)
class Meaning:
    """Whose fault it is, and what helps."""

    fault: type[TransientFault | NodeFault | CallerFault | Unsupported]
    hint: str = ""


BY_CODE: dict[str, Meaning] = {
    _REFUSED: Meaning(LoginRefused, "look at user and password: it was tried once"),
    "HOST_IS_SLAVE": Meaning(CallerFault, "name the pool's master in the URL"),
    "SESSION_INVALID": Meaning(TransientFault, "the session has ended: try again"),
    "HANDLE_INVALID": Meaning(TransientFault, "it was removed meanwhile"),
    "UUID_INVALID": Meaning(CallerFault, "look at the inventory"),
    "MESSAGE_METHOD_UNKNOWN": Meaning(Unsupported),
    "NOT_IMPLEMENTED": Meaning(Unsupported),
    "SR_OPERATION_NOT_SUPPORTED": Meaning(Unsupported),
    "FEATURE_RESTRICTED": Meaning(Unsupported),
    "LICENCE_RESTRICTION": Meaning(Unsupported),
    "VM_MISSING_PV_DRIVERS": Meaning(Unsupported),
    "VM_LACKS_FEATURE": Meaning(Unsupported),
    "VM_LACKS_FEATURE_SUSPEND": Meaning(Unsupported),
    "VM_LACKS_FEATURE_SHUTDOWN": Meaning(Unsupported),
    "OTHER_OPERATION_IN_PROGRESS": Meaning(TransientFault, _AGAIN),
    "VM_BAD_POWER_STATE": Meaning(TransientFault, "look at the guest's state"),
    "VDI_IN_USE": Meaning(TransientFault, _AGAIN),
    "DEVICE_DETACH_REJECTED": Meaning(TransientFault, _AGAIN),
    "DEVICE_DETACH_TIMEOUT": Meaning(TransientFault, _AGAIN),
    "HOST_STILL_BOOTING": Meaning(TransientFault, _AGAIN),
    "TOO_MANY_PENDING_TASKS": Meaning(TransientFault, _AGAIN),
    "SR_FULL": Meaning(NodeFault, "its storage is full"),
    "RBAC_PERMISSION_DENIED": Meaning(NodeFault, "look at the user's role"),
}
"""Whatever is not here is the node's fault."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """What a URL says: `xenserver://user@master:443/?host=...&sr=...&network=...`.

    Attributes:
        host: Name or address of the pool's master.
        port: TCP port.
        user: Login.
        options: What stands after the question mark.
    """

    host: str
    port: int
    user: str
    options: dict[str, str]


def address(url: str) -> Address:
    """Take a URL apart.

    Raises:
        CallerFault: It is no URL of a pool, or holds a password.
    """
    example = "xenserver://root@host"
    parts, host, port = api_url.split(url, 443, example)
    if not host or not parts.username or parts.path.strip("/"):
        raise CallerFault(f"{url!r} names no host or no user, or has a path", hint=example)
    options = api_url.options(url, parts, OPTIONS)
    return Address(host=host, port=port, user=unquote(parts.username), options=options)


class XapiLink:
    """One login."""

    def __init__(self, where: Address, access: Access) -> None:
        """Connect and log in, once.

        Raises:
            CallerFault: There is no password, or it is not the pool's master.
            TransientFault: It does not answer.
            NodeFault: It refuses us, showed another certificate, or is no XenServer.
        """
        if not access.password:
            raise CallerFault(
                f"there is no password for {where.user} on {where.host}",
                hint="name a file or a variable that holds it",
            )
        self.where = where
        self.timeout_s = access.timeout_s
        self._context = certificates.context(access)
        self._lock = threading.Lock()
        self._refused: XenAPI.Failure | None = None
        self._transport = _Transport(self._context, access.timeout_s)
        place = f"https://{_bracketed(where.host)}:{where.port}"
        self._session: Any = XenAPI.Session(place, transport=self._transport)
        given = (where.user, access.password, _VERSION, _ORIGIN)
        try:
            with self._lock, translated(f"log in to {where.host} as {where.user}"):
                _asked(self._session, "login_with_password", given)
        except BaseException:
            self._transport.close()
            raise

    @property
    def reference(self) -> str:
        """The session's own, which a few calls and uploads want to be told."""
        return str(self._session._session)  # noqa: SLF001 - the SDK has no name for it

    def close(self) -> None:
        """Log out; never raises."""
        with self._lock, suppress(Exception):
            self._session.logout()
        self._transport.close()

    def call(self, doing: str, method: str, *args: Any, feature: Feature | None = None) -> Any:
        """Make one call that answers at once.

        Raises:
            HypervouchError: See BY_CODE.
            Unsupported: It cannot do that, and `feature` was given.
        """
        with self._lock, translated(doing, feature):
            if self._refused is not None:
                raise self._refused
            try:
                return _asked(self._session, method, args)
            except XenAPI.Failure as error:
                if error.details[:1] == [_REFUSED]:  # the SDK had logged in anew
                    self._refused = error
                raise

    def records(self, kind: str) -> dict[str, Record]:
        """All records of a class by their references."""
        doing = f"list each {kind}"
        with translated(doing):
            told = _mapping(self.call(doing, f"{kind}.get_all_records"))
            return {ref: _mapping(one) for ref, one in told.items()}

    def record(self, kind: str, ref: str) -> Record:
        """One record."""
        doing = f"read a {kind}"
        with translated(doing):
            return _mapping(self.call(doing, f"{kind}.get_record", ref))

    def run(self, doing: str, method: str, *args: Any, feature: Feature | None = None) -> str:
        """Start a task, wait for it, and give its result.

        Raises:
            TransientFault: It did not end in time; it was asked to stop.
            HypervouchError: It failed, see BY_CODE.
            Unsupported: It cannot do that, and `feature` was given.
        """
        task = self.call(doing, f"Async.{method}", *args, feature=feature)
        with self._forgotten(task):
            return self._await(doing, task, feature)

    def plug(self, doing: str, kind: str, ref: str, feature: Feature) -> None:
        """Plug a new device into a machine that runs; one that cannot be does not stay."""
        try:
            self.run(doing, f"{kind}.plug", ref, feature=feature)
        except BaseException:
            with suppress(HypervouchError):
                self.call(doing, f"{kind}.destroy", ref)
            raise

    @contextmanager
    def _forgotten(self, task: str) -> Iterator[None]:
        """A task that is removed afterwards; one that goes on is removed by the pool."""
        try:
            yield
        finally:
            with suppress(HypervouchError):
                self.call("forget a task", "task.destroy", task)

    def _await(self, doing: str, task: str, feature: Feature | None) -> str:
        deadline, pause = time.monotonic() + self.timeout_s, _FIRST_LOOK_S
        while True:
            told = self.record("task", task)
            status = str(told.get("status", ""))
            if status == "success":
                return str(told["result"]).removeprefix("<value>").removesuffix("</value>")
            if status not in _GOES_ON:
                raise fault(XenAPI.Failure(told.get("error_info") or [status]), doing, feature)
            if time.monotonic() >= deadline:
                with suppress(HypervouchError):
                    self.call("stop a task", "task.cancel", task)
                raise TransientFault(
                    f"cannot {doing}: its task has not ended in {self.timeout_s:g} s",
                    hint="look at the task on the host",
                    retryable=True,
                )
            time.sleep(pause)
            pause = min(pause * 2, _LAST_LOOK_S)

    def upload(self, disk: Path, vdi: str) -> None:
        """Fill a virtual disk with a raw image, byte by byte.

        The answer comes before the bytes are written: a task of ours tells how that ended.

        Raises:
            NodeUnavailable: It was not taken.
        """
        doing = f"write {disk.name}"
        task = str(self.call(doing, "task.create", f"{_ORIGIN}: {doing}", ""))
        with self._forgotten(task):
            size = {"Content-Length": str(disk.stat().st_size)}
            with translated(doing), disk.open("rb") as file:
                place = self._place("/import_raw_vdi", vdi, task_id=task)
                with self._http(doing, "PUT", place, file, size) as answer:
                    answer.read(_ENOUGH)
            self._await(doing, task, None)

    def first_bytes(self, vdi: str, count: int) -> bytes:
        """The first bytes of a virtual disk; the connection is dropped after them.

        Raises:
            NodeUnavailable: They are not to be had.
        """
        doing = "read a disk"
        place = self._place("/export_raw_vdi", vdi)
        with translated(doing), self._http(doing, "GET", place, None, {}) as answer:
            return answer.read(count)

    def _place(self, path: str, vdi: str, **more: str) -> str:
        told = {"session_id": self.reference, "vdi": vdi, "format": "raw", **more}
        return f"{path}?{urlencode(told)}"

    @contextmanager
    def _http(
        self, doing: str, method: str, place: str, body: Any, headers: dict[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        """A request of its own connection, certificate and all; its answer.

        Raises:
            xmlrpc.client.ProtocolError: It is no success.
        """
        connection = http.client.HTTPSConnection(
            self.where.host, self.where.port, context=self._context, timeout=self.timeout_s
        )
        try:
            connection.request(method, place, body=body, headers=headers)
            answer = connection.getresponse()
            if answer.status != http.HTTPStatus.OK:
                raise xmlrpc.client.ProtocolError(doing, answer.status, answer.reason, {})
            yield answer
        finally:
            connection.close()


def _asked(session: Any, method: str, args: tuple[Any, ...]) -> Any:
    """What the SDK gives; it stumbles over answers that are XML-RPC and no XenAPI.

    Raises:
        xmlrpc.client.ResponseError: It did.
    """
    try:
        return session.xenapi_request(method, args)
    except (TypeError, ValueError, LookupError) as error:
        if isinstance(error, OSError):  # a wrong certificate is a ValueError too
            raise
        raise xmlrpc.client.ResponseError(f"{type(error).__name__}: {error}") from error


class _Told(dict[str, Any]):
    """A record; what is not in it is the fault of who sent it."""

    def __missing__(self, key: str) -> Any:
        raise NodeFault(f"a record lacks {key}", hint="is it a XenServer, and which version?")


def _mapping(told: Any) -> Record:
    """An answer that has to be a record.

    Raises:
        xmlrpc.client.ResponseError: It is something else.
    """
    if not isinstance(told, dict):
        raise xmlrpc.client.ResponseError(f"a record was expected, not {type(told).__name__}")
    return _Told(told)


class _Transport(xmlrpc.client.SafeTransport):
    """TLS as we want it, an end to waiting, and each call sent once.

    The library's own would send a call again on a connection that broke: it may have been done.
    """

    def __init__(self, context: ssl.SSLContext, timeout_s: float) -> None:
        super().__init__(context=context)
        self._timeout_s = timeout_s

    def request(self, *args: Any, **named: Any) -> Any:
        """One call."""
        return self.single_request(*args, **named)

    def make_connection(self, host: Any) -> http.client.HTTPSConnection:
        """The kept connection, unless the other side has ended it, or another one."""
        kept = self._connection[1]
        if kept is not None and _is_over(kept.sock):
            self.close()
        made = super().make_connection(host)
        made.timeout = self._timeout_s
        return made


def _is_over(kept: socket.socket | None) -> bool:
    """Whether a connection that waits for nothing has something to tell: that it ended."""
    if kept is None:
        return False
    poll = select.poll()
    poll.register(kept, select.POLLIN)
    return bool(poll.poll(0))


def fault(
    error: Exception, doing: str, feature: Feature | None = None
) -> HypervouchError | Unsupported:
    """Our error for one of the pool's, or of the way there."""
    if not isinstance(error, XenAPI.Failure):
        return _on_the_way(error, doing)
    details = [str(part) for part in error.details] or ["no reason"]
    words = " ".join(" ".join(details).split())
    what = BY_CODE.get(details[0], Meaning(NodeFault, "look into xensource.log on that host"))
    if issubclass(what.fault, Unsupported):
        if feature is not None:
            return Unsupported(feature, f"XenServer says: {words}")
        return CallerFault(f"cannot {doing}: {words}")
    text = f"cannot {doing}: {words}"
    if what.fault is TransientFault:
        return TransientFault(text, hint=what.hint, retryable=True)
    return what.fault(text, hint=what.hint)


def _on_the_way(error: Exception, doing: str) -> HypervouchError:
    """TLS, TCP, HTTP, and answers that are no XenServer's."""
    if isinstance(error, ssl.SSLError) and not isinstance(error, _BROKEN_OFF):
        return _no_tls(error, doing)
    if isinstance(error, xmlrpc.client.Fault) and _NO_SESSION in error.faultString:
        return TransientFault(f"cannot {doing}: {error.faultString}", hint=_AGAIN, retryable=True)
    if isinstance(error, (ExpatError, xmlrpc.client.ResponseError, xmlrpc.client.Fault)):
        return NodeFault(f"cannot {doing}: its answer is no XenAPI: {error}", hint="is it one?")
    if isinstance(error, xmlrpc.client.ProtocolError):
        return _by_status(error.errcode, f"cannot {doing}: HTTP {error.errcode} {error.errmsg}")
    text = " ".join(str(error).split()) or type(error).__name__
    return TransientFault(f"cannot {doing}: {text}", hint="look whether it runs", retryable=True)


def _by_status(status: int, text: str) -> HypervouchError:
    if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        return TransientFault(text, hint=_AGAIN, retryable=True)
    if status in _REFUSALS:
        return LoginRefused(text, hint="look at user and password: it was tried once")
    return NodeFault(text, hint="is it a XenServer?")


def _no_tls(error: ssl.SSLError, doing: str) -> NodeFault:
    words = " ".join(one for one in error.args if isinstance(one, str))
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateRefused(
            f"cannot {doing}: its certificate is not the one that was expected: {words}",
            hint="set a ca-file, or pin it: certificate = its SHA-256",
        )
    return NodeFault(f"cannot {doing}: no TLS that we speak: {words}", hint="is it that port?")


@contextmanager
def translated(doing: str, feature: Feature | None = None) -> Iterator[None]:
    """Let whatever the SDK raises come out as one of ours.

    Raises:
        HypervouchError: See BY_CODE.
        Unsupported: It cannot do that, and `feature` was given.
    """
    try:
        yield
    except (
        XenAPI.Failure,
        OSError,
        http.client.HTTPException,
        xmlrpc.client.Error,
        ExpatError,
    ) as error:
        raise fault(error, doing, feature) from error


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else quote(host)
