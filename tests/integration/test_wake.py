# SPDX-License-Identifier: Apache-2.0
"""Bells between processes: heard at once, and again after the server was away."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ci.store.database import Database
from ci.wake import Wake
from tests.kit.postgres import cluster

SOON_S = 5.0


class Ears:
    """A process that tells and hears."""

    def __init__(self, database: Database) -> None:
        self.heard: list[str] = []
        self.rang = threading.Event()
        self.gaps = 0
        self.wake = Wake(database, on_ring=self._ring, on_gap=self._gap)

    def _ring(self, name: str) -> None:
        self.heard.append(name)
        self.rang.set()

    def _gap(self) -> None:
        self.gaps += 1

    def until_gaps(self, count: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.gaps < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@contextmanager
def listening(url: str) -> Iterator[Ears]:
    database = Database(url)
    ears = Ears(database)
    bodies = [threading.Thread(target=body) for body in (ears.wake.listen, ears.wake.run)]
    for one in bodies:
        one.start()
    try:
        ears.until_gaps(1, SOON_S)
        yield ears
    finally:
        ears.wake.stop()
        for one in bodies:
            one.join(10)
            assert not one.is_alive()
        database.close()


def test_another_process_hears_at_once(postgresql_url: str):
    with listening(postgresql_url) as one, listening(postgresql_url) as two:
        one.wake.tell("warm up")
        assert two.rang.wait(SOON_S)
        two.rang.clear()
        began = time.monotonic()
        one.wake.tell("owed:gerrit")
        assert two.rang.wait(SOON_S)
        assert time.monotonic() - began < 0.5
        assert two.heard[-1] == "owed:gerrit"


def test_after_the_server_was_away_everything_rings_once(tmp_path: Path):
    with cluster(tmp_path) as server:
        url = server.make_database("wake")
        with listening(url) as one, listening(url) as two:
            server.stop("immediate")
            one.wake.tell("lost")
            server.start()
            two.until_gaps(2, 15)
            one.until_gaps(2, 15)
            deadline = time.monotonic() + 10
            while "found" not in two.heard:
                assert time.monotonic() < deadline
                one.wake.tell("found")
                time.sleep(0.2)
