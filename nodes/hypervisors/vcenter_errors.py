# SPDX-License-Identifier: Apache-2.0
"""What vCenter complains about, put into our words: one table of whose fault it is.

The vendor's message is always kept. Source: VMware's vSphere Web Services API reference, the
faults below `vim.fault` and `vmodl.fault`, by pyvmomi's names for them.
"""

import http.client
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from xml.parsers.expat import ExpatError

from pyVmomi import vim, vmodl

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

_AGAIN = "try again in a moment"
_RIGHTS = "look at the rights of the user's role in vCenter"
_LOOK = "look at the task in vCenter"
# What is heard from a port where something else answers.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST"})


class NoSoap(http.client.HTTPException):
    """An answer that is no vCenter's."""


@dataclass(frozen=True)
class Meaning:
    """Whose fault it is, and what helps."""

    fault: type[TransientFault | NodeFault | CallerFault | Unsupported]
    hint: str = ""


BY_FAULT: tuple[tuple[type[Exception], Meaning], ...] = (
    (
        vim.fault.InvalidLogin,
        Meaning(LoginRefused, "look at user and password: it was tried once"),
    ),
    (vim.fault.NotAuthenticated, Meaning(TransientFault, "the session has ended: try again")),
    (vim.fault.NoPermission, Meaning(NodeFault, _RIGHTS)),
    (vim.fault.DuplicateName, Meaning(CallerFault, "choose another name")),
    (vim.fault.FileAlreadyExists, Meaning(CallerFault, "choose another name")),
    (vim.fault.InvalidName, Meaning(CallerFault, "choose another name")),
    (vmodl.fault.InvalidArgument, Meaning(CallerFault)),
    (vmodl.fault.NotSupported, Meaning(Unsupported)),
    (vmodl.fault.MethodNotFound, Meaning(Unsupported)),
    (vim.fault.ToolsUnavailable, Meaning(Unsupported)),
    (vim.fault.TaskInProgress, Meaning(TransientFault, _AGAIN)),
    (vim.fault.ConcurrentAccess, Meaning(TransientFault, _AGAIN)),
    (vim.fault.ResourceInUse, Meaning(TransientFault, _AGAIN)),
    (vim.fault.FileLocked, Meaning(TransientFault, _AGAIN)),
    (vim.fault.Timedout, Meaning(TransientFault, _AGAIN)),
    (vim.fault.InvalidState, Meaning(TransientFault, "look at the guest's state in vCenter")),
    (vmodl.fault.HostCommunication, Meaning(TransientFault, "vCenter does not reach its host")),
    (vmodl.fault.RequestCanceled, Meaning(TransientFault, _AGAIN)),
    (vmodl.fault.ManagedObjectNotFound, Meaning(TransientFault, "it was removed meanwhile")),
)
"""The first that fits stands; whatever is not here is the node's fault."""


def meaning(error: Exception) -> Meaning:
    """Whose fault a fault of vCenter is."""
    found = (what for kind, what in BY_FAULT if isinstance(error, kind))
    return next(found, Meaning(NodeFault, _LOOK))


def told(error: Exception) -> str:
    """A fault's kind and the vendor's message, on one line."""
    kind = type(error).__name__.rpartition(".")[2]
    words = " ".join(str(getattr(error, "msg", "") or "").split())
    return f"{kind}: {words}" if words else kind


def fault(
    error: Exception, doing: str, feature: Feature | None = None
) -> HypervouchError | Unsupported:
    """Our error for one of vCenter's, or of the way there.

    Args:
        error: What pyvmomi raised.
        doing: What was tried, for the message.
        feature: What it would have shown; without one, unsupported is the caller's fault.
    """
    if not isinstance(error, vmodl.MethodFault):
        return _on_the_way(error, doing)
    what = meaning(error)
    if issubclass(what.fault, Unsupported):
        if feature is not None:
            return Unsupported(feature, f"vCenter says: {told(error)}")
        return CallerFault(f"cannot {doing}: {told(error)}")
    text = f"cannot {doing}: {told(error)}"
    if what.fault is TransientFault:
        return TransientFault(text, hint=what.hint, retryable=True)
    return what.fault(text, hint=what.hint)


def _on_the_way(error: Exception, doing: str) -> HypervouchError:
    """TLS, TCP, HTTP, and answers that are no vCenter's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CertificateRefused(
            f"cannot {doing}: its certificate is not the one that was expected: {error}",
            hint="set a ca-file, or pin it: certificate = its SHA-256",
        )
    if isinstance(error, ssl.SSLError) and getattr(error, "reason", "") in _NO_TLS:
        return NodeFault(f"cannot {doing}: it speaks no TLS: {error}", hint="is the port right?")
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, (ExpatError, NoSoap)):
        return NodeFault(f"cannot {doing}: its answer is no SOAP: {text}", hint="is it a vCenter?")
    if isinstance(error, http.client.HTTPException) and text[:3] in {"401", "403"}:
        return LoginRefused(f"cannot {doing}: HTTP {text}", hint=_RIGHTS)
    return TransientFault(f"cannot {doing}: {text}", hint="look whether it runs", retryable=True)


ON_THE_WAY = (OSError, http.client.HTTPException, ExpatError)
"""What pyvmomi lets through besides `vmodl.MethodFault`; ssl.SSLError is an OSError."""


@contextmanager
def translated(doing: str, feature: Feature | None = None) -> Iterator[None]:
    """Let whatever vCenter raises come out as one of ours.

    Raises:
        TransientFault: It may work in a moment.
        NodeFault: It is broken, or refuses us.
        CallerFault: We asked wrongly.
        Unsupported: It cannot do that.
    """
    try:
        yield
    except (vmodl.MethodFault, *ON_THE_WAY) as error:
        raise fault(error, doing, feature) from error


@contextmanager
def at_login(doing: str) -> Iterator[None]:
    """The same for a login, which a role can forbid too.

    Raises:
        LoginRefused: It does not take us.
    """
    try:
        with translated(doing):
            yield
    except NodeFault as error:
        if isinstance(error.__cause__, vim.fault.NoPermission):
            raise LoginRefused(error.message, hint=_RIGHTS) from error.__cause__
        raise
