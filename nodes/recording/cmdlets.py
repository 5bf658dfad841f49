# SPDX-License-Identifier: Apache-2.0
"""A pipeline of cmdlets and what came of it, as a line of a recording. Pure.

A value that JSON has no word for is an object with one key that begins with `!`: a size in 64 bits,
a GUID, bytes. Of bytes that are sent, only size and digest are kept.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

WIDE, GUID, BYTES, SENT, UPLOAD = "!i64", "!guid", "!base64", "!sha256-of", "!bytes"
_READS = ("Get-", "Test-", "Select-", "Out-")
_SHOWN = 80


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Cmdlet(_Line):
    """One cmdlet with its parameters; None is a switch."""

    name: Annotated[str, Field(alias="cmdlet")]
    parameters: Annotated[dict[str, Any], Field(alias="with")] = Field(default_factory=dict)

    def __str__(self) -> str:
        """For people: `Get-VM Name=hv-1`; what each cmdlet has is left out."""
        told = {name: one for name, one in self.parameters.items() if name != "ErrorAction"}
        words = (name if one is None else f"{name}={shown(one)}" for name, one in told.items())
        return " ".join([self.name, *words])


class Pipeline(_Line):
    """What was asked of which host; without a cmdlet, it is the login."""

    host: str
    cmdlets: tuple[Cmdlet, ...] = ()

    @cached_property
    def likeness(self) -> tuple[Any, ...]:
        """Equal for two that ask the same; what a disk that is made anew holds does not count."""
        return (self.host, *((one.name, _blind(one.parameters)) for one in self.cmdlets))

    @property
    def name(self) -> str:
        """For people."""
        return " | ".join(map(str, self.cmdlets)) or f"the login to {self.host}"

    @property
    def only_reads(self) -> bool:
        """Whether it changes nothing, by its cmdlets' verbs."""
        return all(one.name.startswith(_READS) for one in self.cmdlets)


class Failed(_Line):
    """An error record of the host's."""

    words: str
    identity: str
    category: int


class Fault(_Line):
    """An error of ours: the host did not answer, or not in time."""

    kind: str
    message: str
    hint: str = ""


class Ran(_Line):
    """A pipeline and its objects, or its error; `at` seconds after the first.

    Attributes:
        doing: What the adapter called it; for whoever reads the file.
    """

    at: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    doing: str = ""
    asked: Pipeline
    told: list[Any] = Field(default_factory=list)
    failed: Failed | None = None
    fault: Fault | None = None


def sent(value: Any) -> Any:
    """A parameter as it is kept."""
    if isinstance(value, bytes):
        return {UPLOAD: len(value), "sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, Mapping):
        return {str(name): sent(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [sent(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return {WIDE: int(value.value)}  # the one other thing that the adapter sends


def answered(value: Any, digests: Mapping[str, str]) -> Any:
    """A part of an answer as it is kept.

    Args:
        value: What came.
        digests: SHA-256 of the files that were sent, lower case, with their paths: a disk that is
            made anew has another one.
    """
    if isinstance(value, UUID):
        return {GUID: str(value)}
    if isinstance(value, bytes):
        return {BYTES: base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {str(name): answered(one, digests) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [answered(one, digests) for one in value]
    if isinstance(value, str) and value.lower() in digests:
        return {SENT: digests[value.lower()]}
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def again(kept: Any, paths: Mapping[str, str]) -> Any:
    """A part of an answer as it came.

    Args:
        kept: From the file.
        paths: Files that are sent now, with their SHA-256.
    """
    if isinstance(kept, list):
        return [again(one, paths) for one in kept]
    if not isinstance(kept, dict):
        return kept
    told = {name: again(one, paths) for name, one in kept.items()}
    made: dict[str, Callable[[str], Any]] = {
        GUID: UUID,
        BYTES: base64.b64decode,
        SENT: lambda path: paths.get(path, "").upper(),
    }
    for name, value in told.items():
        if name in made:
            return made[name](str(value))
    return told


def shown(value: Any) -> str:
    """A value for people, not at length."""
    if value is None:
        return "a switch"
    if isinstance(value, Mapping):
        for name, word in ((WIDE, "{}"), (UPLOAD, "({} bytes)")):
            if name in value:
                return word.format(value[name])
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def difference(before: Pipeline, now: Pipeline) -> str:
    """Where two pipelines part: a parameter, where all else is the same."""
    names = [[one.name for one in pipeline.cmdlets] for pipeline in (before, now)]
    parted = [
        f"{one.name} {part}"
        for one, other in zip(before.cmdlets, now.cmdlets, strict=False)
        for part in _parts(one.parameters, other.parameters)
    ]
    if before.host == now.host and names[0] == names[1] and parted:
        return "; ".join(parted)
    return f"{before.name} was recorded, {now.name} is asked"


def _parts(before: Mapping[str, Any], now: Mapping[str, Any]) -> Sequence[str]:
    told = []
    for name in sorted({*before, *now}):
        was, is_now = (
            shown(one[name]) if name in one else "nothing" for one in (_blind(before), _blind(now))
        )
        if was != is_now:
            told.append(f"{name}: {was} was recorded, {is_now} is asked")
    return told


def _blind(value: Any) -> Any:
    if isinstance(value, Mapping):
        if UPLOAD in value:
            return {UPLOAD: "*"}
        return {name: _blind(one) for name, one in value.items()}
    return [_blind(one) for one in value] if isinstance(value, (list, tuple)) else value
