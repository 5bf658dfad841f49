# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.chaos --seed N`: a whole installation under faults, repeatable by its seed.

Changes come for some minutes; meanwhile processes die, stand still or have a wrong clock, and
machines, disk, database and review server fail. Then all faults end, and everything has to
settle: each change has the one vote that it deserves, no machine ever had two builds, nothing
is left over. The exit status is 1 when something is wrong; directory and seed are kept then.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.plan import Settings, What, schedule, without
from tests.chaos.play import Outcome, Play, story_of
from tests.chaos.site import LEASE_S, NODES, POSTGRESQL, SQLITE, Site, build, commands

NO_SERVER = frozenset({What.DB_CUT, What.DB_AWAY})
MOST_STORIES = 5
"""Changes whose whole story is told; the others' are in the directory."""
Say = Callable[[str], None]


def settings_of(asked: argparse.Namespace) -> Settings:
    """What the schedule depends on."""
    left_out = without(asked.without)
    if asked.database == SQLITE:
        left_out |= NO_SERVER
    return Settings(
        seconds=asked.minutes * 60,
        changes=asked.changes,
        processes=len(commands(asked.database, asked.workers)),
        nodes=NODES,
        lease_s=LEASE_S,
        pause_s=asked.pause,
        leave_out=left_out,
    )


def chaos(asked: argparse.Namespace, directory: Path, say: Say) -> Outcome:
    """One run in a directory.

    Raises:
        AssertionError: Our processes did not come up at all.
    """
    settings = settings_of(asked)
    planned = schedule(asked.seed, settings)
    for line in planned.lines():
        say(line)
    with ExitStack() as held:
        site = build(
            directory, held, database=asked.database, review=asked.review, workers=asked.workers
        )
        if not site.disk.small:
            say("no disk of its own can be mounted here: it is never full in this run")
        outcome = Play(site, planned, say).run(settings.seconds, asked.settle)
        _tell(outcome, site, directory, say)
        return outcome


def _tell(outcome: Outcome, site: Site, directory: Path, say: Say) -> None:
    for name, exits in outcome.exits.items():
        say(f"{name} ended by itself with {exits} and was started again")
    say(f"settled after {outcome.settled_s:.0f} s")
    for line in outcome.wrong:
        say(f"WRONG: {line}")
    if not outcome.well:  # a disk of its own is gone after the run
        for line in site.looker.left():
            say(f"    {line}")
        shutil.copytree(site.disk.path / "state", directory / "state", symlinks=True)
    for place, (number, found) in enumerate(sorted(outcome.changes.items())):
        say(f"WRONG: change {number}: {'; '.join(found)}")
        story = story_of(site, number, directory)
        (directory / f"change-{number}.txt").write_text("\n".join(story) + "\n")
        for line in story if place < MOST_STORIES else ():
            say(f"    {line}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="default: any; it is printed")
    parser.add_argument("--minutes", type=float, default=5.0, help="default %(default)s")
    parser.add_argument("--changes", type=int, default=200, help="default %(default)s")
    parser.add_argument("--database", choices=(SQLITE, POSTGRESQL), default=SQLITE)
    parser.add_argument("--review", choices=("sandbox", "gerrit"), default="sandbox")
    parser.add_argument("--workers", type=int, default=3, help="processes on PostgreSQL")
    parser.add_argument("--pause", type=float, default=7.0, help="mean seconds between faults")
    parser.add_argument("--settle", type=float, default=180.0, help="seconds to settle in")
    parser.add_argument("--without", action="append", default=[], choices=[str(w) for w in What])
    parser.add_argument("--keep", type=Path, help="work here, and keep it")
    asked = parser.parse_args(arguments)
    if asked.seed is None:
        asked.seed = random.randrange(1_000_000)
    return asked


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, tell, say whether all was well."""
    asked = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # what was started is ended
    directory = asked.keep or Path(tempfile.mkdtemp(prefix=f"chaos-{asked.seed}-"))
    outcome = chaos(asked, directory.absolute(), _say)
    _say(f"seed {asked.seed}: {'all well' if outcome.well else 'WRONG'}; {directory}")
    return int(not outcome.well)


if __name__ == "__main__":
    sys.exit(main())
