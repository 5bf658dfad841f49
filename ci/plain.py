# SPDX-License-Identifier: Apache-2.0
r"""Others' words as terminals, logs and pages may show them: escaped where they would act.

Names of machines on a hypervisor are whatever their owners wrote: terminal escapes, direction
marks that turn a line around, line breaks that forge one, or a megabyte of them. Nothing is lost:
what is not shown as it is, is shown as Python writes it, `\x1b` or `\u202e`.
"""

from collections.abc import Collection

LONGEST = 1 << 16
"""Characters of a message: a traceback, or all that is wrong with a configuration."""
NAME = 80
"""Characters of one name in a message."""


def text(words: str, limit: int = LONGEST) -> str:
    """A text of perhaps several lines."""
    return "\n".join(_escaped(one) for one in _cut(words, limit).split("\n"))


def line(words: str, limit: int = LONGEST) -> str:
    """A text on one line; its line ends are told."""
    return _escaped(_cut(words, limit))


def names(found: Collection[str], most: int = 10) -> str:
    """Some of several names, sorted, and how many more there are; `none` for none."""
    told = [line(one, NAME) for one in sorted(found)[:most]]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f"{', '.join(told)}{more}" if told else "none"


def _cut(words: str, limit: int) -> str:
    return words if len(words) <= limit else f"{words[: limit - 1]}\u2026"


def _escaped(words: str) -> str:
    if words.isprintable():
        return words
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in words
    )
