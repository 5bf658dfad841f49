# SPDX-License-Identifier: Apache-2.0
"""The words of a comment: results as readers know them, and hostile text made harmless.

Pure. Whatever comes from a patch, a test or an account passes `harmless` before it stands
in a comment: it stays on its line and looks like nothing that a program acts on.
"""

import re

from ci.comment_rules import FORBIDDEN_WHEN_SUCCEEDED, ORDER_TO_A_CI, OWN_PREFIX
from ci.model.result import Result

WORDS = {
    Result.SUCCESS: "SUCCESS",
    Result.FAILURE: "FAILURE",
    Result.SKIPPED: "SKIPPED",
    Result.TIMED_OUT: "TIMED_OUT",
    Result.CANCELED: "ABORTED",
    Result.NODE_FAILURE: "NODE_FAILURE",
    Result.RETRY_LIMIT: "RETRY_LIMIT",
    Result.POST_FAILURE: "POST_FAILURE",
    Result.MERGE_CONFLICT: "MERGER_FAILURE",
    Result.LOST: "ABORTED",
    Result.ERROR: "ERROR",
}
"""Our results in the words that the readers know."""

LOOK = 5_000  # characters of a text that are looked at: the rest is never shown
_LINE_LIMIT = 300
_COLONS = re.compile(r"(?: :)+(?= |\Z)")
_HEADER = re.compile(r"build (?=\w+ \(|\w+\.)", re.IGNORECASE)
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_NAME_LIMIT = 81
LOOKALIKES = str.maketrans("ioIO", "1010")


def harmless(text: str) -> str:
    """Hostile text as part of one line: no row, no first line, no order to another program."""
    printable = "".join(one if one.isprintable() else " " for one in text[:LOOK])
    flat = " ".join(printable.split())[:_LINE_LIMIT]
    safe = _HEADER.sub("build: ", _COLONS.sub(":", flat)).lstrip("-*> ").rstrip()
    return f"said: {safe}" if ORDER_TO_A_CI.match(safe) or OWN_PREFIX.match(safe) else safe


def sounds_good(text: str) -> bool:
    """Whether a text may stand in a comment that says "succeeded"."""
    return not FORBIDDEN_WHEN_SUCCEEDED.search(text)


def name_of(job: str, *, succeeded: bool) -> str:
    """A job's name as one word; in a succeeded comment `failover` reads `fa1lover`.

    One reader takes a comment for a failure wherever it finds such a word, and the row of a
    job that passed must not be lost for its name.
    """
    word = _NOT_IN_A_NAME.sub("-", job)[:_NAME_LIMIT] or "job"
    if not succeeded:
        return word
    return FORBIDDEN_WHEN_SUCCEEDED.sub(lambda found: found[0].translate(LOOKALIKES), word)


def duration(seconds: float) -> str:
    """Seconds as `1h 02m 03s`, `2m 03s` or `3s`."""
    minutes, left = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m {left:02d}s"
    return f"{minutes}m {left:02d}s" if minutes else f"{left}s"
