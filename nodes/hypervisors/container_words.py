# SPDX-License-Identifier: Apache-2.0
"""What an engine's words about a container mean, and how its networks are called. Pure."""

from datetime import datetime
from typing import Any

from nodes.hypervisors.base import GuestState, Nic

_STATES = {
    "running": GuestState.RUNNING,
    "restarting": GuestState.RUNNING,
    "paused": GuestState.PAUSED,
}


def state(found: Any) -> GuestState:
    """What an engine says of it; killed for its memory is a crash."""
    told = found.attrs["State"]
    status = told if isinstance(told, str) else told.get("Status", "")
    if isinstance(told, dict) and told.get("OOMKilled") and status == "exited":
        return GuestState.CRASHED
    return _STATES.get(status, GuestState.SHUTOFF)


def memory(found: Any) -> int:
    """MiB that it may have."""
    return int(found.attrs["HostConfig"].get("Memory") or 0) >> 20


def cpus(found: Any) -> int:
    """Processors in its set, which is written as a list."""
    return len(str(found.attrs["HostConfig"].get("CpusetCpus") or "0").split(","))


def started(found: Any) -> float:
    """When it was last started, in seconds since the epoch."""
    return datetime.fromisoformat(found.attrs["State"]["StartedAt"]).timestamp()


def network_name(name: str, nic: Nic) -> str:
    """The network of a card: each has its own."""
    return f"{name}-{nic.mac.replace(':', '').lower()}"


def mac(digits: str) -> str:
    """A hardware address from the end of such a name."""
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))
