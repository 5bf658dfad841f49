# SPDX-License-Identifier: Apache-2.0
"""One run: changes come, things break and are mended; then everything has to settle."""

import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ci.sandbox.author import PushedChange
from tests.chaos import journal, verdict
from tests.chaos.plan import Fault, Kind, Schedule, Story, What
from tests.chaos.site import LEASE_S, Site, suite
from tests.chaos.verdict import Case, Told

TICK_S = 0.05
LOOK_EVERY_S = 1.0
SETTLE_EVERY_S = 2.0
QUIET_S = 4.0
BREATH_S = 0.08
READY_S = 60.0
Say = Callable[[str], None]


@dataclass(kw_only=True)
class _Open:
    """A change and what its author still means to do."""

    case: Case
    change: PushedChange
    recheck_from_s: float | None = None


@dataclass(kw_only=True)
class Outcome:
    """How a run ended.

    Attributes:
        wrong: What is wrong, in sentences; empty when all is well.
        changes: By change number what is wrong with it.
        settled_s: Seconds from the last fault's end until nothing was left to do.
        exits: How often each process ended by itself.
    """

    wrong: list[str] = field(default_factory=list)
    changes: dict[int, list[str]] = field(default_factory=dict)
    settled_s: float = 0.0
    exits: dict[str, list[int]] = field(default_factory=dict)

    @property
    def well(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong and not self.changes


class Play:
    """Carries out a schedule.

    Args:
        site: Where.
        schedule: What.
        say: Told what happens, line by line.
    """

    def __init__(self, site: Site, schedule: Schedule, say: Say) -> None:
        self._site = site
        self._schedule = schedule
        self._say = say
        self._open: list[_Open] = []
        self._due: list[tuple[float, int, bool, Callable[[], None]]] = []
        self._count = itertools.count()
        self._began = 0.0

    def run(self, seconds: float, settle_s: float) -> Outcome:
        """Play it to its end.

        Args:
            seconds: How long changes and faults come.
            settle_s: How long everything may take to settle afterwards.
        """
        self._site.crew.start()
        self._await_first()
        self._began = time.monotonic()
        for story in self._schedule.stories:
            self._at(story.at_s, partial(self._push, story), author=True)
        for fault in self._schedule.faults:
            self._at(fault.at_s, partial(self._break, fault))
        self._until(seconds)
        self._say(f"{self._now():7.1f} s the faults end")
        self._due = [one for one in self._due if one[2]]
        heapq.heapify(self._due)
        self._site.heal()
        return self._settle(settle_s)

    def _await_first(self) -> None:
        """The first catch-up: what came before an installation first listened is not its own."""
        deadline = time.monotonic() + READY_S
        while not self._site.looker.listens():
            self._site.crew.look()
            if time.monotonic() > deadline:
                raise AssertionError("no process of ours began to listen")
            time.sleep(0.2)

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _at(self, at_s: float, act: Callable[[], None], *, author: bool = False) -> None:
        """Do something then; what authors do goes on when the faults have ended."""
        heapq.heappush(self._due, (at_s, next(self._count), author, act))

    def _until(self, seconds: float) -> None:
        look_s = 0.0
        while self._now() < seconds:
            while self._due and self._due[0][0] <= self._now():
                heapq.heappop(self._due)[3]()
            if self._now() > look_s:
                look_s = self._now() + LOOK_EVERY_S
                self._site.crew.look()
                self._rechecks()
            time.sleep(TICK_S)

    # What authors do.

    def _push(self, story: Story) -> None:
        if story.kind is Kind.DOCS:
            files = {"docs/a.md": f"{story.index}\n"}
        else:
            files = {"suite.txt": self._suite(story, broken=story.broken)}
        change = self._site.author.push_change(f"{story.kind} {story.index}", files)
        one = _Open(case=Case(story=story, number=change.number, patchsets=1), change=change)
        self._open.append(one)
        again_s = self._now() + story.again_s
        if story.kind is Kind.RECHECKED:
            one.recheck_from_s = again_s
        elif story.kind in {Kind.SUPERSEDED, Kind.ABANDONED}:
            self._at(again_s, partial(self._again, one), author=True)

    def _suite(self, story: Story, *, broken: bool) -> str:
        return suite(broken=broken, seconds=story.suite_s, tag=f"{story.index}-{broken}-{id(self)}")

    def _again(self, one: _Open) -> None:
        story = one.case.story
        if story.kind is Kind.ABANDONED:
            self._site.author.abandon(one.change)
            return
        text = self._suite(story, broken=story.last_broken) + "echo again\n"
        if story.last_broken:  # what follows `exit` is never reached
            text = "echo again\n" + text
        one.change = self._site.author.amend(one.change, {"suite.txt": text})
        one.case = replace(one.case, patchsets=2)

    def _rechecks(self) -> None:
        """Ask again for what has its first vote."""
        for one in self._open:
            if one.recheck_from_s is None or self._now() < one.recheck_from_s:
                continue
            if self._told(one.case).comments:
                self._site.author.comment(one.change, "recheck")
                one.case = replace(one.case, rechecks=1)
                one.recheck_from_s = None

    def _told(self, case: Case) -> Told:
        return self._site.told(case.number)

    # What breaks.

    def _break(self, fault: Fault) -> None:
        self._say(str(fault))
        site, member = self._site, self._site.crew.member(fault.target)
        end = fault.at_s + fault.for_s
        if fault.what in {What.KILL, What.CLOCK}:
            member.kill()
            self._at(end, partial(member.start, off_s=fault.off_s))
        elif fault.what in {What.FREEZE, What.ZOMBIE}:
            member.freeze()
            self._at(end, member.thaw)
        elif fault.what is What.CRAWL:
            self._crawl(fault)
        elif fault.what is What.NODE:
            machine = site.machines[fault.target % len(site.machines)]
            machine.stop("die")
        elif fault.what is What.DISK:
            site.disk.fill()
            self._at(end, site.disk.free)
        else:
            self._break_peer(fault, end)

    def _break_peer(self, fault: Fault, end: float) -> None:
        """The database or the review server."""
        site = self._site
        if fault.what is What.DB_CUT:
            site.database.cut()
        elif fault.what in {What.DB_AWAY, What.DB_FROZEN}:
            (site.database.away if fault.what is What.DB_AWAY else site.database.freeze)()
            self._at(end, site.database.heal)
        elif fault.what is What.SERVER_AWAY:
            site.server_away()
            self._at(end, site.server_back)
        elif fault.what is What.SERVER_500:
            site.server_errors(round(fault.for_s))
        elif fault.what is What.LOST_REPLY:
            site.lose_replies(round(fault.for_s))
        else:
            site.fronts.ssh.freeze()
            self._at(end, site.fronts.ssh.thaw)

    def _crawl(self, fault: Fault) -> None:
        """Stand still half of the time, in short turns."""
        member = self._site.crew.member(fault.target)
        for turn in range(int(fault.for_s / (2 * BREATH_S))):
            at_s = fault.at_s + turn * 2 * BREATH_S
            self._at(at_s, member.freeze)
            self._at(at_s + BREATH_S, member.thaw)
        self._at(fault.at_s + fault.for_s, member.thaw)

    # The end.

    def _settle(self, settle_s: float) -> Outcome:
        began, outcome, left = self._now(), Outcome(), list[str]()
        while True:
            self._until(self._now() + SETTLE_EVERY_S)
            before, left = left, self._left()
            if left != before:
                self._say(f"{self._now():7.1f} s left: {', '.join(left) or 'nothing'}")
            late = self._now() - began > settle_s
            if not left or late:
                break
        outcome.settled_s = self._now() - began
        if not late:
            self._until(self._now() + QUIET_S)
            left = self._left()
        outcome.wrong += left
        outcome.changes = self._report()
        entries = journal.read(self._site.journal.read_text().splitlines())
        outcome.wrong += journal.objections(entries, self._site.crew.lives())
        outcome.wrong += self._fenced()
        outcome.exits = {m.name: m.exits for m in self._site.crew.members if m.exits}
        return outcome

    def _report(self) -> dict[int, list[str]]:
        cases = [one.case for one in self._open]
        found = verdict.report(cases, {case.number: self._told(case) for case in cases})
        for one in self._open:
            if one.recheck_from_s is not None:
                found.setdefault(one.case.number, []).append("no vote to ask again for")
        return found

    def _left(self) -> list[str]:
        """What is not settled yet."""
        left = [f"{count} {name}" for name, count in self._site.looker.undone().items()]
        left += [f"machine {m.folder.name} runs" for m in self._site.machines if m.runs]
        if not left:  # only then: it asks the server for every change
            left = [f"change {n}: {'; '.join(said)}" for n, said in self._report().items()]
        return left

    def _fenced(self) -> list[str]:
        """Processes that do not come back to work."""
        down = [m.name for m in self._site.crew.members if m.pid is None]
        found = [f"{name} does not stay up" for name in down]
        first = self._site.looker.beats()
        self._until(self._now() + LEASE_S / 2)
        second = self._site.looker.beats()
        return found + [
            f"{name} beats no more: {at}" for name, at in second.items() if first.get(name) == at
        ]


def story_of(site: Site, number: int, directory: Path) -> list[str]:
    """Everything known of one change: rows, then the lines of all logs that name it."""
    lines = site.looker.story(number)
    words = {f'"change": {number}', f'"change":{number}', f"change={number}"}
    for log in sorted(directory.glob("*.log")):
        with log.open(encoding="utf-8", errors="replace") as text:
            lines += [f"{log.name}: {x.rstrip()}" for x in text if any(w in x for w in words)]
    return lines
