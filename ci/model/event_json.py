# SPDX-License-Identifier: Apache-2.0
"""Event as JSON and back, without loss: what the store keeps and `hypervouch explain` reads."""

from datetime import datetime
from typing import Any

from ci.model.change import Change, Patchset
from ci.model.event import Account, Approval, Event, EventKind


def event_to_json(event: Event) -> dict[str, Any]:
    """An Event as plain JSON values; `event_from_json` gives the same Event back."""
    # By hand: a general walk through nested values takes most of the time of storing an event.
    patchset = event.patchset
    return vars(event) | {
        "kind": event.kind.value,
        "author": dict(vars(event.author)),
        "texts": list(event.texts),
        "occurred_at": event.occurred_at.isoformat(),
        "change": vars(event.change) | {"hashtags": list(event.change.hashtags)},
        "patchset": None if patchset is None else dict(vars(patchset)),
        "approvals": [
            vars(one)
            | {
                "by": dict(vars(one.by)),
                "granted_at": one.granted_at and one.granted_at.isoformat(),
            }
            for one in event.approvals
        ],
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
        change=_change(value["change"]),
        patchset=None if patchset is None else Patchset(**patchset),
        author=Account(**value["author"]),
        texts=tuple(value["texts"]),
        occurred_at=datetime.fromisoformat(value["occurred_at"]),
        source=value["source"],
        approvals=tuple(_approval(one) for one in value.get("approvals", ())),
    )


def _change(value: dict[str, Any]) -> Change:
    return Change(**{**value, "hashtags": tuple(value.get("hashtags", ()))})


def _approval(value: dict[str, Any]) -> Approval:
    at = value["granted_at"]
    return Approval(
        label=value["label"],
        value=value["value"],
        by=Account(**value["by"]),
        changed=value["changed"],
        granted_at=None if at is None else datetime.fromisoformat(at),
    )
