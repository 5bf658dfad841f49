# SPDX-License-Identifier: Apache-2.0
"""What a change depends on: the `Depends-On:` lines of its commit message, followed. Pure.

A line names a change by its address on our review server or by its Change-Id. A merged one
asks for nothing. An open one is stacked below the change with its current patch set, and what
it depends on itself comes first. All else is trouble, told in words: the change is not tested
without what its author says it needs.

Source: https://zuul-ci.org/docs/zuul/latest/gating.html#cross-project-dependencies
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import unquote, urlsplit

from ci.errors import DependencyError
from ci.model.change import CHANGE_ID, valid_project
from ci.model.stack import Dependency

LIMIT = 20
"""Lines of one message, and changes in one stack."""
VALUE_LIMIT = 500
SHOWN = 120
MAX_NUMBER = 2**31 - 1
HINT = "mend or remove the Depends-On line, or wait for that change, and run it again"
_FOOTER = re.compile(r"depends-on:[ \t]*(.*)", re.IGNORECASE)
_ADDRESS = re.compile(r"/(?:c/(?:(?P<project>.+?)/\+/)?)?(?P<number>[0-9]{1,10})(?:/.*)?")
_USUAL_PORTS = frozenset({None, 80, 443})


@dataclass(frozen=True, kw_only=True)
class Root:
    """The change whose dependencies are asked for."""

    project: str
    branch: str
    number: int


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where changes have their pages.

    Attributes:
        own: Base addresses of the change's own review server.
        others: Those of other connections, by their names.
    """

    own: Sequence[str]
    others: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A change as the server shows it.

    Attributes:
        patchset: Its current patch set.
        status: `NEW`, `MERGED` or `ABANDONED`.
        message: The commit message of that patch set; hostile text.
    """

    patchset: Dependency
    status: str
    message: str


class Lookup(Protocol):
    """What is asked of the review server."""

    def by_number(self, number: int, project: str) -> Found | None:
        """A change by its number; `project` may be empty. None where we cannot see it.

        Raises:
            ReviewServerError: The server did not say.
        """
        ...

    def by_change_id(self, change_id: str) -> Sequence[Found]:
        """All changes with a Change-Id that we can see.

        Raises:
            ReviewServerError: The server did not say.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One `Depends-On:` line, read: by number, or by Change-Id where `number` is 0."""

    number: int = 0
    project: str = ""
    change_id: str = ""


def footers(message: str) -> tuple[str, ...]:
    """The values of all `Depends-On:` lines, each once, in their order."""
    found = (_FOOTER.match(line) for line in message.split("\n"))
    return tuple(dict.fromkeys(one[1].strip()[:VALUE_LIMIT] for one in found if one))


def read(value: str, site: Site) -> Reference:
    """What one line names.

    Raises:
        DependencyError: It is no change on this server.
    """
    if CHANGE_ID.fullmatch(value[:1].upper() + value[1:].lower()):
        return Reference(change_id=value[:1].upper() + value[1:].lower())
    found = next((one for base in site.own if (one := _below(value, base)) is not None), None)
    if found is not None:
        return found
    host = _place(value)[0]
    for name, bases in site.others.items():
        if host and any(_place(base)[0] == host for base in bases):
            raise _trouble(
                f"Depends-On {_shown(value)} is on another server (connection {name}), "
                "which cannot be reached from here"
            )
    if host and host not in {_place(base)[0] for base in site.own}:
        raise _trouble(f"Depends-On {_shown(value)} is on a server that this CI does not know")
    raise _trouble(f"Depends-On {_shown(value)} names no change")


def resolve(root: Root, message: str, lookup: Lookup, site: Site) -> tuple[Dependency, ...]:
    """The patch sets to stack below a change, lowest first.

    Args:
        root: The change.
        message: Its commit message; hostile text.
        lookup: Asks the server.
        site: Which addresses are that server's.

    Raises:
        DependencyError: A line cannot be followed, or leads to too many changes or in a circle.
        ReviewServerError: The server did not say.
    """
    walk = _Walk(root, lookup, site)
    walk.visit(message)
    _require_places(walk.stack, root)
    return tuple(walk.stack)


class _Walk:
    """One way through the dependencies, deepest first."""

    def __init__(self, root: Root, lookup: Lookup, site: Site) -> None:
        self._root = root
        self._lookup = lookup
        self._site = site
        self._path = [root.number]
        self._settled: set[int] = set()
        self.stack: list[Dependency] = []

    def visit(self, message: str) -> None:
        """Stack what a message asks for."""
        values = footers(message)
        if len(values) > LIMIT:
            raise _trouble(f"{self._who()} has {len(values)} Depends-On lines, more than {LIMIT}")
        for value in values:
            for found in self._find(value):
                self._take(found)

    def _find(self, value: str) -> Sequence[Found]:
        wanted = read(value, self._site)
        if wanted.number:
            one = self._lookup.by_number(wanted.number, wanted.project)
            found: Sequence[Found] = [one] if one else []
        else:
            found = self._chosen(self._lookup.by_change_id(wanted.change_id))
        if not found:
            raise _trouble(
                f"{self._who()} depends on {_shown(value)}, which is not there or hidden from us"
            )
        return found

    def _chosen(self, found: Sequence[Found]) -> Sequence[Found]:
        """Of the changes that share a Change-Id: those of our branch, and those not given up."""
        others = [one for one in found if one.patchset.number != self._root.number]
        found = others or found
        near = [one for one in found if one.patchset.branch == self._root.branch]
        found = near or found
        alive = [one for one in found if one.status != "ABANDONED"]
        return alive or found

    def _take(self, found: Found) -> None:
        number = found.patchset.number
        if number in self._path:
            circle = [*self._path[self._path.index(number) :], number]
            raise _trouble(
                "the changes depend on each other in a circle: " + ", ".join(map(str, circle))
            )
        if number in self._settled or found.status == "MERGED":
            return
        if found.status != "NEW":
            raise _trouble(f"{self._who()} depends on change {number}, which is {_word(found)}")
        if len(self._settled) >= LIMIT:
            raise _trouble(f"change {self._root.number} depends on more than {LIMIT} changes")
        self._settled.add(number)
        self._path.append(number)
        self.visit(found.message)
        self._path.pop()
        self.stack.append(found.patchset)

    def _who(self) -> str:
        return f"change {self._path[-1]}"


def _require_places(stack: Sequence[Dependency], root: Root) -> None:
    """Each other project is put into a folder of its name: one branch of it, outside of others.

    Raises:
        DependencyError: Two of them would need the same place.
    """
    branches: dict[str, str] = {}
    for one in stack:
        if is_beside(one, root) and branches.setdefault(one.project, one.branch) != one.branch:
            raise _trouble(f"change {root.number} depends on two branches of {one.project}")
    for inner in branches:
        for outer in branches:
            if inner.startswith(f"{outer}/"):
                raise _trouble(
                    f"change {root.number} depends on {outer} and on {inner}: one would lie "
                    "inside the other"
                )


def is_beside(one: Dependency, root: Root) -> bool:
    """Whether a dependency is checked out beside the change, not merged below it."""
    return (one.project, one.branch) != (root.project, root.branch)


def beside(stack: Sequence[Dependency], root: Root) -> Iterator[tuple[str, list[Dependency]]]:
    """The dependencies of other projects, by project in alphabetical order, lowest first."""
    others = [one for one in stack if is_beside(one, root)]
    for project in sorted({one.project for one in others}):
        yield project, [one for one in others if one.project == project]


def below(stack: Sequence[Dependency], root: Root) -> list[Dependency]:
    """The dependencies that the change is merged onto, lowest first."""
    return [one for one in stack if not is_beside(one, root)]


def _below(value: str, base: str) -> Reference | None:
    """The change that an address below a base names; None where it names none."""
    (host, path), (own_host, prefix) = _place(value), _place(base)
    if not host or host != own_host or not path.startswith(prefix):
        return None
    found = _ADDRESS.fullmatch(path.removeprefix(prefix.rstrip("/")))
    if found is None or not 1 <= int(found["number"]) <= MAX_NUMBER:
        return None
    project = unquote(found["project"] or "")
    if project and not valid_project(project):
        return None
    return Reference(number=int(found["number"]), project=project)


def _place(address: str) -> tuple[str, str]:
    """Host with its unusual port, and path, of a web address; empty where it is none."""
    if not address.isprintable():
        return "", ""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return "", ""
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return "", ""
    host = parts.hostname if port in _USUAL_PORTS else f"{parts.hostname}:{port}"
    path = parts.path or "/"
    if parts.fragment.startswith("/"):  # how older servers wrote it
        path = path.rstrip("/") + parts.fragment
    return host, path


def _word(found: Found) -> str:
    return "abandoned" if found.status == "ABANDONED" else f"in state {_shown(found.status)}"


def _shown(value: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in value[:SHOWN]) or "nothing"


def _trouble(message: str) -> DependencyError:
    return DependencyError(message, hint=HINT)
