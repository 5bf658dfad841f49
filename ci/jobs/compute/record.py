# SPDX-License-Identifier: Apache-2.0
"""What the suite's tests said, as lines while it runs, as a table and as evidence. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from ci.model.evidence import Evidence, Shown, System
from ci.model.feature import Feature

UNSUPPORTED = "unsupported: "
NOT_TRIED = "not tried: "
_WORD_OF = {"passed": Shown.WORKS, "failed": Shown.FAILS}
_NO_WORD = "not tried"
_ORDER = (_NO_WORD, Shown.WORKS.value, Shown.UNSUPPORTED.value, Shown.FAILS.value)
_WIDTH = 16


@dataclass(frozen=True, kw_only=True)
class Said:
    """One test's word.

    Attributes:
        test_id: File and function.
        feature: What it tried.
        outcome: pytest's: passed, failed, skipped.
        reason: Why it failed or was skipped.
        duration_s: Of the test itself.
        details: A failure's traceback.
    """

    test_id: str
    feature: Feature
    outcome: str
    reason: str = ""
    duration_s: float = 0.0
    details: str = ""

    @property
    def shown(self) -> Shown | None:
        """What that shows; None where it shows nothing."""
        if self.outcome == "skipped":
            return Shown.UNSUPPORTED if self.reason.startswith(UNSUPPORTED) else None
        return _WORD_OF.get(self.outcome)

    @property
    def word(self) -> str:
        """The same for people."""
        return self.shown.value if self.shown else _NO_WORD

    @property
    def why(self) -> str:
        """The reason without what the word says already."""
        return self.reason.removeprefix(UNSUPPORTED).removeprefix(NOT_TRIED)


class Record:
    """Everything that was said; each word is told at once.

    Args:
        say: Takes a line for people.
        now: Aware time, UTC.
    """

    def __init__(self, say: Callable[[str], None], now: Callable[[], datetime]) -> None:
        self._say = say
        self._now = now
        self._expected = 0
        self._all: dict[str, tuple[Said, datetime]] = {}

    def expect(self, count: int) -> None:
        """So many tests will run."""
        self._expected = count

    def add(self, said: Said) -> None:
        """Keep a word and tell it; a test that fails in its cleanup has failed."""
        first = said.test_id not in self._all
        if not first and said.outcome != "failed":
            return
        self._all[said.test_id] = (said, self._now())
        place = f"{len(self._all):3}/{self._expected}"
        why = f"  {said.why}" if said.why else ""
        name = said.test_id.rpartition("/")[2]
        self._say(f"{place}  {said.word:<{_WIDTH}}{name}  {said.duration_s:.1f} s{why}")
        if said.details:
            self._say(said.details)

    def evidence(self, system: System) -> tuple[Evidence, ...]:
        """What counts in the matrix, in the order of the run."""
        return tuple(
            Evidence(
                system=system,
                feature=said.feature.value,
                shown=said.shown,
                test_id=said.test_id,
                reason=said.why,
                at=at,
                duration_s=said.duration_s,
            )
            for said, at in self._all.values()
            if said.shown is not None
        )

    @property
    def words(self) -> tuple[Said, ...]:
        """Every test's word, in the order of the run."""
        return tuple(said for said, _ in self._all.values())

    def failed(self) -> bool:
        """Whether something does not work."""
        return any(said.shown is Shown.FAILS for said, _ in self._all.values())

    def tried(self) -> bool:
        """Whether anything was shown at all."""
        return any(said.shown is not None for said, _ in self._all.values())

    def table(self) -> str:
        """By feature: the worst word of its tests, and why."""
        words: dict[Feature, Said] = {}
        for said, _ in self._all.values():
            known = words.get(said.feature)
            if known is None or rank(said) > rank(known):
                words[said.feature] = said
        rows = [words[feature] for feature in Feature if feature in words]
        lines = [f"{said.feature.value:<48}{said.word:<{_WIDTH}}{said.why}" for said in rows]
        return "\n".join(line.rstrip() for line in [*lines, "", _sum(rows)])


def rank(said: Said) -> int:
    """Which word of several tests of one feature stands for it: the last of these."""
    return _ORDER.index(said.word)


def _sum(rows: Iterable[Said]) -> str:
    words = [said.word for said in rows]
    return ", ".join(f"{words.count(kind)} {kind}" for kind in _ORDER[1:] + _ORDER[:1])
