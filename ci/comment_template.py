# SPDX-License-Identifier: Apache-2.0
"""The template of a comment: a small part of Jinja2, whose cost is bounded by what it may say.

Text, `{{ }}`, `if` and `for`, a few filters; nothing that can be called, assigned, defined or
included. Every turn of every loop is counted by what it does, strings grow no faster than the
template is long, and what comes out is cut off: so a template can be wrong, but it cannot hang
the CI, fill its memory or reach anything beside the content it is given.
"""

from collections.abc import Iterator
from dataclasses import fields
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ci.comment_content import Content, Row
from ci.comment_rules import MAX_BYTES
from ci.errors import ConfigError

SOURCE_LIMIT_BYTES = 16 * 1024
STEPS = 400_000  # a step is one part of an expression, once; a second on a slow machine
JOIN_STEPS = 100
JOINED_LIMIT = 2 * MAX_BYTES
NAMES = frozenset(field.name for field in fields(Content))
BUILTIN = Path(__file__).parent / "templates" / "comment.txt.j2"

_STEPS = "_steps"  # in the render's context, out of the template's reach
_ALLOWED = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.For,
    nodes.If,
    nodes.Name,
    nodes.Const,
    nodes.Getattr,
    nodes.Filter,
    nodes.Keyword,
    nodes.Test,
    nodes.Compare,
    nodes.Operand,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.CondExpr,
    nodes.Concat,
    nodes.Add,
    nodes.Sub,
    nodes.List,
    nodes.Tuple,
)


class TemplateTrouble(ConfigError):
    """A comment template that cannot be used; the message says file and line."""


class Template:
    """A compiled template; may be used by several threads.

    Args:
        source: Its text.
        file: Where it came from, for messages.

    Raises:
        TemplateTrouble: It is too long, does not compile, or uses what is not offered.
    """

    def __init__(self, source: str, file: str) -> None:
        self.file = file
        self._compiled = _compile(source, file)

    def render(self, content: Content) -> str | None:
        """The comment, without blank space at its ends; None when it is longer than MAX_BYTES.

        Raises:
            TemplateTrouble: It uses a name that is not there, or loops without end.
        """
        values = {name: getattr(content, name) for name in NAMES}
        parts: list[str] = []
        size_bytes = 0
        try:
            for part in self._compiled.generate(values, **{_STEPS: _Steps()}):
                size_bytes += len(part.encode("utf-8", "replace"))
                if size_bytes > MAX_BYTES:
                    return None
                parts.append(part)
        except Exception as error:
            # The operator's code: whatever it raises costs the template, never the comment.
            raise _trouble(self.file, _line_of(error, self.file), error) from error
        lines = "".join(parts).split("\n")
        return "\n".join(line.rstrip() for line in lines).strip("\n")


@cache
def builtin() -> Template:
    """Our own template."""
    return Template(BUILTIN.read_text(encoding="utf-8"), BUILTIN.name)


def load(file: Path) -> Template:
    """The template of a file, compiled again only when the file changed.

    Raises:
        TemplateTrouble: It cannot be read, or not be used.
    """
    try:
        status = file.stat()
        return _load(file, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise TemplateTrouble(f"{file} cannot be read: {error.strerror}") from error


@lru_cache(maxsize=64)
def _load(file: Path, _modified_ns: int, _size_bytes: int) -> Template:
    with file.open("rb") as stream:
        raw = stream.read(SOURCE_LIMIT_BYTES + 1)
    try:
        return Template(raw.decode(), str(file))
    except UnicodeDecodeError as error:
        raise TemplateTrouble(f"{file}: it is not UTF-8") from error


class _Steps:
    """Counts what all loops of one rendering do."""

    def __init__(self) -> None:
        self._left = STEPS

    def over(self, items: tuple[object, ...], cost: int) -> Iterator[object]:
        for item in items:
            self._left -= cost
            if self._left < 0:
                raise jinja2.TemplateRuntimeError(f"its loops take more than {STEPS} steps")
            yield item


class _Sandbox(ImmutableSandboxedEnvironment):
    """Attributes of our own values alone, beside what Jinja's sandbox keeps out."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        ours = isinstance(obj, Row | LoopContext)
        return ours and super().is_safe_attribute(obj, attr, value)


@jinja2.pass_context
def _counted(context: Context, items: object, cost: int) -> Iterator[object]:
    if not isinstance(items, tuple):
        raise jinja2.TemplateRuntimeError("`for` goes over rows, notes or a row's failing tests")
    steps: _Steps = context[_STEPS]
    return steps.over(items, cost)


def _joined(items: object, between: str = "") -> str:
    if not isinstance(items, tuple):
        raise jinja2.TemplateRuntimeError("`join` takes notes or a row's failing tests")
    texts = [str(item) for item in items]
    if sum(map(len, texts)) + len(between) * len(texts) > JOINED_LIMIT:
        raise jinja2.TemplateRuntimeError("`join` makes too long a text")
    return between.join(texts)


def _text(value: object) -> object:
    """Refuse to print what is not text: its inner form would stand in the comment."""
    if isinstance(value, str | int | jinja2.Undefined):
        return value
    raise jinja2.TemplateRuntimeError(f"a {type(value).__name__.lower()} cannot be printed")


@cache
def _environment() -> _Sandbox:
    made = _Sandbox(
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # plain text: Gerrit escapes what it shows
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_text,
    )
    made.globals.clear()
    offered = ("capitalize", "d", "default", "first", "last", "length", "lower", "truncate")
    made.filters = {name: made.filters[name] for name in (*offered, "upper")}
    made.filters.update({"join": _joined, "counted": _counted})
    made.tests = {name: made.tests[name] for name in ("defined", "in", "none", "eq", "ne")}
    return made


def _compile(source: str, file: str) -> jinja2.Template:
    if len(source.encode("utf-8", "replace")) > SOURCE_LIMIT_BYTES:
        raise TemplateTrouble(f"{file}: it is longer than {SOURCE_LIMIT_BYTES} bytes")
    environment = _environment()
    try:
        tree = environment.parse(source)
        _check(tree)
        for loop in tree.find_all(nodes.For):
            cost = [nodes.Const(_cost(loop))]
            loop.iter = nodes.Filter(loop.iter, "counted", cost, [], None, None, lineno=loop.lineno)
        tree.set_environment(environment)
        code = environment.compile(tree, filename=file)
        return jinja2.Template.from_code(environment, code, {})
    except Exception as error:
        # The operator's code, down to one that nests deeper than Python can follow.
        raise _trouble(file, _line_of(error, file), error) from error


def _cost(loop: nodes.For) -> int:
    """Steps of one turn, loops inside it apart."""
    return sum(
        JOIN_STEPS if isinstance(node, nodes.Filter) and node.name == "join" else 1
        for node in loop.find_all(nodes.Node)
    )


def _check(tree: nodes.Template) -> None:
    """Refuse what is not offered, with its line."""
    for node in tree.find_all(nodes.Node):
        refused = not isinstance(node, _ALLOWED) or (isinstance(node, nodes.For) and node.recursive)
        private = isinstance(node, nodes.Name) and node.name.startswith("_")
        counted = isinstance(node, nodes.Filter) and node.name == "counted"
        if refused or private or counted:
            what = getattr(node, "name", "") if private or counted else type(node).__name__.lower()
            raise jinja2.TemplateSyntaxError(f"{what!r} is not offered", node.lineno)
    unknown = find_undeclared_variables(tree) - NAMES
    for node in tree.find_all(nodes.Name):
        if node.name in unknown:
            known = ", ".join(sorted(NAMES))
            message = f"there is no {node.name!r}; there are {known}"
            raise jinja2.TemplateSyntaxError(message, node.lineno)


def _trouble(file: str, line: int, error: Exception) -> TemplateTrouble:
    said = {
        RecursionError: "it nests too deeply",
        MemoryError: "it nests too deeply",
    }.get(type(error)) or str(error).split("\n", 1)[0][:300]
    return TemplateTrouble(f"{file}:{line}: {said or type(error).__name__}")


def _line_of(error: Exception, file: str) -> int:
    """The template's line that an error comes from; 1 where nobody knows."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return error.lineno
    line, trace = 1, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
