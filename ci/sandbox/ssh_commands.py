# SPDX-License-Identifier: Apache-2.0
"""The commands of the SSH side: Gerrit's `stream-events`, `query`, `review`, and git's two."""

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ci import proc
from ci.errors import HypervouchError
from ci.sandbox.bridge import Bridge
from ci.sandbox.calls import COMPATIBLE_WITH, QUERY_LIMIT
from ci.sandbox.changes import Changes
from ci.sandbox.events import Stream
from ci.sandbox.queries import BadQuery
from ci.sandbox.records import ChangeRecord, PatchSetRecord
from ci.sandbox.search import Search
from ci.sandbox.shapes import Json, Shapes
from ci.sandbox.ssh import Session
from ci.sandbox.ssh_review import review

GIT_TIMEOUT_S = 600.0
_FLAGS = frozenset(
    {
        "--all-approvals",
        "--all-reviewers",
        "--comments",
        "--commit-message",
        "--current-patch-set",
        "--files",
        "--patch-sets",
    }
)


class BadCommand(HypervouchError):
    """The command line is not understood."""


def split(line: str) -> list[str]:
    """Divide a command line as Gerrit does; unlike a shell it forgives an open quote."""
    words: list[str] = []
    word: list[str] | None = None
    quote = ""
    letters = iter(line)
    for letter in letters:
        if letter == "\\" and quote != "'":
            word = [*(word or []), next(letters, "")]
        elif quote:
            quote = "" if letter == quote else quote
            word = (word or []) if not quote else [*(word or []), letter]
        elif letter in "'\"":
            quote, word = letter, word or []
        elif letter.isspace():
            words += ["".join(word)] if word is not None else []
            word = None
        else:
            word = [*(word or []), letter]
    return words + (["".join(word)] if word is not None else [])


@dataclass(frozen=True, kw_only=True)
class QueryLine:
    """A `gerrit query` command line, read."""

    flags: frozenset[str]
    query: str
    start: int = field(default=0)


def read_query_line(words: Sequence[str]) -> QueryLine:
    """Read the words after `gerrit query`.

    Raises:
        BadCommand: An option that does not exist, or a text format.
    """
    flags: set[str] = set()
    terms: list[str] = []
    style, start = "", 0
    left = iter(words)
    for word in left:
        name, equals, value = word.partition("=")
        if word in _FLAGS:
            flags.add(word)
        elif name == "--format":
            style = value if equals else next(left, "")
        elif name in {"--start", "-S"}:
            number = value if equals else next(left, "")
            start = int(number) if number.isdecimal() else 0
        elif word.startswith("-") and word != "--":
            raise BadCommand(f'"{name}" is not a valid option')
        elif word != "--":
            terms.append(word)
    if style.upper() != "JSON":
        raise BadCommand("the sandbox answers queries in JSON only: add --format=JSON")
    return QueryLine(flags=frozenset(flags), query=" ".join(terms), start=start)


class SshCommands:
    """Runs the commands of authenticated clients; thread-safe.

    Args:
        changes: The rules and the state.
        search: Answers queries.
        shapes: Makes JSON values.
        stream: The event stream.
        bridge: Lets git's hook find us.
    """

    def __init__(
        self,
        changes: Changes,
        search: Search,
        *,
        shapes: Shapes,
        stream: Stream,
        bridge: Bridge,
    ) -> None:
        self._changes = changes
        self._store = changes.store
        self._repositories = changes.repositories
        self._search = search
        self._shapes = shapes
        self._stream = stream
        self._bridge = bridge

    def __call__(self, session: Session) -> int:
        """Run one command; returns its exit status.

        Raises:
            BadCommand: No such command or option.
            NoSuchProject: Git asked for a project that is not there.
        """
        words = split(session.command)
        verbs: dict[str, Callable[[Session, list[str]], int]] = {
            "gerrit version": self._version,
            "gerrit stream-events": self._stream_events,
            "gerrit query": self._query,
            "gerrit ls-projects": self._projects,
            "gerrit review": self._review,
        }
        verb = " ".join(words[:2])
        if verb in verbs:
            return verbs[verb](session, words[2:])
        if words[:1] in (["git-upload-pack"], ["git-receive-pack"]):
            return self._git(session, words[0], words[-1])
        raise BadCommand(f"{words[0] if words else 'the empty command'}: not found")

    def _version(self, session: Session, _words: list[str]) -> int:
        session.write(f"gerrit version {COMPATIBLE_WITH}\n".encode())
        return 0

    def _review(self, session: Session, words: list[str]) -> int:
        return review(self._changes, session, words)

    def _projects(self, session: Session, _words: list[str]) -> int:
        session.write("".join(f"{name}\n" for name in self._store.projects()).encode())
        return 0

    def _stream_events(self, session: Session, words: list[str]) -> int:
        types = _subscribed(words)
        account = self._store.account(session.username)
        if account is None or not (account.stream_events or account.admin):
            session.complain("stream events not permitted")
            return 1
        follower = self._stream.follow(types, session.username)
        try:
            while not session.gone:
                line = follower.take(0.5)
                if line and not session.write(line):
                    break
        finally:
            self._stream.leave(follower)
        return 0

    def _query(self, session: Session, words: list[str]) -> int:
        asked = read_query_line(words)
        began = time.monotonic()
        try:
            query = self._search.find(asked.query, session.username)
        except BadQuery as error:
            return self._say(session, [{"type": "error", "message": error.message}])
        found = query.changes[asked.start :]
        limit = min(query.limit or QUERY_LIMIT, QUERY_LIMIT)
        rows = [self._row(change, asked.flags) for change in found[:limit]]
        stats = {
            "type": "stats",
            "rowCount": len(rows),
            "runTimeMilliseconds": int((time.monotonic() - began) * 1000),
            "moreChanges": len(found) > limit,
        }
        return self._say(session, [*rows, stats])

    def _say(self, session: Session, rows: Sequence[Json]) -> int:
        text = "".join(
            json.dumps(row, separators=(",", ":"), ensure_ascii=False) + "\n" for row in rows
        )
        session.write(text.encode())
        return 0

    def _row(self, change: ChangeRecord, flags: frozenset[str]) -> Json:
        row = self._shapes.row(
            change, comments="--comments" in flags, message="--commit-message" in flags
        )
        every = "--all-approvals" in flags
        if every or "--patch-sets" in flags:
            row["patchSets"] = [
                self._patchset(change, one, flags, votes=every) for one in change.patchsets
            ]
        if "--current-patch-set" in flags:
            row["currentPatchSet"] = self._patchset(change, change.current, flags, votes=True)
        if "--all-reviewers" in flags:
            row["allReviewers"] = [self._shapes.account(one) for one in change.all_reviewers()]
        return row

    def _patchset(
        self, change: ChangeRecord, patchset: PatchSetRecord, flags: frozenset[str], *, votes: bool
    ) -> Json:
        files = None
        if "--files" in flags:
            files = self._repositories.files(change.project, patchset.revision)
        return self._shapes.row_patchset(
            change, patchset, files, votes=votes, comments="--comments" in flags
        )

    def _git(self, session: Session, program: str, project: str) -> int:
        path = self._repositories.path(project)
        environment = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
        if session.git_protocol:
            environment["GIT_PROTOCOL"] = session.git_protocol
        environment |= self._bridge.environment(project, session.username)
        return pipe_through(session, ["git", program.removeprefix("git-"), str(path)], environment)


def _subscribed(words: list[str]) -> list[str]:
    types: list[str] = []
    left = iter(words)
    for word in left:
        name, equals, value = word.partition("=")
        if name not in {"-s", "--subscribe"}:
            raise BadCommand(f'"{word}" is not a valid option')
        types.append(value if equals else next(left, ""))
    return types


def pipe_through(session: Session, argv: Sequence[str], environment: dict[str, str]) -> int:
    """Join a client to a program's standard streams until the program ends."""
    feed_end, program_in = os.pipe()[::-1]
    program_out, drain_end = os.pipe()[::-1]
    feeder = threading.Thread(target=_feed, args=(session, feed_end), daemon=True)
    drainer = threading.Thread(target=_drain, args=(session, drain_end), daemon=True)
    feeder.start()
    drainer.start()
    with os.fdopen(program_in, "rb") as source, os.fdopen(program_out, "wb") as target:
        done = proc.run(
            argv,
            stdin=source,
            stdout=target,
            env=environment,
            timeout_s=GIT_TIMEOUT_S,
            check=False,
        )
    drainer.join()
    if done.stderr:
        session.complain(done.stderr.decode("utf-8", "replace").rstrip("\n"))
    return done.status


def _feed(session: Session, target: int) -> None:
    with os.fdopen(target, "wb", buffering=0) as sink:
        while data := session.read():
            try:
                sink.write(data)
            except OSError:
                return


def _drain(session: Session, source: int) -> None:
    with os.fdopen(source, "rb", buffering=0) as origin:
        while data := origin.read(1 << 16):
            session.write(data)
