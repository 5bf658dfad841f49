# SPDX-License-Identifier: Apache-2.0
"""A filled database with its log files and the pages over both."""

import importlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette

from ci.clock import FakeClock
from ci.store import pauses
from ci.store.database import Database
from ci.store.pauses import Pause, PauseKind
from tests.kit.core import database_in
from tests.kit.process_rows import fill_processes
from tests.kit.review_rows import fill_reviews
from tests.kit.rows import NOW, Rows, ago
from tests.kit.stories import Story, fill
from webui.app import create_app

if TYPE_CHECKING:
    from starlette.testclient import TestClient

SERVICE_URL = "https://ci.example.org/"


@dataclass(frozen=True, kw_only=True)
class Lab:
    """What `make_lab` made; close it when done."""

    database: Database
    logs_dir: Path
    rows: Rows
    story: Story
    app: Starlette
    clock: FakeClock


def make_lab(
    folder: Path,
    *,
    notice: str = "",
    reviews: bool = False,
    operator_token: str = "",
    checks_origins: Iterable[str] = (),
) -> Lab:
    """A lab in a directory, at NOW; with `reviews`, votes of others and owed reviews too."""
    database = database_in(folder)
    logs_dir, clock = folder / "logs", FakeClock(NOW)
    story = fill(database, logs_dir)
    fill_processes(database)
    if reviews:
        fill_reviews(Rows(database, logs_dir))
        _pause(database)
    app = create_app(
        database,
        logs_dir,
        SERVICE_URL,
        notice=notice,
        clock=clock,
        operator_token=operator_token,
        checks_origins=checks_origins,
    )
    return Lab(
        database=database,
        logs_dir=logs_dir,
        rows=Rows(database, logs_dir),
        story=story,
        app=app,
        clock=clock,
    )


def client_of(app: Starlette) -> "TestClient":
    """A client that calls the application without a socket; its defects become 500 pages."""
    with warnings.catch_warnings():
        # Importing it warns that Starlette would rather have another HTTP library.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", message="Using `httpx`")
        module = importlib.import_module("starlette.testclient")
    client: TestClient = module.TestClient(app, raise_server_exceptions=False)
    return client


def _pause(database: Database) -> None:
    with database.write() as tx:
        pauses.pause(
            tx,
            Pause(
                kind=PauseKind.LABEL,
                name="hyperv",
                by="ann",
                why="the host gets a new board",
                since=ago(3600),
                until=ago(-7200),
            ),
        )
