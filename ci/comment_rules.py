# SPDX-License-Identifier: Apache-2.0
"""Would every program that reads CI comments read this one? The rules of each, as a check.

The readers and their expressions, as they stand in their sources:
Gerrit itself, its zuul-results-summary plugin (the summary tab), the older hideci script with
its comment links, ciwatch, lastcomment and the third-party-ci-tools with their scoreboard, and
the recheck triggers of other CIs, which must not take our comment for a request. Where
readers differ, the one form that all of them accept is asked for: Zuul's.
"""

import re
from collections.abc import Iterator

MAX_BYTES = 15_000
"""UTF-8. Gerrit refuses more than 16,384 and puts its own first paragraph before ours."""
FORBIDDEN_WHEN_SUCCEEDED = re.compile(r"fail|error|abort|not_registered", re.IGNORECASE)
"""One reader calls a comment a failure wherever it finds such a word."""
RESULT_WORDS = frozenset(
    {
        "SUCCESS",
        "FAILURE",
        "ERROR",
        "RETRY_LIMIT",
        "SKIPPED",
        "ABORTED",
        "MERGER_FAILURE",
        "NODE_FAILURE",
        "TIMED_OUT",
        "POST_FAILURE",
        "CONFIG_ERROR",
        "DISK_FULL",
    }
)
"""The words that the summary tab gives a colour."""

# JavaScript's \w is ASCII alone, and so are these.
SUMMARY_HEADER = re.compile(
    r"^Build (?P<status>\w+) \((?P<pipeline>[\w]+) pipeline\)\.", re.MULTILINE | re.ASCII
)
SUMMARY_SHORT_HEADER = re.compile(r"^Build (?P<status>\w+)\.", re.MULTILINE | re.ASCII)
SUMMARY_ROW = re.compile(
    r"^- (?P<job>[^ ]+) (?:(?P<link>https?:\/\/[^ ]+)|[^ ]+) : "
    r"((ERROR (?P<errormsg>.*?) in (?P<errtime>.*))|(?P<result>[^ ]+)( in (?P<time>.*))?)"
)
HIDECI_PIPELINE = re.compile(r"Build \w+ \(([-\w]+) pipeline\)", re.ASCII)
CIWATCH_ROW = re.compile(
    r"[-*]\s+([^\s*]+)\s+(http[^\s*]+) : (FAILURE|SUCCESS|NOT_REGISTERED|UNSTABLE)"
)
CIWATCH_PIPELINE = re.compile(r"\((.*)\spipeline\)")
ZUUL_ROW_TAIL = re.compile(r"( in (\d+h \d\dm \d\ds|\d+m \d\ds|\d+s))?( \(non-voting\))?")
FIRST_PARTY_RECHECK = re.compile(
    r"(?i)^(Patch Set [0-9]+:)?( [\w\\+-]*)*(\n\n)?\s*recheck"  # its authors' own spelling
)
ORDER_TO_A_CI = re.compile(
    r"^[ \t]*(?i:recheck\b)|^[ \t]*run-.{0,99}? CI\b",  # the second is how Cinder's CIs are asked
    re.MULTILINE,
)
GERRIT_PREFIXES = ("", "Patch Set 1:\n\n", "Patch Set 1: Verified+1\n\n")
OWN_PREFIX = re.compile(r"\s*Patch Set \d+:", re.IGNORECASE)
BULLET = re.compile(r"\s*[-*](\s|\Z)")
LEAST_WORDS_OF_A_ROW = 5
LOOK = 200
SHOWN = 120


def problems(text: str) -> tuple[str, ...]:
    """What a reader would get wrong about a comment, each as `reader: what`; empty if good.

    Args:
        text: The comment as we post it, without Gerrit's own first paragraph.
    """
    return tuple(dict.fromkeys(_problems(text)))


def rows_of(text: str) -> tuple[str, ...]:
    """The lines of a comment that some reader could take for a row."""
    return tuple(line for line in text.split("\n") if BULLET.match(line))


def _problems(text: str) -> Iterator[str]:
    yield from _gerrit_problems(text)
    yield from _header_problems(text)
    rows = rows_of(text)
    if not rows:
        yield "summary tab: it has no row"
    for row in rows:
        yield from _row_problems(row)
    seen = sum(CIWATCH_ROW.search(row) is not None for row in rows)
    if len(CIWATCH_ROW.findall(text)) > seen:
        yield "ciwatch: prose looks like a row"
    yield from _order_problems(text)


def _gerrit_problems(text: str) -> Iterator[str]:
    size = len(text.encode("utf-8", "replace"))
    if size > MAX_BYTES:
        yield f"Gerrit: {size} bytes, but {MAX_BYTES} are allowed"
    strange = next((one for one in text if not one.isprintable() and one != "\n"), None)
    if strange is not None:
        yield f"Gerrit: it holds the character U+{ord(strange):04X}, which cannot be printed"
    if OWN_PREFIX.match(text):
        yield "Gerrit: it begins as Gerrit's own first line does: 'Patch Set N:'"


def _header_problems(text: str) -> Iterator[str]:
    headers = list(SUMMARY_HEADER.finditer(text))
    if not headers or headers[0].start() != 0:
        yield (
            "summary tab: the first line is not 'Build succeeded|failed (PIPELINE pipeline).' "
            "with ASCII letters, digits and underscores alone in PIPELINE"
        )
        return
    lines = text.split("\n")
    if lines[0] != headers[0].group(0):
        yield "summary tab: the first line holds more than the result"
    if len(headers) > 1 or SUMMARY_SHORT_HEADER.search(text):
        yield "summary tab: a further line looks like the first one"
    status, pipeline = headers[0]["status"], headers[0]["pipeline"]
    if status not in {"succeeded", "failed"}:
        yield f"scoreboard: the result {status} is neither succeeded nor failed"
    yield from _name_problems(text, pipeline)
    bad = FORBIDDEN_WHEN_SUCCEEDED.search(text)
    if status == "succeeded" and bad:
        yield f"scoreboard: it succeeded but holds the word {bad[0]!r}"


def _name_problems(text: str, pipeline: str) -> Iterator[str]:
    names = HIDECI_PIPELINE.findall(text)
    if names != [pipeline]:
        yield "hideci: the readers disagree about the pipeline's name"
    third = CIWATCH_PIPELINE.search((GERRIT_PREFIXES[-1] + text).split("\n")[2])
    if third is None or third[1] != pipeline:
        yield "ciwatch: the readers disagree about the pipeline's name"


def _row_problems(row: str) -> Iterator[str]:
    shown = repr(row[:SHOWN])
    found = SUMMARY_ROW.match(row)
    if found is None:
        yield f"summary tab: not a row, or prose that begins like one: {shown}"
        return
    if not found["link"]:
        yield f"hideci: no absolute link in the row {shown}"
    result = found["result"] or "ERROR"
    if result not in RESULT_WORDS:
        yield f"summary tab: unknown result word {result[:SHOWN]!r}"
    words = row.split()
    if len(words) < LEAST_WORDS_OF_A_ROW or words[3] != ":" or words[4] != result:
        yield f"third-party-ci-tools: words are not where they are expected: {shown}"
    elif not ZUUL_ROW_TAIL.fullmatch(row.split(f" : {result}", 1)[-1]):
        yield f"third-party-ci-tools: more than time and '(non-voting)' ends the row {shown}"
    if result in {"SUCCESS", "FAILURE"} and not CIWATCH_ROW.search(row):
        yield f"ciwatch: it does not see the row {shown}"
    if result in {"SUCCESS", "FAILURE"} and f" : {result}" not in row:
        yield f"lastcomment: it does not see the row {shown}"


def _order_problems(text: str) -> Iterator[str]:
    for prefix in GERRIT_PREFIXES:
        if FIRST_PARTY_RECHECK.match((prefix + text)[:LOOK]):
            yield "recheck triggers: it would be taken for a recheck"
            return
    order = ORDER_TO_A_CI.search(text)
    if order:
        yield f"recheck triggers: a line reads as an order to a CI: {order[0].strip()[-SHOWN:]!r}"
