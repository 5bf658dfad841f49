# SPDX-License-Identifier: Apache-2.0
"""A run of the suite as a page that can be signed off: what was tested, how real it was, each row.

One file with its style in it; no script, nothing to load. Reasons may be hostile: all is escaped.
"""

import getpass
import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template

from ci.jobs.compute.record import Said, rank
from ci.matrix import nova
from ci.model.evidence import System
from ci.model.feature import Feature
from ci.model.result import Grade

GRADES = {
    Grade.BARE: "the real hypervisor, directly on its machine",
    Grade.NESTED: "the real hypervisor's own code, inside a virtual machine",
    Grade.SIMULATOR: "somebody else's model of its interface: nothing is shown of the hypervisor",
    Grade.EMULATOR: "our own stand-in: only our client and our suite are shown to work",
    Grade.NONE: "nobody said how real it is: this is evidence of nothing",
}
"""Each grade as the page explains it."""
_NO_CONFORMANCE = {
    Grade.SIMULATOR: "Run on a simulator, no conformance, of",
    Grade.EMULATOR: "Run on our emulator, no conformance, of",
    Grade.NONE: "Run of unknown grade, no conformance, of",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is on the page.

    Attributes:
        hypervisor: URL of what was tested.
        second: URL of the other host, or nothing.
        system: What it said of itself.
        asks_guests: Whether guests were asked.
        began: Aware, UTC.
        ended: Aware, UTC.
        words: Every test's word, in the order of the run.
        replay_of: The recording that answered instead, or nothing.
        adapter: Its class and its SDK's version.
        guest: What was booted; empty where nobody was asked.
        evidence: Name and SHA-256 of the file with the evidence, or nothing.
        only: The rows that were asked for; all when empty.
    """

    hypervisor: str
    second: str
    system: System
    asks_guests: bool
    began: datetime
    ended: datetime
    words: Sequence[Said]
    replay_of: str = ""
    adapter: str = ""
    guest: str = ""
    evidence: tuple[str, str] | None = None
    only: frozenset[Feature] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of Nova's matrix: the word that stands for its tests, and these."""

    feature: str
    title: str
    word: str
    why: str
    tests: tuple[Said, ...]


def write(path: Path, run: Run) -> None:
    """Write the page; the file is replaced in one step."""
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(render(run), encoding="utf-8")
    beside.replace(path)


def render(run: Run) -> str:
    """The page."""
    rows = _rows(run.words)
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        counts[row.word] += 1
    return _template().render(
        run=run,
        kind=_kind(run),
        rows=rows,
        absent=[_title(one) for one in Feature if one.value not in {row.feature for row in rows}],
        counts=dict(counts),
        grade=GRADES[run.system.grade],
        versions={key: text for key, text in run.system.versions.items() if key != "cpu-flags"},
        by=f"{getpass.getuser()} on {platform.node()}",
        program=f"hypervouch {version('hypervouch')} on Python {platform.python_version()}",
    )


def _kind(run: Run) -> str:
    """What the page is, before the name of the system."""
    if run.replay_of:
        return "Replay, no conformance, of"
    return _NO_CONFORMANCE.get(run.system.grade, "Conformance of")


def _title(feature: Feature) -> str:
    known = nova.rows().get(feature.value)
    return known.title if known else feature.value


def _rows(words: Sequence[Said]) -> list[Row]:
    by_feature: dict[Feature, list[Said]] = defaultdict(list)
    for said in words:
        by_feature[said.feature].append(said)
    rows = []
    for feature in Feature:
        tests = by_feature.get(feature)
        if not tests:
            continue
        worst = max(tests, key=rank)
        rows.append(
            Row(
                feature=feature.value,
                title=_title(feature),
                word=worst.word,
                why=worst.why,
                tests=tuple(tests),
            )
        )
    return rows


@cache
def _template() -> Template:
    text = files("ci.jobs.compute").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(text)
