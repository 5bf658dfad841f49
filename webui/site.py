# SPDX-License-Identifier: Apache-2.0
"""What every page needs: the rows, the log files, the clock, the templates."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import HTTPConnection

from ci.clock import Clock, SystemClock
from ci.log_mirror import Mirror
from ci.store.database import Database
from ci.store.reads import filter_choices
from ci.store.reads.records import FilterChoices
from webui.logs import LogFiles
from webui.operator import Operator
from webui.remember import Remembered

CHOICES_TERM_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Site:
    """One installation as its pages see it. Thread-safe.

    Attributes:
        database: Read only.
        logs: The files that builds left.
        service_url: Where people find this site; ends in a slash.
        choices: What the filter form offers; a few seconds old at most.
        notice: Banner on every page; empty for none.
        clock: For relative times.
        operator: Who may act here.
        disk: Why this process starts no new builds for want of room; empty while it does.
        checks_origins: Origins whose pages may read the checks.
        stopping: Set when the server goes down: live pages end.
    """

    database: Database
    logs: LogFiles
    service_url: str
    choices: Remembered[FilterChoices]
    operator: Operator
    checks_origins: frozenset[str] = frozenset()
    disk: Callable[[], str] = field(default=lambda: "")
    notice: str = ""
    clock: Clock = field(default_factory=SystemClock)
    stopping: threading.Event = field(default_factory=threading.Event)


def make_site(
    database: Database,
    logs_dir: Path,
    service_url: str,
    *,
    notice: str = "",
    clock: Clock | None = None,
    operator_token: str = "",
    checks_origins: Iterable[str] = (),
    mirror: Mirror | None = None,
    disk: Callable[[], str] = lambda: "",
) -> Site:
    """A Site over a database and a log directory."""
    clock = clock or SystemClock()
    service_url = service_url if service_url.endswith("/") else service_url + "/"
    return Site(
        database=database,
        choices=Remembered(lambda: filter_choices(database), clock, term_s=CHOICES_TERM_S),
        logs=LogFiles(logs_dir, mirror),
        service_url=service_url,
        operator=Operator(operator_token, service_url, clock),
        checks_origins=frozenset(checks_origins),
        disk=disk,
        notice=notice,
        clock=clock,
    )


def site_of(request: HTTPConnection) -> Site:
    """The Site that the application was made with."""
    site: Site = request.app.state.site
    return site
