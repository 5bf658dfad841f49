# SPDX-License-Identifier: Apache-2.0
"""What the maintenance windows of the configuration close at a time; pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from ci.cron import window_at
from ci.layout import Maintenance
from ci.scheduling import Closed


@dataclass(frozen=True, kw_only=True)
class OpenWindow:
    """One thing that a window closes now; the fields of a pause.

    Attributes:
        kind: pipeline, label or node.
        name: Which one.
        by: Name of the window.
        why: Its reason.
        since: When it began.
        until: When it ends.
    """

    kind: str
    name: str
    by: str
    why: str
    since: datetime
    until: datetime

    @property
    def words(self) -> str:
        """One sentence for what waits."""
        until = f"until {self.until:%Y-%m-%d %H:%M} UTC"
        return f"{self.kind} {self.name} is in maintenance ({self.by}): {self.why}, {until}"


def windows_now(windows: Iterable[Maintenance], at: datetime) -> tuple[OpenWindow, ...]:
    """What is closed at a time, in the order of the configuration."""
    found: list[OpenWindow] = []
    for one in windows:
        window = window_at(one.cron, one.minutes, at)
        if window is None:
            continue
        closed = {"pipeline": one.pipelines, "label": one.labels, "node": one.nodes}
        found.extend(
            OpenWindow(
                kind=kind, name=name, by=one.name, why=one.why, since=window[0], until=window[1]
            )
            for kind, names in closed.items()
            for name in names
        )
    return tuple(found)


def closed_now(windows: Iterable[Maintenance], at: datetime) -> Closed:
    """Where nothing new may start, because a window is open."""
    found = windows_now(windows, at)
    return Closed(
        pipelines={one.name: one.words for one in found if one.kind == "pipeline"},
        labels={one.name: one.words for one in found if one.kind == "label"},
        nodes={one.name: one.words for one in found if one.kind == "node"},
    )
