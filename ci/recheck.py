# SPDX-License-Identifier: Apache-2.0
"""The recheck grammar: which comment asks for another run, of what, and why.

Pure, and safe on hostile text: every expression is bounded and looks at the beginning only.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

# What is looked at of one text; a request stands at its beginning.
_LOOK_CHARACTERS = 400
_REASON_CHARACTERS = 200
_OWN_LINE = re.compile(r"Patch Set \d{1,6}(?![0-9A-Za-z])")
_COUNT_LINE = re.compile(r"\(\d{1,6} comments?\)")
_RECHECK = re.compile(r"recheck(?=[\s:,-]|\Z)[ \t:,-]{0,40}(?P<rest>[^\n]{0,200})", re.IGNORECASE)
_RUN = re.compile(r"run-(?P<rest>\S[^\n]{0,199})", re.IGNORECASE)
_BETWEEN = " \t:,;"
_END_OF_WORD = re.compile(r"[\s:,;]|[.!?](?:\s|\Z)|\Z")


@dataclass(frozen=True, kw_only=True)
class RecheckRequest:
    """Somebody asks for another run.

    Attributes:
        words: The known names that follow, as the layout writes them, in order; without our
            own aliases. Empty means everything.
        reason: The rest of the line, printable characters only; hostile text.
    """

    words: tuple[str, ...] = ()
    reason: str = ""


def comment_texts(comment: str, patchset_level: Sequence[str] = ()) -> tuple[str, ...]:
    """What a person wrote, out of a comment-added event; each text once, in order.

    Args:
        comment: The event's `comment`. Its first line, `Patch Set 3: Code-Review+1`, and the
            line `(2 comments)` are Gerrit's own.
        patchset_level: The messages of `patchSetComments["/PATCHSET_LEVEL"]`, which hold the
            text that newer servers leave out of `comment`.

    Source: tests/data events comment-added-*.json of Gerrit 3.10 and 3.13.
    """
    first, _, rest = comment.partition("\n")
    body = rest if _OWN_LINE.match(first) else comment
    lines = (line for line in body.splitlines() if not _COUNT_LINE.fullmatch(line.strip()))
    texts = ("\n".join(lines), *patchset_level)
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def parse(
    texts: Iterable[str], aliases: Collection[str], targets: Collection[str] = ()
) -> RecheckRequest | None:
    """The first request among the texts, or None.

    `recheck` counts as the first word only, so that "please do not recheck" and a quote ask
    for nothing. `run-NAME` counts for our own names.

    Args:
        texts: As `comment_texts` gives them.
        aliases: User names and full names of our accounts, and what else we answer to.
        targets: Names that may follow to narrow the run: jobs, pipelines, node labels.
    """
    return next((found for text in texts if (found := _request(text, aliases, targets))), None)


def printable(text: str) -> str:
    """Hostile text without control characters and direction marks, for terminals and pages."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _request(
    text: str, aliases: Collection[str], targets: Collection[str]
) -> RecheckRequest | None:
    start = text.lstrip()[:_LOOK_CHARACTERS]
    if found := _RECHECK.match(start):
        rest = found["rest"]
    elif (found := _RUN.match(start)) and (
        alias := _leading_name(found["rest"], _longest_first(aliases))
    ):
        rest = found["rest"][len(alias) :]
    else:
        return None
    words, reason = _split(rest, aliases, targets)
    return RecheckRequest(words=words, reason=printable(reason)[:_REASON_CHARACTERS])


def _split(
    rest: str, aliases: Collection[str], targets: Collection[str]
) -> tuple[tuple[str, ...], str]:
    """The names at the beginning of `rest`, and what follows them."""
    words: list[str] = []
    known = _longest_first({*aliases, *targets})
    rest = rest.strip(_BETWEEN)
    while name := _leading_name(rest, known):
        if name in targets and name not in words:
            words.append(name)
        rest = rest[len(name) :].lstrip(_BETWEEN + ".!?")
    return tuple(words), rest.strip()


def _longest_first(names: Iterable[str]) -> list[str]:
    # "xen" must not hide "xen 4.17".
    return sorted((name for name in names if name), key=len, reverse=True)


def _leading_name(text: str, names: Sequence[str]) -> str:
    for name in names:
        if text[: len(name)].casefold() != name.casefold():
            continue
        if _END_OF_WORD.match(text, len(name)):
            return name
    return ""
