# SPDX-License-Identifier: Apache-2.0
"""What a Hyper-V host complains about, put into our words: one table of whose fault it is.

PowerShell tells an error by its FullyQualifiedErrorId, `InvalidState,Microsoft...StartVM`, and a
category; both are looked up. The vendor's words are always kept.

Source: Microsoft's reference of System.Management.Automation.ErrorCategory and of the module
Hyper-V. Identities marked by Hyper-V were not seen on a real host by us.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import requests
from pypsrp.exceptions import (
    AuthenticationError,
    WinRMTransportError,
    WSManFaultError,
)

from ci.errors import HypervouchError
from ci.model.feature import Feature
from nodes.hypervisors.faults import (
    CallerFault,
    CertificateRefused,
    LoginRefused,
    NodeFault,
    TransientFault,
    Unsupported,
)
from nodes.wsman import ON_THE_WAY

NO_SHELL = 2150858843
_AGAIN = "try again in a moment"
_LOGIN = "look at user and password: it was tried once"
_RIGHTS = "is the user in Hyper-V Administrators and Remote Management Users?"
_GONE = "it was removed meanwhile"
_CATEGORY_MAX = 31
RESOURCE_EXISTS = 20
UNKNOWN_NAME, NO_PATH = "InvalidParameter", "PathNotFound"

_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


@dataclass(frozen=True)
class Meaning:
    """Whose fault it is, and what helps."""

    fault: type[TransientFault | NodeFault | CallerFault | Unsupported]
    hint: str = ""


BY_ID: dict[str, Meaning] = {
    "CommandNotFoundException": Meaning(Unsupported),
    "NamedParameterNotFound": Meaning(Unsupported),
    "NotSupported": Meaning(Unsupported),
    UNKNOWN_NAME: Meaning(CallerFault, "look at the inventory"),
    "ObjectAlreadyExists": Meaning(CallerFault, "choose another name"),
    "InvalidState": Meaning(TransientFault, "look at the guest's state"),
    "ObjectNotFound": Meaning(TransientFault, _GONE),
    NO_PATH: Meaning(TransientFault, _GONE),
    "ObjectInUse": Meaning(TransientFault, _AGAIN),
    "RemoveFileSystemItemIOError": Meaning(TransientFault, _AGAIN),
    "Timeout": Meaning(TransientFault, _AGAIN),
    "AccessDenied": Meaning(NodeFault, _RIGHTS),
    "OutOfMemory": Meaning(NodeFault, "its memory is full"),
}
"""By what stands before the comma of a FullyQualifiedErrorId."""

BY_CATEGORY: dict[int, Meaning] = {
    5: Meaning(CallerFault),  # InvalidArgument
    11: Meaning(Unsupported),  # NotImplemented
    13: Meaning(TransientFault, _GONE),  # ObjectNotFound
    15: Meaning(TransientFault, _AGAIN),  # OperationTimeout
    18: Meaning(NodeFault, _RIGHTS),  # PermissionDenied
    19: Meaning(TransientFault, _AGAIN),  # ResourceBusy
    RESOURCE_EXISTS: Meaning(CallerFault, "choose another name"),
    21: Meaning(TransientFault, _AGAIN),  # ResourceUnavailable
    25: Meaning(NodeFault, _RIGHTS),  # SecurityError
    27: Meaning(TransientFault, _AGAIN),  # ConnectionError
    28: Meaning(LoginRefused, _LOGIN),  # AuthenticationError
}
"""By ErrorCategory, for other identities; whatever is in neither is the node's fault."""

BY_FAULT: dict[int, Meaning] = {
    NO_SHELL: Meaning(TransientFault, "the session has ended: try again"),
    5: Meaning(LoginRefused, _RIGHTS),  # ERROR_ACCESS_DENIED
    995: Meaning(TransientFault, _AGAIN),  # ERROR_OPERATION_ABORTED
    2150859174: Meaning(TransientFault, "the user has too many sessions open"),
}
"""By the number of a WS-Management fault."""


class CmdletFailed(Exception):
    """A pipeline ended with an error record.

    Attributes:
        identity: What stands before the comma of its FullyQualifiedErrorId.
        category: Number of its ErrorCategory.
    """

    def __init__(self, words: str, identity: str, category: int) -> None:
        super().__init__(words)
        self.identity = identity
        self.category = category


def from_record(record: Any) -> CmdletFailed:
    """What an error record says."""
    whole = str(getattr(record, "fq_error", "") or "?")
    words = " ".join(str(record).split())
    category = int(getattr(record, "category", 0) or 0)
    known = category if 0 <= category <= _CATEGORY_MAX else 0
    return CmdletFailed(f"{words} ({whole})", whole.partition(",")[0], known)


def fault(
    error: Exception, doing: str, feature: Feature | None = None
) -> HypervouchError | Unsupported:
    """Our error for one of the host's, or of the way there.

    Args:
        error: What was raised.
        doing: What was tried, for the message.
        feature: What it would have shown; without one, unsupported is the caller's fault.
    """
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, CmdletFailed):
        node = Meaning(NodeFault, "look into the host's event log, Hyper-V-VMMS")
        what = BY_ID.get(error.identity) or BY_CATEGORY.get(error.category, node)
        return _made(what, doing, words, feature)
    if isinstance(error, AuthenticationError):
        return _made(Meaning(LoginRefused, _LOGIN), doing, words)
    if isinstance(error, WSManFaultError):
        code = error.code if isinstance(error.code, int) else 0
        what = BY_FAULT.get(code, Meaning(NodeFault, "look into the host's event log, WinRM"))
        told = " ".join(str(error.reason or error).split())
        return _made(what, doing, f"{told} (WS-Management fault {code})")
    return _on_the_way(error, doing, words)


def _on_the_way(error: Exception, doing: str, words: str) -> HypervouchError | Unsupported:
    """TLS, TCP, HTTP, and answers that are no WinRM's."""
    if isinstance(error, requests.exceptions.SSLError) and _is_certificates(error):
        hint = "set a ca-file, or pin it: certificate = its SHA-256"
        words = f"its certificate is not the one that was expected: {words}"
        return _made(Meaning(CertificateRefused, hint), doing, words)
    if isinstance(error, WinRMTransportError):
        status = int(error.code)
        what = Meaning(NodeFault, "is WinRM there?")
        if status in _REFUSALS:
            what = Meaning(LoginRefused, _LOGIN)
        elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            what = Meaning(TransientFault, _AGAIN)
        return _made(what, doing, f"HTTP {status}")
    if isinstance(error, requests.TooManyRedirects):
        return _made(Meaning(NodeFault, "is WinRM there?"), doing, "it sends us elsewhere")
    if isinstance(error, (requests.RequestException, OSError)):
        return _made(Meaning(TransientFault, "look whether it runs"), doing, words)
    if isinstance(error, ImportError):
        hint = "pip install 'pyspnego[kerberos]', or another auth="
        return _made(Meaning(CallerFault, hint), doing, words)
    hint = "is it WinRM, with this way to log in?"
    return _made(Meaning(NodeFault, hint), doing, f"{type(error).__name__}: {words}")


def _is_certificates(error: BaseException) -> bool:
    """Whether TLS failed for its certificate, and not for a connection that broke."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, ssl.SSLCertVerificationError):
            return True
        inner = inner.__cause__ or inner.__context__
    return False


def _made(
    what: Meaning, doing: str, words: str, feature: Feature | None = None
) -> HypervouchError | Unsupported:
    text = f"cannot {doing}: {words}"
    if issubclass(what.fault, Unsupported):
        if feature is not None:
            return Unsupported(feature, f"Hyper-V says: {words}")
        return CallerFault(text)
    if what.fault is TransientFault:
        return TransientFault(text, hint=what.hint, retryable=True)
    return what.fault(text, hint=what.hint)


@contextmanager
def translated(doing: str, feature: Feature | None = None) -> Iterator[None]:
    """Let whatever pypsrp or the host raises come out as one of ours.

    Raises:
        HypervouchError: See the tables.
        Unsupported: It cannot do that, and `feature` was given.
    """
    try:
        yield
    except (CmdletFailed, *ON_THE_WAY) as error:
        raise fault(error, doing, feature) from error
