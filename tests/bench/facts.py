# SPDX-License-Identifier: Apache-2.0
"""Lines of `stream-events` without end: recorded ones, about ever new changes and seconds."""

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha1
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parents[1] / "data" / "gerrit" / "stream.jsonl"
PROJECT = "hypervisor-drivers"
"""The one that all recorded lines are about."""
PATCHSETS = 3
"""Patch sets of each change of `busy_day`."""
UPLOADS, COMMENTS, REFS = 2, 5, 10
"""Lines of a turn of `busy_day`, with one topic and two that are told again."""
_NO_FACTS = frozenset({"ref-updated", "project-created", "reviewer-added", "reviewer-deleted"})
# What stands for the parts that change: in no recorded line.
_NUMBER, _PATCHSET, _AT = 1_900_000_001, 1_900_000_002, 1_900_000_003
_COMMIT, _CHANGE_ID = "c0ffee" * 6 + "c0ff", "I" + "decade" * 6 + "deca"
Json = dict[str, Any]


class _Line:
    """One recorded line, told again of another change, patch set and second.

    Filling in a text takes microseconds, and leaves it in the server's own order of members.
    """

    def __init__(self, recorded: Json) -> None:
        self.number: int = recorded.get("change", {}).get("number", 1)
        self.patchset: int = recorded.get("patchSet", {}).get("number", 1)
        self.at: int = recorded["eventCreatedOn"]
        source: Json = {**recorded, "eventCreatedOn": _AT}
        if "change" in source:
            source["change"] = {**source["change"], "number": _NUMBER, "id": _CHANGE_ID}
        if "patchSet" in source:
            source["patchSet"] |= {
                "number": _PATCHSET,
                "revision": _COMMIT,
                "ref": f"refs/changes/00/{_NUMBER}/{_PATCHSET}",
            }
        if "refUpdate" in source:
            name = f"refs/changes/00/{_NUMBER}/{_PATCHSET}"
            source["refUpdate"] |= {"newRev": _COMMIT, "refName": name}
        self._text = json.dumps(source, separators=(",", ":"))

    def of(self, number: int, patchset: int, at: int) -> bytes:
        """The line, of this change and second."""
        text = self._text.replace(f"/00/{_NUMBER}/", f"/{number % 100:02}/{number}/")
        for placeholder, value in (
            (str(_NUMBER), str(number)),
            (str(_PATCHSET), str(patchset)),
            (str(_AT), str(at)),
            (_COMMIT, _digest(number, patchset)),
            (_CHANGE_ID, f"I{_digest(number, 0)}"),
        ):
            text = text.replace(placeholder, value)
        return text.encode()


def _digest(number: int, patchset: int) -> str:
    return sha1(f"{number},{patchset}".encode(), usedforsecurity=False).hexdigest()


def _recording() -> list[Json]:
    return [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]


def begin() -> datetime:
    """The date of the oldest recorded line: none that is made here is older."""
    return datetime.fromtimestamp(min(one["eventCreatedOn"] for one in _recording()), UTC)


def all_new(count: int) -> list[bytes]:
    """So many lines in the recorded proportions, each a fact of its own; no `ref-updated`."""
    lines = [_Line(one) for one in _recording() if one["type"] not in _NO_FACTS]
    made = (
        one.of(1000 * turn + one.number, one.patchset, one.at + turn)
        for turn in itertools.count(1)
        for one in lines
    )
    return list(itertools.islice(made, count))


def busy_day(count: int) -> Iterator[bytes]:
    """So many lines as a busy server tells them.

    Of 20 lines 10 move refs of changes, 2 are new patch sets, 5 comments (half of them with a
    vote), one sets a topic, and 2 tell again what was told a moment ago.
    """
    return itertools.islice(itertools.chain.from_iterable(_turns()), count)


def _turns() -> Iterator[list[bytes]]:
    by_type: dict[str, list[_Line]] = {}
    for one in _recording():
        by_type.setdefault(one["type"], []).append(_Line(one))
    upload, topic, ref = (
        by_type[name][0] for name in ("patchset-created", "topic-changed", "ref-updated")
    )
    said = itertools.cycle(by_type["comment-added"])
    again: list[bytes] = []
    for turn in itertools.count():
        at = upload.at + turn
        places = [divmod(UPLOADS * turn + one, PATCHSETS) for one in range(UPLOADS)]
        number, patchset = places[0][0] + 1, places[0][1] + 1
        facts = [
            *(upload.of(change + 1, which + 1, at) for change, which in places),
            *(one.of(number, patchset, at) for one in itertools.islice(said, COMMENTS)),
            topic.of(number, patchset, at),
        ]
        yield [*(ref.of(number, patchset, at) for _ in range(REFS)), *facts, *again]
        again = [facts[0], facts[UPLOADS]]
