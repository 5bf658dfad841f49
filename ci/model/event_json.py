# SPDX-License-Identifier: Apache-2.0
"""Event as JSON and back, without loss: what the store keeps and `hypervouch explain` reads."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from ci.model.change import Change, Patchset
from ci.model.event import Account, Event, EventKind


def event_to_json(event: Event) -> dict[str, Any]:
    """An Event as plain JSON values; `event_from_json` gives the same Event back."""
    return asdict(event) | {
        "kind": event.kind.value,
        "texts": list(event.texts),
        "occurred_at": event.occurred_at.isoformat(),
    }


def event_from_json(value: dict[str, Any]) -> Event:
    """The Event that `event_to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: Somebody else wrote it.
    """
    patchset = value["patchset"]
    return Event(
        key=value["key"],
        connection=value["connection"],
        kind=EventKind(value["kind"]),
        change=Change(**value["change"]),
        patchset=None if patchset is None else Patchset(**patchset),
        author=Account(**value["author"]),
        texts=tuple(value["texts"]),
        occurred_at=datetime.fromisoformat(value["occurred_at"]),
        source=value["source"],
    )
