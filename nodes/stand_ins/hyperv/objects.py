# SPDX-License-Identifier: Apache-2.0
"""What cmdlets give, and how a Windows host writes it: typed objects, enums, error records."""

import functools
import types as python_types
import uuid
from dataclasses import dataclass, field
from typing import Any

from psrpcore import types as ps

SPACE = "Microsoft.HyperV.PowerShell."
LONGS = frozenset({"MemoryStartup", "MemoryAssigned", "MemoryCapacity", "Size", "FileSize"})
"""Properties that are 64 bits wide on a real host, whatever they hold."""
_INT32_MAX = 0x7FFFFFFF


class CmdletError(Exception):
    """An error record before it is written.

    Args:
        message: The vendor's words, or ours in its manner.
        error_id: What stands before the comma of its FullyQualifiedErrorId.
        category: A name of PowerShell's ErrorCategory.
        target: What it was about.
        kind: The exception's type.
    """

    def __init__(
        self,
        message: str,
        error_id: str = "OperationFailed",
        category: str = "InvalidOperation",
        target: str = "",
        kind: str = f"{SPACE}VirtualizationException",
    ) -> None:
        super().__init__(message)
        self.error_id = error_id
        self.category = category
        self.target = target
        self.kind = kind
        self.command = ""


@dataclass(frozen=True)
class Named:
    """A value of an enum: its type, name and number."""

    kind: str
    name: str
    number: int

    def __str__(self) -> str:
        return self.name


@dataclass
class Thing:
    """An object that cmdlets hand on: type names below SPACE, properties, what it prints as."""

    kinds: tuple[str, ...]
    values: dict[str, Any] = field(default_factory=dict)
    text: str = ""


def written(value: Any) -> Any:
    """A value as psrpcore serialises it."""
    if isinstance(value, Thing):
        return _object(value)
    if isinstance(value, Named):
        return _enum(value)
    if isinstance(value, uuid.UUID):
        return ps.PSGuid(str(value))
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _INT32_MAX:
        return ps.PSInt64(value)
    return value


def _object(thing: Thing) -> Any:
    values = {
        key: ps.PSInt64(value) if key in LONGS and value is not None else written(value)
        for key, value in thing.values.items()
    }
    if not thing.kinds:
        return ps.PSCustomObject(**values)
    made = ps.PSObject()
    made.PSObject.type_names = [*(SPACE + kind for kind in thing.kinds), "System.Object"]
    made.PSObject.to_string = thing.text or SPACE + thing.kinds[0]
    made.PSObject.adapted_properties = [
        ps.PSNoteProperty(key, value=value) for key, value in values.items()
    ]
    return made


@functools.cache
def _enum(value: Named) -> Any:
    def fill(namespace: dict[str, Any]) -> None:
        namespace[value.name] = value.number

    kind = python_types.new_class(value.kind, (ps.PSEnumBase,), {}, fill)
    return ps.PSType([SPACE + value.kind])(kind)(value.number)


def record(error: CmdletError) -> Any:
    """An error as a host tells it."""
    told = ps.NETException(Message=str(error), HResult=-2146233088)
    told.PSObject.type_names = [error.kind, "System.Exception", "System.Object"]
    command = error.command.replace("-", "")
    where = f",{SPACE}Commands.{command}" if command else ""
    return ps.ErrorRecord(
        Exception=told,
        CategoryInfo=ps.ErrorCategoryInfo(
            Category=getattr(ps.ErrorCategory, error.category),
            Reason=error.kind.rsplit(".", 1)[-1],
            TargetName=error.target,
            Activity=error.command,
        ),
        TargetObject=error.target,
        FullyQualifiedErrorId=error.error_id + where,
    )
