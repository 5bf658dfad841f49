# SPDX-License-Identifier: Apache-2.0
"""Makes changes for the runs, and reads back what became of them."""

import http.client
import itertools
import json
import re
import secrets
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ci.sandbox.account import ReviewServer
from ci.sandbox.author import Pusher
from ci.sandbox.client import MAGIC

CONNECTIONS = 4
TIMEOUT_S = 60
CHAIN, CHAIN_S = 50, 300.0
_CHAIN = "refs/heads/chain"
_NEW = re.compile(r"/\+/(\d+) ")
_VOTE = re.compile(r"\bVerified([+-]\d)\b")


class GerritAway(Exception):
    """Gerrit did not answer, or not as it should."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What became of some changes, read from Gerrit itself.

    Attributes:
        changes: How many there were.
        voted: Those with a vote of the account.
        lost: Those without.
        doubled: Those on which the account spoke more than once.
        negative: Those with a negative vote; every bench patch is good, so each is wrong.
    """

    changes: int
    voted: int
    lost: int
    doubled: int
    negative: int

    @property
    def clean(self) -> bool:
        """Whether each change has exactly one vote, the right one."""
        return not (self.lost or self.doubled or self.negative)


class Changes:
    """An author who works as people do (git push) or as bursts need (REST). Thread-safe.

    Args:
        server: Gerrit, seen by the administrator.
        directory: For clones; made.
    """

    def __init__(self, server: ReviewServer, directory: Path) -> None:
        self._server = server
        self._directory = directory
        self._address = urlsplit(server.url)
        login = b64encode(":".join(server.auth).encode()).decode()
        self._headers = {
            "Authorization": f"Basic {login}",
            "Content-Type": "application/json; charset=UTF-8",
        }
        self._own = threading.local()
        self._serial = itertools.count(1)
        self._tag = f"{time.time():.0f}"
        self._pushers: dict[str, Pusher] = {}

    def push(self, project: str) -> int:
        """Push one change over SSH; its number. One thread at a time."""
        name = self._name()
        pushed = self._pusher(project).push_change(f"Bench {name}", {f"{name}.txt": f"{name}\n"})
        return pushed.number

    def push_chains(self, project: str, count: int) -> list[int]:
        """Push so many changes, each upon the one before, some with each push; their numbers.

        Quicker than as many requests, and longer chains take Gerrit longer than it allows
        itself. One thread at a time.
        """
        pushes = (min(CHAIN, count - first) for first in range(0, count, CHAIN))
        return [number for many in pushes for number in self._push_chain(project, many)]

    def _push_chain(self, project: str, count: int) -> list[int]:
        pusher = self._pusher(project)
        commits = "".join(self._commit(place) for place in range(count))
        subprocess.run(
            ["git", "fast-import", "--quiet", "--force"],
            cwd=pusher.workdir,
            input=commits.encode(),
            check=True,
        )
        said = pusher.git("push", "origin", f"{_CHAIN}:refs/for/master", timeout_s=CHAIN_S)
        return sorted({int(number) for number in _NEW.findall(said)})

    def _commit(self, place: int) -> str:
        """One commit as `git fast-import` reads it; the first stands on the branch's tip."""
        name = self._name()
        message = f"Bench {name}\n\nChange-Id: I{secrets.token_hex(20)}\n"
        who = f"{self._server.user} <{self._server.email}> {time.time():.0f} +0000"
        upon = "" if place else "from refs/remotes/origin/master^0\n"
        return (
            f"commit {_CHAIN}\nauthor {who}\ncommitter {who}\ndata {len(message)}\n{message}"
            f"{upon}M 644 inline chain/{name}.txt\ndata {len(name)}\n{name}\n"
        )

    def _pusher(self, project: str) -> Pusher:
        if project not in self._pushers:
            self._pushers[project] = Pusher(self._server, project, self._directory / project)
        return self._pushers[project]

    def post(self, project: str) -> int:
        """Make one change over REST; its number.

        Raises:
            GerritAway: Gerrit did not take it.
        """
        name = self._name()
        patch = (
            f"diff --git a/bench/{name}.txt b/bench/{name}.txt\nnew file mode 100644\n"
            f"--- /dev/null\n+++ b/bench/{name}.txt\n@@ -0,0 +1 @@\n+{name}\n"
        )
        body = {
            "project": project,
            "branch": "master",
            "subject": f"Bench {name}",
            "patch": {"patch": patch},
        }
        return int(self._rest("POST", "/changes/", body)["_number"])

    def burst(self, project: str, count: int, connections: int = CONNECTIONS) -> list[int]:
        """Make changes as fast as Gerrit takes them; their numbers."""
        with ThreadPoolExecutor(connections) as threads:
            return list(threads.map(lambda _: self.post(project), range(count)))

    def search(self, query: str, *, options: Sequence[str], page: int) -> int:
        """Read all changes that a query finds, page by page; how many.

        Raises:
            GerritAway: It did not answer.
        """
        wanted = "&".join(f"o={option}" for option in options)
        for start in itertools.count(0, page):
            path = f"/changes/?q={quote(query)}&n={page}&S={start}&{wanted}"
            found = self._rest("GET", path)
            if not found or not found[-1].get("_more_changes"):
                return start + len(found)
        raise AssertionError("counting has no end")

    def alive(self) -> bool:
        """Whether Gerrit answers."""
        try:
            self._rest("GET", "/config/server/version")
        except GerritAway:
            return False
        return True

    def tally(self, account: str, project: str, numbers: Sequence[int]) -> Tally:
        """Ask Gerrit what the account said on these changes.

        Raises:
            GerritAway: It did not answer.
        """
        said = [self._said(account, project, number) for number in numbers]
        votes = [_VOTE.findall("\n".join(texts)) for texts in said]
        return Tally(
            changes=len(numbers),
            voted=sum(1 for given in votes if given),
            lost=sum(1 for given in votes if not given),
            doubled=sum(1 for texts in said if len(texts) > 1),
            negative=sum(1 for given in votes if any(vote.startswith("-") for vote in given)),
        )

    def _said(self, account: str, project: str, number: int) -> list[str]:
        change = self._rest("GET", f"/changes/{quote(project, safe='')}~{number}/detail")
        return [
            one["message"]
            for one in change["messages"]
            if one.get("author", {}).get("username") == account
        ]

    def _name(self) -> str:
        return f"{self._tag}-{next(self._serial)}"

    def _rest(self, method: str, path: str, body: object = None) -> Any:
        """One request on this thread's kept connection; a stale one is opened anew once."""
        sent = None if body is None else json.dumps(body).encode()
        for last in (False, True):
            try:
                status, text = self._exchange(method, f"/a{path}", sent)
                break
            except (OSError, http.client.HTTPException) as error:
                self._own.connection = None
                if last:
                    raise GerritAway(f"{method} {path}: {error!r}") from error
        if status >= HTTPStatus.MULTIPLE_CHOICES:
            raise GerritAway(f"{method} {path}: {status} {text[:200]}")
        return json.loads(text.removeprefix(MAGIC))

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, str]:
        connection = getattr(self._own, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(
                self._address.hostname or "", self._address.port, timeout=TIMEOUT_S
            )
            self._own.connection = connection
        connection.request(method, path, body, self._headers)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
