# SPDX-License-Identifier: Apache-2.0
"""YAML as plain values that remember where they stand, so that an error can say the line.

`parse` turns the text of one file into a tree of `Marked` values, or into Problems. It is
safe on hostile input: no tag makes an object, and size, depth and the number of values,
aliases expanded, are bounded.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SIZE_LIMIT_BYTES = 1024 * 1024
VALUE_LIMIT = 20_000
DEPTH_LIMIT = 32

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_SCALARS = frozenset(_TAG + kind for kind in ("str", "int", "float", "bool", "null", "timestamp"))
_CONTAINERS = frozenset(_TAG + kind for kind in ("map", "seq"))
_UNUSABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with the configuration, and where.

    Attributes:
        file: The file, as the operator named it.
        line: From 1.
        column: From 1, in characters.
        path: The keys that lead there, for instance `job[unit].timeout-s`; empty for the file.
        message: What is wrong and what to write instead.
    """

    file: Path
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}:"
        return f"{place} {self.path}: {self.message}" if self.path else f"{place} {self.message}"


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where something begins; both from 1."""

    line: int
    column: int


@dataclass(frozen=True, kw_only=True)
class Marked:
    """A value, where it stands, and the same for everything in it.

    Attributes:
        value: Plain Python: dict with text keys, list, text, number, bool, None, date.
        at: Where the value begins.
        key_at: Where its key begins; for list items and the root, the value itself.
        children: By key or index.
    """

    value: Any
    at: Position
    key_at: Position
    children: "Mapping[str | int, Marked]" = field(default_factory=dict)

    def find(self, loc: Sequence[str | int]) -> "Marked":
        """The value at `loc`, or the innermost one on the way there that exists."""
        here = self
        for part in loc:
            if part not in here.children:
                break
            here = here.children[part]
        return here

    def has(self, loc: Sequence[str | int]) -> bool:
        """Whether there is a value at `loc`."""
        here = self
        for part in loc:
            if part not in here.children:
                return False
            here = here.children[part]
        return True


class _Refused(Exception):
    """The file cannot be read any further; carries where and why."""

    def __init__(self, at: Position, message: str) -> None:
        super().__init__(message)
        self.at = at
        self.message = message


def read(file: Path) -> tuple[Marked | None, tuple[Problem, ...]]:
    """The tree of a file and what is wrong with it as YAML.

    Returns:
        (None, problems) when it cannot be read, (None, ()) when it holds nothing, else the
        tree, and a problem for each duplicate key or forbidden tag.
    """
    try:
        return parse(file, _text(file))
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        return None, (Problem(file=file, line=1, column=1, path="", message=message),)
    except _Refused as refused:
        return None, (_problem(file, refused.at, refused.message),)


def parse(file: Path, text: str) -> tuple[Marked | None, tuple[Problem, ...]]:
    """The tree of a text; see `read`. `file` only names it in problems."""
    try:
        _bound(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return None, ()
        builder = _Builder(file)
        tree = builder.build(node, _position(node.start_mark))
    except yaml.reader.ReaderError as error:
        at = _position_of(text, int(error.position))
        return None, (_problem(file, at, f"character U+{error.character:04X} is not allowed"),)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = _position(mark) if mark else Position(line=1, column=1)
        return None, (_problem(file, at, f"not YAML: {error.problem or error.context}"),)
    except _Refused as refused:
        return None, (_problem(file, refused.at, refused.message),)
    # An aliased value is looked at once per use.
    return tree, tuple(dict.fromkeys(builder.problems))


def _bound(text: str) -> None:
    """Refuse depth and number before anything recursive looks at the text."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH_LIMIT:
            message = f"nested deeper than {DEPTH_LIMIT} levels"
            raise _Refused(_position(event.start_mark), message)
        if count > 2 * VALUE_LIMIT:
            message = f"more than {VALUE_LIMIT} values: split the configuration into files"
            raise _Refused(_position(event.start_mark), message)


class _Builder:
    """Turns composed nodes into Marked ones and notes what is not allowed."""

    def __init__(self, file: Path) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._scalars = yaml.constructor.SafeConstructor()
        self._count = 0
        self._open: set[int] = set()

    def build(self, node: yaml.Node, key_at: Position) -> Marked:
        """The tree below `node`, aliases expanded."""
        at = _position(node.start_mark)
        self._count += 1
        if self._count > VALUE_LIMIT:
            raise _Refused(at, f"more than {VALUE_LIMIT} values once aliases are expanded")
        if isinstance(node, yaml.ScalarNode):
            return Marked(value=self._scalar(node), at=at, key_at=key_at)
        if id(node) in self._open:
            raise _Refused(at, "an alias refers to the value it stands in")
        if node.tag not in _CONTAINERS:
            self._note(node, f"the tag {node.tag!r} is not allowed")
        if len(self._open) >= DEPTH_LIMIT:
            raise _Refused(at, f"nested deeper than {DEPTH_LIMIT} levels once aliases are expanded")
        self._open.add(id(node))
        try:
            children: Mapping[str | int, Marked]
            if isinstance(node, yaml.SequenceNode):
                children = dict(enumerate(self._items(node)))
                value: Any = [child.value for child in children.values()]
            else:
                children = self._pairs(node)
                value = {key: child.value for key, child in children.items()}
        finally:
            self._open.discard(id(node))
        return Marked(value=value, at=at, key_at=key_at, children=children)

    def _items(self, node: yaml.Node) -> Iterator[Marked]:
        for child in node.value:
            yield self.build(child, _position(child.start_mark))

    def _pairs(self, node: yaml.Node) -> dict[str | int, Marked]:
        own: dict[str | int, Marked] = {}
        merged: dict[str | int, Marked] = {}
        for key_node, value_node in node.value:
            key_at = _position(key_node.start_mark)
            value = self.build(value_node, key_at)
            if key_node.tag == _MERGE:
                # The first of several merged mappings wins, as the merge key's definition says.
                merged = {**self._merged(value_node, value), **merged}
            elif (key := self._key(key_node)) is None:
                continue
            elif key in own:
                first = own[key].key_at
                self._note(key_node, f"the key {key!r} was already given in line {first.line}")
            else:
                own[key] = value
        return {**merged, **own}

    def _merged(self, node: yaml.Node, value: Marked) -> dict[str | int, Marked]:
        if isinstance(value.value, dict):
            return dict(value.children)
        parts = list(value.children.values()) if isinstance(value.value, list) else []
        if not parts or not all(isinstance(part.value, dict) for part in parts):
            self._note(node, "<< needs a mapping or a list of mappings")
            return {}
        return {key: child for part in reversed(parts) for key, child in part.children.items()}

    def _key(self, node: yaml.Node) -> str | None:
        if isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "str":
            return str(node.value)
        shown = f"the key {node.value}" if isinstance(node, yaml.ScalarNode) else "a key"
        self._note(node, f"{shown} is not text: put it in quotes")
        return None

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.tag not in _SCALARS:
            if node.tag != _MERGE:
                self._note(node, f"the tag {node.tag!r} is not allowed")
            return node.value
        if _UNUSABLE.search(node.value):
            # An escape such as "\0" or "\uD800": no path, no command and no page could hold it.
            self._note(node, "holds a control character or half of a character")
            return ""
        try:
            return self._scalars.construct_object(node)
        except (ValueError, yaml.MarkedYAMLError):
            # For instance 2020-13-45, or a number of 5,000 digits.
            self._note(node, f"{node.value[:40]!r} is no valid value: put text in quotes")
            return node.value

    def _note(self, node: yaml.Node, message: str) -> None:
        self.problems.append(_problem(self._file, _position(node.start_mark), message))


def _text(file: Path) -> str:
    # A FIFO or a device would hang or never end.
    if file.exists() and not file.is_file():
        raise _Refused(Position(line=1, column=1), "is not a regular file")
    with file.open("rb") as stream:
        raw = stream.read(SIZE_LIMIT_BYTES + 1)
    if len(raw) > SIZE_LIMIT_BYTES:
        message = f"larger than {SIZE_LIMIT_BYTES} bytes: is this a configuration file?"
        raise _Refused(Position(line=1, column=1), message)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8-sig", errors="replace")
        at = _position_of(before, len(before))
        raise _Refused(at, f"not UTF-8: byte 0x{raw[error.start]:02x}") from error


def _position(mark: Any) -> Position:
    return Position(line=mark.line + 1, column=mark.column + 1)


def _position_of(text: str, offset: int) -> Position:
    before = text[:offset]
    return Position(line=before.count("\n") + 1, column=offset - (before.rfind("\n") + 1) + 1)


def _problem(file: Path, at: Position, message: str) -> Problem:
    return Problem(file=file, line=at.line, column=at.column, path="", message=message)
