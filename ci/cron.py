# SPDX-License-Identifier: Apache-2.0
"""Repeating windows of time by a crontab line, in UTC; pure, on APScheduler's CronTrigger."""

import re
from datetime import UTC, datetime, timedelta

from apscheduler.triggers.cron import CronTrigger

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FIELDS = 5


def trigger(line: str) -> CronTrigger:
    """What a crontab line of five fields means.

    Weekdays count as cron does (0 and 7 are Sunday), not as APScheduler does (0 is Monday).

    Raises:
        ValueError: It is none.
    """
    fields = line.split()
    if len(fields) != _FIELDS:
        raise ValueError("a cron line has five fields: minute hour day month weekday")
    fields[4] = re.sub(r"(?<![/\d])[0-7](?!\d)", lambda found: _DAYS[int(found[0])], fields[4])
    try:
        return CronTrigger.from_crontab(" ".join(fields), timezone=UTC)
    except ValueError as error:
        raise ValueError(f"not a cron line: {error}") from error


def window_at(line: str, minutes: int, at: datetime) -> tuple[datetime, datetime] | None:
    """The window that a time lies in: (begin, end), the end not included; None outside."""
    length = timedelta(minutes=minutes)
    began = trigger(line).get_next_fire_time(None, at - length + timedelta(microseconds=1))
    if began is None or began > at:
        return None
    return began, began + length
