# SPDX-License-Identifier: Apache-2.0
"""The report comment, in the one form that every program which reads such comments accepts.

`write` makes it by a template, `problems` proves it. Pure; names of tests and their messages
are hostile text and cannot forge a row or a first line. A template of the operator's may say
anything in its own words, but it keeps the first line, the rows and the link as they are, and
what it makes has to pass the same rules; else ours is used, and the author loses nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ci.comment_content import Comment, CommentRow, Content, Prepared, prepare, row_line
from ci.comment_rules import MAX_BYTES, problems, rows_of
from ci.comment_template import Template, TemplateTrouble, builtin
from ci.comment_words import WORDS, duration, harmless

__all__ = [
    "WORDS",
    "Comment",
    "CommentRow",
    "Written",
    "duration",
    "harmless",
    "problems",
    "row_line",
    "write",
]

_SHOWN_COMPLAINTS = 5


@dataclass(frozen=True, kw_only=True)
class Written:
    """A comment, ready to be posted.

    Attributes:
        text: At most MAX_BYTES bytes of UTF-8, without a line end at its end.
        complaint: Why the operator's template was not used; empty when it was, or none given.
    """

    text: str
    complaint: str = ""


def write(comment: Comment, template: Template | None = None) -> Written:
    """Write the comment, cut to size: notes and failing tests are cut before rows.

    Args:
        comment: What to say.
        template: The operator's; ours where it is None or fails.
    """
    prepared = prepare(comment)
    own = _ours(prepared)
    if template is None:
        return Written(text=own)
    try:
        text, content = _fitted(template, prepared)
    except TemplateTrouble as error:
        return Written(text=own, complaint=str(error))
    # What our own comment cannot avoid either, say a bad word in our address, is not its fault.
    complaints = [*_unfaithful(text, content)]
    complaints += [one for one in problems(text) if one not in problems(own)]
    if complaints:
        listed = "; ".join(complaints[:_SHOWN_COMPLAINTS])
        return Written(text=own, complaint=f"{template.file}: {listed}")
    return Written(text=text)


def _ours(prepared: Prepared) -> str:
    try:
        return _fitted(builtin(), prepared)[0]
    except TemplateTrouble:
        # An address of thousands of characters: the shortest comment there is.
        return f"{prepared.whole.header}\n{prepared.whole.rows[0].line}"


def _fitted(template: Template, prepared: Prepared) -> tuple[str, Content]:
    """The text that shows the most parts and still fits, found by halving.

    Raises:
        TemplateTrouble: It cannot be rendered, or is too long with a single row.
    """
    count = high = prepared.bound(MAX_BYTES)  # mostly everything fits
    least = 1
    best: tuple[str, Content] | None = None
    while least <= high:
        content = prepared.at(count)
        text = template.render(content)
        if text is None:
            high = count - 1
        else:
            best, least = (text, content), count + 1
        count = (least + high) // 2
    if best is None:
        raise TemplateTrouble(f"{template.file}: it makes more than {MAX_BYTES} bytes of one row")
    return best


def _unfaithful(text: str, content: Content) -> Iterator[str]:
    """What a template may not change."""
    if text.split("\n", 1)[0] != content.header:
        yield "the first line has to be {{ header }}"
    if rows_of(text) != tuple(row.line for row in content.rows):
        yield "it has to hold {{ row.line }} of each of the rows once, in order, and no other row"
    if content.url not in text:
        yield "it has to hold {{ url }}"
