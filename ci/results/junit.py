# SPDX-License-Identifier: Apache-2.0
"""JUnit XML written by untrusted code, as Outcomes. Pure.

The file is read by expat with document types refused, so that neither entities nor external
files exist for it, and with caps on size, depth and cases. junitparser then only walks a
tree that was found harmless: its own parser would expand entities.
"""

import math
import re
from collections.abc import Iterator
from xml.etree import ElementTree as ET
from xml.parsers import expat

import junitparser

from ci.errors import CollectError
from ci.model.evidence import System
from ci.model.feature import Feature
from ci.model.result import Grade, Outcome, Status

MAX_FILE_BYTES = 32 * 1024 * 1024
MAX_CASES = 100_000
MAX_ELEMENTS = 500_000
MAX_DEPTH = 32
MAX_ID = 500
MAX_MESSAGE = 1_000
MAX_DETAILS = 16_384
# All details of a file together: a database row per test must stay affordable.
MAX_ALL_DETAILS = 8 * 1024 * 1024

FEATURE = "hypervouch.feature"
SYSTEM, TITLE, VERSION = "hypervouch.system", "hypervouch.title", "hypervouch.version."
MAX_VERSIONS = 64
MAX_TITLE = 120
_FEATURES = frozenset(feature.value for feature in Feature)
_KEY = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_HINT = "the suite must write JUnit XML, for instance with pytest --junitxml"


def parse(
    data: bytes, name: str = "JUnit file", seen: dict[str, int] | None = None
) -> tuple[Outcome, ...]:
    """The tests of one result file, in the file's order.

    Ids are `classname::name`, with `#2`, `#3` for a name that occurs again.

    Args:
        data: The file.
        name: What to call it in an error.
        seen: How often each id occurred before; share it between the files of one run.

    Raises:
        CollectError: Too large, not XML, not JUnit, or with a document type.
    """
    if len(data) > MAX_FILE_BYTES:
        raise CollectError(
            f"{name} has {len(data)} bytes, more than the {MAX_FILE_BYTES} that are read",
            hint="split the results into several files",
        )
    try:
        document = junitparser.JUnitXml.fromroot(_Reader(name).read(data))  # type: ignore[arg-type]
    except junitparser.JUnitXmlError as error:
        raise CollectError(
            f"{name} is not JUnit: its root is neither testsuites nor testsuite", hint=_HINT
        ) from error
    return tuple(_outcomes(document, name, {} if seen is None else seen))


def system(data: bytes, name: str = "JUnit file") -> System | None:
    """The column of the matrix that a file's tests were run on, by its suites' properties.

    What it says of its grade does not count: that is the lease's to know.

    Args:
        data: A file that `parse` has read.
        name: What to call it in an error.

    Raises:
        CollectError: As of `parse`.
    """
    root = _Reader(name).read(data)
    said = {
        str(one.get("name", "")): str(one.get("value", ""))
        for suite in root.iter("testsuite")
        for group in suite.findall("properties")
        for one in group
    }
    if not _KEY.fullmatch(said.get(SYSTEM, "")):
        return None
    versions = [(key, text) for key, text in said.items() if key.startswith(VERSION)]
    return System(
        key=said[SYSTEM],
        title=_one_line(said.get(TITLE) or said[SYSTEM], MAX_TITLE),
        grade=Grade.NONE,
        versions={
            _one_line(key.removeprefix(VERSION), MAX_TITLE): _one_line(text, MAX_ID)
            for key, text in versions[:MAX_VERSIONS]
        },
    )


class _Reader:
    """expat feeding a tree builder, within limits."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._depth = 0
        self._elements = 0
        self._builder = ET.TreeBuilder()
        parser = expat.ParserCreate(namespace_separator="}")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._builder.data
        parser.StartDoctypeDeclHandler = self._doctype
        parser.EntityDeclHandler = self._doctype
        self._parser = parser

    def read(self, data: bytes) -> ET.Element:
        try:
            self._parser.Parse(data, True)  # noqa: FBT003 expat takes it by position
        except (expat.ExpatError, ValueError, LookupError) as error:
            raise CollectError(f"{self._name} is not well-formed: {error}", hint=_HINT) from error
        return self._builder.close()

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._elements += 1
        if self._depth > MAX_DEPTH or self._elements > MAX_ELEMENTS:
            raise CollectError(
                f"{self._name} has more than {MAX_ELEMENTS} elements or {MAX_DEPTH} levels",
                hint="split the results into several files",
            )
        self._builder.start(tag.rpartition("}")[2], attributes)

    def _end(self, tag: str) -> None:
        self._depth -= 1
        self._builder.end(tag.rpartition("}")[2])

    def _doctype(self, *_: object) -> None:
        raise CollectError(f"{self._name} declares a document type, which is refused", hint=_HINT)


def _outcomes(document: junitparser.JUnitXml, name: str, seen: dict[str, int]) -> Iterator[Outcome]:
    room = MAX_ALL_DETAILS
    count = sum(seen.values())
    for suite in document:
        for label, case in _cases(suite):
            count += 1
            if count > MAX_CASES:
                raise CollectError(
                    f"{name} has more than {MAX_CASES} tests",
                    hint="split the suite into several jobs",
                )
            test_id = _test_id(label, case)
            seen[test_id] = again = seen.get(test_id, 0) + 1
            if again > 1:
                test_id = f"{test_id}#{again}"
            outcome = _outcome(test_id, case, room)
            room -= len(outcome.details)
            yield outcome


def _cases(
    suite: junitparser.TestSuite,
) -> Iterator[tuple[str, junitparser.TestCase]]:
    """Cases with their suite's name; junitparser's own walk forgets it, for nested ones."""
    label = str(suite.name or "")
    for case in suite.iterchildren(junitparser.TestCase):  # type: ignore[no-untyped-call]
        yield label, case
    for nested in suite.testsuites():  # type: ignore[no-untyped-call]
        yield from _cases(nested)


def _test_id(label: str, case: junitparser.TestCase) -> str:
    classname = str(case.classname or label).strip()
    own = str(case.name or "unnamed").strip()
    text = f"{classname}::{own}" if classname else own
    return _one_line(text, MAX_ID)


def _one_line(text: str, limit: int) -> str:
    """Without control characters: it stands in comments, tables and URLs."""
    return "".join(c if c.isprintable() else " " for c in text)[:limit]


def _properties(case: junitparser.TestCase) -> Iterator[tuple[str, str]]:
    found = case.child(junitparser.Properties)  # type: ignore[no-untyped-call]
    for one in found or ():
        yield str(one.name), str(one.value)


def _outcome(test_id: str, case: junitparser.TestCase, room: int) -> Outcome:
    status, entry = _worst(case)
    message, details = _texts(entry)
    feature = dict(_properties(case)).get(FEATURE, "")
    return Outcome(
        test_id=test_id,
        status=status,
        duration_s=_seconds(case),
        message=message[:MAX_MESSAGE],
        details=details[: max(0, min(MAX_DETAILS, room))],
        feature=feature if feature in _FEATURES else "",
    )


def _worst(case: junitparser.TestCase) -> tuple[Status, junitparser.junitparser.Result | None]:
    """The most serious thing said of a case: error, failure, skipped, else passed."""
    ranks = (
        (junitparser.Error, Status.ERROR),
        (junitparser.Failure, Status.FAIL),
        (junitparser.Skipped, Status.SKIP),
    )
    for kind, status in ranks:
        entry = case.child(kind)  # type: ignore[no-untyped-call]
        if entry is not None:
            return status, entry
    return Status.PASS, None


def _texts(entry: junitparser.junitparser.Result | None) -> tuple[str, str]:
    """First line of the message, and the whole text."""
    if entry is None:
        return "", ""
    details = str(entry.text or "")
    lines = str(entry.message or details).strip().splitlines()
    return (lines[0].strip() if lines else ""), details


def _seconds(case: junitparser.TestCase) -> float:
    """Duration; zero where it is missing, negative or no number."""
    try:
        seconds = float(case.time or 0.0)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds >= 0 else 0.0
