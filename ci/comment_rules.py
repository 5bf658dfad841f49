# SPDX-License-Identifier: Apache-2.0
"""Would every program that reads CI comments read this one? The rules of each, as a check.

The readers and their expressions, as they stand in their sources:
Gerrit's zuul-results-summary plugin (the summary tab), the older hideci script, ciwatch,
lastcomment, the third-party-ci-tools with their scoreboard, and the recheck trigger of
OpenStack's own CI, which must not take our comment for a request.
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

SUMMARY_HEADER = re.compile(
    r"^Build (?P<status>\w+) \((?P<pipeline>[\w]+) pipeline\)\.", re.MULTILINE
)
SUMMARY_ROW = re.compile(
    r"^- (?P<job>[^ ]+) (?:(?P<link>https?:\/\/[^ ]+)|[^ ]+) : "
    r"((ERROR (?P<errormsg>.*?) in (?P<errtime>.*))|(?P<result>[^ ]+)( in (?P<time>.*))?)"
)
HIDECI_PIPELINE = re.compile(r"Build \w+ \(([-\w]+) pipeline\)")
CIWATCH_ROW = re.compile(
    r"[-*]\s+([^\s*]+)\s+(http[^\s*]+) : (FAILURE|SUCCESS|NOT_REGISTERED|UNSTABLE)"
)
CIWATCH_PIPELINE = re.compile(r"\((.*)\spipeline\)")
FIRST_PARTY_RECHECK = re.compile(
    r"(?i)^(Patch Set [0-9]+:)?( [\w\\+-]*)*(\n\n)?\s*recheck"  # its authors' own spelling
)
GERRIT_PREFIX = "Patch Set 1: Verified+1\n\n"
LEAST_WORDS_OF_A_ROW = 5
RECHECK_LOOK = 200


def problems(text: str) -> tuple[str, ...]:
    """What a reader would get wrong about a comment; empty for a good one.

    Args:
        text: The comment as we post it, without Gerrit's own first paragraph.
    """
    return tuple(_problems(text))


def _problems(text: str) -> Iterator[str]:
    size = len(text.encode())
    if size > MAX_BYTES:
        yield f"{size} bytes, but {MAX_BYTES} are allowed"
    yield from _header_problems(text)
    rows = [line for line in text.splitlines() if line.startswith(("- ", "* "))]
    if not rows:
        yield "it has no row"
    for row in rows:
        yield from _row_problems(row)
    seen = sum(CIWATCH_ROW.search(row) is not None for row in rows)
    if len(CIWATCH_ROW.findall(text)) > seen:
        yield "prose looks like a row"
    if FIRST_PARTY_RECHECK.match((GERRIT_PREFIX + text)[:RECHECK_LOOK]):
        yield "it would be taken for a recheck"


def _header_problems(text: str) -> Iterator[str]:
    headers = list(SUMMARY_HEADER.finditer(text))
    if not headers or headers[0].start() != 0:
        yield "the first line is not 'Build succeeded|failed (PIPELINE pipeline).'"
        return
    lines = text.splitlines()
    if lines[0] != headers[0].group(0):
        yield "the first line holds more than the result"
    if len(headers) > 1:
        yield "a further line looks like the first one"
    status, pipeline = headers[0]["status"], headers[0]["pipeline"]
    if status not in {"succeeded", "failed"}:
        yield f"the result {status} is neither succeeded nor failed"
    old = HIDECI_PIPELINE.search(text)
    third = CIWATCH_PIPELINE.search((GERRIT_PREFIX + text).splitlines()[2])
    if not (old and third and old[1] == third[1] == pipeline):
        yield "the readers disagree about the pipeline's name"
    bad = FORBIDDEN_WHEN_SUCCEEDED.search(text)
    if status == "succeeded" and bad:
        yield f"it succeeded but holds the word {bad[0]!r}"


def _row_problems(row: str) -> Iterator[str]:
    found = SUMMARY_ROW.match(row)
    if found is None or not row.startswith("- "):
        yield f"not a row of the summary tab: {row[:120]!r}"
        return
    if not found["link"]:
        yield f"no absolute link in the row {row[:120]!r}"
    result = found["result"] or "ERROR"
    if result not in RESULT_WORDS:
        yield f"unknown result word {result!r}"
    words = row.split()
    if len(words) < LEAST_WORDS_OF_A_ROW or words[3] != ":" or words[4] != result:
        yield f"words are not where the tools expect them: {row[:120]!r}"
    if result in {"SUCCESS", "FAILURE"} and not CIWATCH_ROW.search(row):
        yield f"ciwatch does not see the row {row[:120]!r}"
