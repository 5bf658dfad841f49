# SPDX-License-Identifier: Apache-2.0
"""What libvirt complains about, put into our words: one table of whose fault it is.

libvirt's own message is always kept: it is what an operator finds in the daemon's log and on
the web. A few messages decide where the code alone says too little.

Source: libvirt's include/libvirt/virterror.h, the numbers of enum virErrorNumber.
"""

import re
from dataclasses import dataclass

import libvirt

from ci.errors import HypervouchError
from ci.model.feature import Feature
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported


@dataclass(frozen=True)
class Meaning:
    """Whose fault it is, and what helps."""

    fault: type[TransientFault | NodeFault | CallerFault | Unsupported]
    hint: str = ""


_TRY_AGAIN = "try again in a moment"
_LOOK = "look into libvirtd's log on that host"
_DAEMON = "look whether libvirtd runs there: systemctl status libvirtd"
_KNOWN = "look at its name in the inventory"

BY_CODE: dict[int, Meaning] = {
    libvirt.VIR_ERR_NO_SUPPORT: Meaning(Unsupported),
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: Meaning(Unsupported),
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: Meaning(Unsupported),
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: Meaning(Unsupported),
    libvirt.VIR_ERR_NO_DOMAIN: Meaning(CallerFault, _KNOWN),
    libvirt.VIR_ERR_NO_STORAGE_VOL: Meaning(CallerFault, _KNOWN),
    libvirt.VIR_ERR_NO_STORAGE_POOL: Meaning(CallerFault, _KNOWN),
    libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT: Meaning(CallerFault, _KNOWN),
    libvirt.VIR_ERR_NO_NETWORK: Meaning(CallerFault, _KNOWN),
    libvirt.VIR_ERR_NO_SECRET: Meaning(CallerFault, _KNOWN),
    libvirt.VIR_ERR_DOM_EXIST: Meaning(CallerFault, "choose another name"),
    libvirt.VIR_ERR_STORAGE_VOL_EXIST: Meaning(CallerFault, "choose another name"),
    libvirt.VIR_ERR_INVALID_ARG: Meaning(CallerFault),
    libvirt.VIR_ERR_XML_ERROR: Meaning(CallerFault),
    libvirt.VIR_ERR_XML_DETAIL: Meaning(CallerFault),
    libvirt.VIR_ERR_OPERATION_INVALID: Meaning(CallerFault, "look at the guest's state"),
    libvirt.VIR_ERR_DEVICE_MISSING: Meaning(CallerFault, "look at what is attached"),
    libvirt.VIR_ERR_NO_CONNECT: Meaning(CallerFault, "for instance qemu:///system"),
    libvirt.VIR_ERR_OPERATION_TIMEOUT: Meaning(TransientFault, _TRY_AGAIN),
    libvirt.VIR_ERR_OPERATION_ABORTED: Meaning(TransientFault, _TRY_AGAIN),
    libvirt.VIR_ERR_RESOURCE_BUSY: Meaning(TransientFault, _TRY_AGAIN),
    libvirt.VIR_ERR_RPC: Meaning(TransientFault, _DAEMON),
    libvirt.VIR_ERR_INVALID_CONN: Meaning(TransientFault, _DAEMON),
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE: Meaning(
        TransientFault, "the guest must run qemu-guest-agent and have booted"
    ),
    libvirt.VIR_ERR_AGENT_UNSYNCED: Meaning(TransientFault, _TRY_AGAIN),
    libvirt.VIR_ERR_NO_CLIENT: Meaning(TransientFault, _DAEMON),
    libvirt.VIR_ERR_AUTH_FAILED: Meaning(NodeFault, "look at user and key"),
    libvirt.VIR_ERR_AUTH_UNAVAILABLE: Meaning(NodeFault, "look at user and key"),
    libvirt.VIR_ERR_AUTH_CANCELLED: Meaning(NodeFault, "look at user and key"),
    libvirt.VIR_ERR_ACCESS_DENIED: Meaning(NodeFault, "the user must be in the group libvirt"),
    libvirt.VIR_ERR_NO_MEMORY: Meaning(NodeFault, "the host has no memory left"),
}
"""Whatever is not here is the node's fault."""

BY_MESSAGE: tuple[tuple[re.Pattern[str], Meaning], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), meaning)
    for pattern, meaning in (
        (
            r"host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED",
            Meaning(NodeFault, "its host key is not the pinned one: look at known-hosts"),
        ),
        (r"permission denied \(publickey", Meaning(NodeFault, "look at user and key-file")),
        (
            r"failed to connect socket.*(no such file|not found)",
            Meaning(TransientFault, "libvirtd does not run there, or ?socket= is wrong"),
        ),
        (
            r"failed to connect socket.*(connection refused|reset)",
            Meaning(TransientFault, "libvirtd has died there: start it again"),
        ),
        (
            r"could not resolve hostname|name or service not known",
            Meaning(CallerFault, "look at the host in the URL"),
        ),
        (
            r"failed to log in to target",
            Meaning(CallerFault, "look at source, user and secret of the volume"),
        ),
        (
            r"iscsi: failed to connect",
            Meaning(TransientFault, "look whether the host reaches the target"),
        ),
        (r"unknown (driver|protocol) .iscsi", Meaning(Unsupported)),
        (
            r"connection (refused|timed out)|no route to host|network is unreachable",
            Meaning(TransientFault, "look whether the host runs and its SSH port is right"),
        ),
        (
            r"connection reset|end of file while reading|client socket is closed|keepalive",
            Meaning(TransientFault, _DAEMON),
        ),
        (
            r"broken pipe|cannot (recv|write) data",
            Meaning(TransientFault, _DAEMON),
        ),
        (
            r"no connection driver available for vz",
            Meaning(CallerFault, "its libvirt has no driver for Virtuozzo: use Virtuozzo's own"),
        ),
        (
            r"unknown (transport|URI)|unrecognized transport|no connection driver available",
            Meaning(CallerFault, "for instance qemu:///system"),
        ),
        (
            r"invalid (URI|connection)|improperly formatted",
            Meaning(CallerFault, "for instance qemu:///system"),
        ),
        (
            r"cannot acquire state change lock|asynchronous jobs running|resource busy",
            Meaning(TransientFault, _TRY_AGAIN),
        ),
        (
            r"failed to get .*lock",
            Meaning(TransientFault, _TRY_AGAIN),
        ),
        (
            # Two daemons of one machine chose the same port for guests that come.
            r"failed to find an available port|address already in use",
            Meaning(TransientFault, _TRY_AGAIN),
        ),
        (
            r"unable to get accurate CPU usage",
            Meaning(TransientFault, "its processor is too busy to be measured; try again"),
        ),
        # Nothing is broken, and nothing is shown of what the hypervisor could do with it.
        (
            r"unable to find any firmware|/OVMF\.fd' is not accessible",
            Meaning(CallerFault, "install ovmf on that host"),
        ),
        (r"no space left", Meaning(NodeFault, "its disk is full")),
        (r"is not supported|not supported (by|for|with)", Meaning(Unsupported)),
    )
)


def meaning(code: int, message: str) -> Meaning:
    """Whose fault an error of libvirt is.

    What the message says goes before its code where the code means any of several things.
    """
    found = BY_CODE.get(code)
    if found is not None and code not in _VAGUE:
        return found
    by_message = next((what for how, what in BY_MESSAGE if how.search(message)), None)
    return by_message or found or Meaning(NodeFault, _LOOK)


_VAGUE = frozenset(
    {
        libvirt.VIR_ERR_INVALID_ARG,
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_OPERATION_INVALID,
    }
)


def fault(
    error: libvirt.libvirtError, doing: str, feature: Feature | None = None
) -> HypervouchError | Unsupported:
    """Our error for one of libvirt's.

    Args:
        error: What libvirt raised.
        doing: What was tried, for the message: `pause hv-a on qemu:///system`.
        feature: What it would have shown; without one, unsupported is the caller's fault.
    """
    code = error.get_error_code() or libvirt.VIR_ERR_INTERNAL_ERROR
    message = " ".join((error.get_error_message() or str(error)).split())
    what = meaning(code, message)
    if what.fault is Unsupported:
        if feature is not None:
            return Unsupported(feature, f"libvirt says: {message}")
        return CallerFault(f"cannot {doing}: {message}")
    text = f"cannot {doing}: {message}"
    if what.fault is TransientFault:
        return TransientFault(text, hint=what.hint, retryable=True)
    if what.fault is CallerFault:
        return CallerFault(text, hint=what.hint)
    return NodeFault(text, hint=what.hint)
