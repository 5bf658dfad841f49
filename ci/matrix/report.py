# SPDX-License-Identifier: Apache-2.0
"""Evidence in a file: how what was tested elsewhere comes into the matrix.

`hypervouch suite compute --report FILE` writes one, `hypervouch matrix add FILE` reads it. Whoever
reads it trusts its author with the words, not with the form: sizes and names are checked.
"""

import json
import stat
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ci.errors import ConfigError
from ci.model.evidence import Evidence, Shown, System
from ci.model.feature import Feature
from ci.model.result import Grade

MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_EVIDENCE = 20_000
MAX_VERSION = 300
CLOCKS_DIFFER = timedelta(minutes=10)
"""By so much the clock of another machine may be ahead of ours."""

_SHOWN_MISTAKES = 5


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReportedSystem(_Strict):
    """What was tested; `grade` as its lab knows it."""

    key: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
    title: Annotated[str, Field(min_length=1, max_length=120)]
    grade: Literal[Grade.BARE, Grade.NESTED, Grade.SIMULATOR, Grade.EMULATOR]
    versions: dict[
        Annotated[str, Field(max_length=MAX_VERSION)], Annotated[str, Field(max_length=MAX_VERSION)]
    ] = Field(default_factory=dict, max_length=64)


class ReportedEvidence(_Strict):
    """One test's word; `system` counts into the list of systems, from 0."""

    system: Annotated[int, Field(ge=0)]
    feature: Feature
    shown: Shown
    test_id: Annotated[str, Field(min_length=1, max_length=500)]
    reason: Annotated[str, Field(max_length=2_000)] = ""
    at: AwareDatetime
    duration_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class Report(_Strict):
    """The whole file; `hypervouch-report` is the version of its form."""

    version: Literal[1] = Field(alias="hypervouch-report")
    name: Annotated[str, Field(min_length=1, max_length=200)]
    systems: Annotated[tuple[ReportedSystem, ...], Field(max_length=100)]
    evidence: Annotated[tuple[ReportedEvidence, ...], Field(max_length=MAX_EVIDENCE)]

    @model_validator(mode="after")
    def _systems_are_there(self) -> "Report":
        for place, one in enumerate(self.evidence):
            if one.system >= len(self.systems):
                raise ValueError(f"evidence {place} names system {one.system}, which is not listed")
        return self


def write(path: Path, *, name: str, evidence: Sequence[Evidence], replay_of: str = "") -> None:
    """Write evidence down; the file is replaced in one step.

    Args:
        path: Where to.
        name: What to call it in the matrix: `compute on qemu:///system`.
        evidence: Of any number of systems.
        replay_of: The recording that answered instead of a system: such a report is never read.
    """
    systems: list[System] = []
    words = []
    for one in evidence:
        if one.system not in systems:
            systems.append(one.system)
        words.append(
            {
                "system": systems.index(one.system),
                "feature": str(one.feature),
                "shown": one.shown.value,
                "test_id": one.test_id[:500],
                "reason": one.reason[:2_000],
                "at": one.at.isoformat(),
                "duration_s": one.duration_s,
            }
        )
    document = {
        "hypervouch-report": 1,
        "name": name,
        "systems": [
            {"key": s.key, "title": s.title, "grade": s.grade.value, "versions": _short(s.versions)}
            for s in systems
        ],
        "evidence": words,
    }
    if replay_of:
        document["replay-of"] = replay_of
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(json.dumps(document, indent=1) + "\n")
    beside.replace(path)


def _short(versions: Mapping[str, str]) -> dict[str, str]:
    """Versions as a report may hold them; flags of a processor can be longer."""
    return {name[:MAX_VERSION]: value[:MAX_VERSION] for name, value in versions.items()}


def read(path: Path, *, now: datetime) -> tuple[str, tuple[Evidence, ...]]:
    """A report's name and its evidence.

    Args:
        path: A file that `write` made, perhaps on another machine.
        now: What was seen after it is refused: it would stand for ever.

    Raises:
        ConfigError: It cannot be read, is too large, is not such a report, or is a replay's.
    """
    hint = "make it with `hypervouch suite compute --report FILE`"
    try:
        content = _content(path)
        _refuse_replay(path, content)
        report = Report.model_validate_json(content)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint=hint) from error
    except ValidationError as error:
        raise ConfigError(f"{path} is not a report: {_mistakes(error)}", hint=hint) from error
    late = max((one.at for one in report.evidence), default=now)
    if late > now + CLOCKS_DIFFER:
        raise ConfigError(
            f"{path} has evidence of {late.isoformat()}, which is still to come",
            hint="set the clock of the machine that made it, or of this one",
        )
    return report.name, tuple(_evidence(report, one) for one in report.evidence)


def _refuse_replay(path: Path, content: bytes) -> None:
    """See that a hypervisor was there.

    Raises:
        ConfigError: A recording answered.
    """
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):  # the form's own check says what is wrong with it
        return
    if isinstance(told, dict) and told.get("replay-of"):
        raise ConfigError(
            f"{path} is the report of a replay, which is evidence of nothing",
            hint="run the suite against the hypervisor itself: --hypervisor instead of --replay",
        )


def _content(path: Path) -> bytes:
    """The file, no more than is allowed; what is no file could be endless, or never answer.

    Raises:
        ConfigError: It is none, or too large.
        OSError: It cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ConfigError(f"{path} cannot be read: it is no file", hint="name a report's file")
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(
            f"{path} has more than the {MAX_FILE_BYTES} bytes that are read",
            hint="split it into several reports",
        )
    return content


def _evidence(report: Report, one: ReportedEvidence) -> Evidence:
    system = report.systems[one.system]
    return Evidence(
        system=System(
            key=system.key,
            title=" ".join(system.title.split()),
            grade=Grade(system.grade),
            versions=dict(system.versions),
        ),
        feature=one.feature.value,
        shown=one.shown,
        test_id=one.test_id,
        reason=" ".join(one.reason.split()),
        at=one.at,
        source=f"report: {' '.join(report.name.split())}",
        duration_s=one.duration_s,
    )


def _mistakes(error: ValidationError) -> str:
    found = [
        f"{'.'.join(str(part) for part in one['loc']) or 'the file'}: {one['msg']}"
        for one in error.errors(include_input=False, include_url=False)
    ]
    more = len(found) - _SHOWN_MISTAKES
    return "; ".join(found[:_SHOWN_MISTAKES]) + (f"; and {more} more" if more > 0 else "")
