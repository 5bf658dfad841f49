# SPDX-License-Identifier: Apache-2.0
"""Terminal output as safe text: colours become words for CSS classes, the rest is dropped.

Source: ECMA-48 (control sequences) and ISO 6429 (SGR parameters).
"""

import re

Segment = tuple[str, str]

_CSI = r"\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]"
_OSC = r"\x1b[\]PX^_][^\x07\x1b]{0,2000}(?:\x07|\x1b\\)?"
_ESCAPE = re.compile(rf"({_CSI})|{_OSC}|\x1b[ -/]{{0,8}}[0-~]?|\x9b[0-?]{{0,64}}[ -/]{{0,8}}[@-~]")
_SGR = re.compile(r"\x1b\[([0-9;:]*)m")
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)
_COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
_SKIPS = {"38", "48", "58"}


def plain(text: str, limit: int = 100_000) -> str:
    """Text without escape sequences, control characters and direction overrides.

    Newlines and tabs stay; what is longer than `limit` ends in a mark.
    """
    short = text[:limit]
    seen = _UNSEEN.sub("", _ESCAPE.sub("", short).replace("\r\n", "\n"))
    return seen if len(text) <= limit else seen + "\u2026"


def one_line(text: str, limit: int = 300) -> str:
    """As `plain`, on one line: for subjects, names and messages."""
    return " ".join(plain(text, limit).split())


def segments(line: str) -> tuple[Segment, ...]:
    """One log line as (class names, text) pairs; the class is empty for plain text.

    A carriage return inside the line overwrites what came before it, as on a terminal.
    """
    line = _last_overwrite(line)
    found: list[Segment] = []
    style = ""
    place = 0
    for escape in _ESCAPE.finditer(line):
        _add(found, style, line[place : escape.start()])
        place = escape.end()
        if sgr := _SGR.fullmatch(escape.group()):
            style = _style(style, sgr[1])
    _add(found, style, line[place:])
    return tuple(found)


def _last_overwrite(line: str) -> str:
    parts = [part for part in line.split("\r") if part]
    return parts[-1] if parts else ""


def _add(found: list[Segment], style: str, text: str) -> None:
    if shown := _UNSEEN.sub("", text):
        found.append((style, shown))


def _style(before: str, parameters: str) -> str:
    """The style after an SGR sequence; extended colours are passed over."""
    words = set(before.split())
    codes = parameters.replace(":", ";").split(";")
    if _SKIPS & set(codes):
        return before
    for code in codes:
        if code in {"", "0"}:
            words = set()
        elif code == "1":
            words.add("ansi-bold")
        elif code == "22":
            words.discard("ansi-bold")
        elif code == "39" or _colour(code):
            words = {word for word in words if word == "ansi-bold"} | set(_colour(code))
    return " ".join(sorted(words))


def _colour(code: str) -> tuple[str, ...]:
    if len(code) == 2 and code[0] in "39" and code[1] in "01234567":  # noqa: PLR2004
        return (f"ansi-{_COLOURS[int(code[1])]}",)
    return ()
