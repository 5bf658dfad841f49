# SPDX-License-Identifier: Apache-2.0
"""How the dummy is steered: what stands behind the question mark of its URL."""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from ci.errors import HypervouchError
from ci.model.feature import Feature
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault

FAULTS: dict[str, Callable[[str], HypervouchError]] = {
    "transient": lambda what: TransientFault(what, hint="the URL asked for it", retryable=True),
    "node": lambda what: NodeFault(what, hint="the URL asked for it"),
    "caller": lambda what: CallerFault(what, hint="the URL asked for it"),
}
_HINT = (
    "for instance dummy:///?fail=pause:node&unsupported=operation.suspend&slow=0.1&boots=no"
    "&flood=100&dies=20&lies=snapshot"
)


@dataclass
class Failure:
    """A call that fails so many times from now on."""

    kind: str
    left: int


@dataclass
class Steering:
    """What the dummy shall do wrong.

    Attributes:
        fails: By the call's name: `fail=pause:node:2`, kinds as in FAULTS, once by default.
        unsupported: Features it cannot do: `unsupported=operation.pause,console.serial.log`.
        slow_s: Seconds that every call takes.
        boots: Whether guests ever answer: `boots=no`.
        flood_mib: Noise that a guest writes at each boot.
        dies_after: Calls after which the node is broken for good.
        lies: Calls that say they worked and did nothing: `lies=pause,snapshot`.
        host: Its name: dummies of one name in one work directory are one host.
    """

    fails: dict[str, Failure]
    unsupported: frozenset[Feature]
    slow_s: float
    boots: bool
    flood_mib: float
    dies_after: int | None
    lies: frozenset[str]
    host: str


def steering(url: str) -> Steering:
    """Read a dummy's URL: `dummy:///HOST?...`.

    Raises:
        CallerFault: A key or a value is unknown.
    """
    parts = urlsplit(url)
    given: dict[str, list[str]] = {}
    try:
        for key, text in parse_qsl(parts.query, keep_blank_values=True):
            given.setdefault(key, []).extend(text.split(","))
        read = Steering(
            fails=dict(_failure(text) for text in given.pop("fail", ())),
            unsupported=frozenset(Feature(key) for key in given.pop("unsupported", ())),
            slow_s=float(given.pop("slow", ["0"])[-1]),
            boots=given.pop("boots", ["yes"])[-1] != "no",
            flood_mib=float(given.pop("flood", ["0"])[-1]),
            dies_after=int(given.pop("dies")[-1]) if "dies" in given else None,
            lies=frozenset(given.pop("lies", ())),
            host=parts.path.strip("/") or "dummy",
        )
    except (ValueError, KeyError) as error:
        raise CallerFault(f"{url} does not steer a dummy: {error}", hint=_HINT) from error
    if given:
        raise CallerFault(f"{url} has unknown keys: {', '.join(sorted(given))}", hint=_HINT)
    return read


def _failure(text: str) -> tuple[str, Failure]:
    call, _, rest = text.partition(":")
    kind, _, times = rest.partition(":")
    if (kind or "transient") not in FAULTS:
        raise ValueError(f"no fault is named {kind}")
    return call, Failure(kind=kind or "transient", left=int(times or 1))
