# SPDX-License-Identifier: Apache-2.0
"""Whether memory stays flat while events come and come.

The events go into a process of its own (`python -m tests.bench.replay DIR EVENTS`), by the
listener's own way: bytes, lines, the queue between the reading and the storing thread, rows
in a database on disk. Nothing plans them, and nobody reads them back.
"""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ci.gerrit.lines import Handover, LineBuffer
from ci.gerrit.parse import MAX_LINE_BYTES
from ci.gerrit.stream import CHUNK_BYTES, LINE_OVERHEAD_BYTES, MAX_WAITING_BYTES, MOST_LINES
from ci.listener import Listener
from ci.log import configure
from ci.store.database import Database
from tests.bench import facts, intake, stored
from tests.bench.contender import PYTHON_SAFE
from tests.bench.meter import MIB

EVENTS = 100_000
SAMPLE_EVENTS = 50_000
LEAST_SAMPLES = 20
WARM_UP = 0.1
"""Of the samples: buffers and caches fill once."""
FLAT = 1.05
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
Values = dict[str, Any]


def memory(directory: Path, *, events: int = EVENTS) -> Values:
    """Replay so many events and tell how much memory the process had in the meantime.

    Args:
        directory: For the database; made.
        events: How many lines.

    Raises:
        CalledProcessError: The process failed; its own words are on our stderr.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.replay", str(directory), str(events)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, **PYTHON_SAFE, "PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
    )
    told = json.loads(done.stdout)
    return {
        "count": events,
        "stored": stored.events(directory),
        "events_per_s": round(events / told["took_s"]),
        "cpu_us": round(1e6 * told["cpu_s"] / events),
        "database_mib": (directory / "hypervouch.db").stat().st_size // MIB,
        **summary(told["rss_bytes"]),
    }


def summary(rss_bytes: Sequence[int]) -> Values:
    """First and last third of the samples after the warm-up, and whether that is flat."""
    warm = rss_bytes[round(WARM_UP * len(rss_bytes)) :]
    third = len(warm) // 3
    first, last = statistics.mean(warm[:third]), statistics.mean(warm[-third:])
    return {
        "samples": len(rss_bytes),
        "first_third_mib": round(first / MIB, 1),
        "last_third_mib": round(last / MIB, 1),
        "max_mib": round(max(rss_bytes) / MIB, 1),
        "growth": round(last / first, 3),
        "flat": last <= FLAT * first,
    }


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


def _read(events: int, items: Handover[bytes]) -> None:
    """The reading thread: what comes in, in pieces as the network gives them."""
    buffer, piece = LineBuffer(MAX_LINE_BYTES), bytearray()
    for line in facts.busy_day(events):
        piece += line + b"\n"
        if len(piece) >= CHUNK_BYTES:
            for whole in buffer.feed(bytes(piece)):
                items.put(whole, LINE_OVERHEAD_BYTES + len(whole))
            piece.clear()
    for whole in buffer.feed(bytes(piece)):
        items.put(whole, LINE_OVERHEAD_BYTES + len(whole))
    items.close()


def _store(listener: Listener, items: Handover[bytes], every: int) -> list[int]:
    """The storing thread; returns a sample after each `every` events."""
    taken, samples = 0, list[int]()
    while lines := items.take(MOST_LINES):
        listener.take_lines(lines)
        taken += len(lines)
        while len(samples) < taken // every:
            samples.append(_rss_bytes())
    return samples


def main() -> None:
    """Replay into a state directory, and tell as JSON."""
    configure(level="WARNING")
    directory, events = Path(sys.argv[1]), int(sys.argv[2])
    database = Database.in_directory(directory)
    listener = intake.listening(database)
    items: Handover[bytes] = Handover(MAX_WAITING_BYTES)
    reader = threading.Thread(target=_read, args=(events, items), daemon=True)
    began = time.monotonic()
    reader.start()
    samples = _store(listener, items, max(1, min(SAMPLE_EVENTS, events // LEAST_SAMPLES)))
    reader.join()
    took_s, cpu_s = time.monotonic() - began, time.process_time()
    database.close()
    sys.stdout.write(json.dumps({"took_s": took_s, "cpu_s": cpu_s, "rss_bytes": samples}))


if __name__ == "__main__":
    main()
