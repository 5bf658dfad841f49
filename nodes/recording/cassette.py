# SPDX-License-Identifier: Apache-2.0
"""Recorder and player: what stands between the clients' HTTP and the network.

VCR.py knows how to stand there: for http.client, and so for xmlrpc and pyvmomi, for urllib3, and so
for requests and sushy, and for httpx. What is kept, what is secret and which answer fits is ours:
its own cassettes compare each request with every other.

One thread at a time: the suite has one.
"""

import base64
import gzip
import logging
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from vcr.cassette import Cassette
from vcr.patch import CassettePatcherBuilder
from vcr.record_mode import RecordMode
from vcr.request import Request
from vcr.stubs import VCRHTTPSConnection

from nodes.recording import tape
from nodes.recording.clock import TapeClock
from nodes.recording.draws import Draws
from nodes.recording.redaction import Redaction
from nodes.recording.tape import NotRecorded

ANSWER_BYTES = 1 << 20
"""What is kept of one answer: of a disk that is downloaded, its first bytes."""

KEPT_HEADERS = frozenset(
    {"content-type", "set-cookie", "location", "x-auth-token", "retry-after", "allow", "etag"}
)
_KEPT_BEGIN = ("x-openstack-", "openstack-", "odata-")
_SHOWN = 300

# It tells whole answers to the log, sessions and all.
logging.getLogger("vcr").setLevel(logging.CRITICAL)


class _Ours(Cassette):  # type: ignore[misc]
    """What VCR.py's stand-ins for connections ask; nothing of its own files."""

    def __init__(self, **named: Any) -> None:
        super().__init__(path="hypervouch", **named)

    def _load(self) -> None:
        """Nothing: a tape is read before."""

    def _save(self) -> None:
        """Nothing: a tape is written afterwards."""

    def filter_request(self, request: Request) -> Request:
        """Every request counts."""
        return request

    @contextmanager
    def inserted(self) -> Iterator[None]:
        """Stand between the clients and the network until the block ends."""
        self.custom_patches = _bound_names()
        with ExitStack() as inside:
            inside.enter_context(Draws().ruling())
            for patch in CassettePatcherBuilder(self).build():
                inside.enter_context(patch)
            yield


class Recorder(_Ours):
    """Lets everything through, and keeps it.

    Args:
        secrets: What must not be kept.
    """

    def __init__(self, secrets: Redaction) -> None:
        super().__init__(record_mode=RecordMode.ALL)
        self._secrets = secrets
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self.exchanges: list[tape.Exchange] = []

    def can_play_response_for(self, request: Request) -> bool:
        """Never."""
        del request
        return False

    def append(self, request: Request, response: dict[str, Any]) -> None:
        """Keep an exchange."""
        headers = {str(name): _text(value) for name, value in request.headers.items()}
        question = tape.asked(request.method, request.uri, headers, _sent(request))
        told = {str(name): list(values) for name, values in response["headers"].items()}
        content = _plain(response["body"]["string"] or b"", told)
        kept, cut = content[:ANSWER_BYTES], max(0, len(content) - ANSWER_BYTES)
        text = _decoded(kept)
        with self._lock:
            self._secrets.learn(headers, question.body, told, text or "")
            self.exchanges.append(
                tape.Exchange(
                    at=round(time.monotonic() - self._began, 3),
                    asked=question,
                    status=response["status"]["code"],
                    reason=response["status"]["message"] or "",
                    headers={name: values for name, values in told.items() if _is_kept(name)},
                    text=text or "",
                    base64="" if text is not None else base64.b64encode(kept).decode(),
                    cut=cut,
                )
            )


class Player(_Ours):
    """Answers from a recording, and lets nothing through.

    Args:
        recorded: The recording.

    Attributes:
        difference: The first request that it did not know.
        played: How many it did.
    """

    def __init__(self, recorded: tape.Tape) -> None:
        super().__init__(record_mode=RecordMode.NONE)
        self.clock = TapeClock()
        self.difference: NotRecorded | None = None
        self.played = 0
        self._left: dict[str, deque[tuple[int, tape.Exchange]]] = {}
        self._count = len(recorded.exchanges)
        for place, one in enumerate(recorded.exchanges):
            self._left.setdefault(one.asked.likeness, deque()).append((place, one))

    @property
    def rest(self) -> list[tape.Asked]:
        """What was recorded and nobody asked, in its order."""
        return [one.asked for _, one in sorted(self._all_left(), key=lambda one: one[0])]

    def can_play_response_for(self, request: Request) -> bool:
        """Always: nothing is ever let through."""
        del request
        return True

    def play_response(self, request: Request) -> dict[str, Any]:
        """The next answer to such a request.

        Raises:
            NotRecorded: There is none, or there was none before.
        """
        if self.difference is not None:
            raise self.difference
        headers = {str(name): _text(value) for name, value in request.headers.items()}
        question = tape.asked(request.method, request.uri, headers, _sent(request))
        answers = self._left.get(question.likeness)
        if not answers:
            self.difference = self._unknown(question, is_known=answers is not None)
            raise self.difference
        _, found = answers.popleft()
        self.played += 1
        self.clock.reached(found.at)
        content = found.content
        told = {name: list(values) for name, values in found.headers.items()}
        told["Content-Length"] = [str(len(content))]
        return {
            "status": {"code": found.status, "message": found.reason},
            "headers": told,
            "body": {"string": content},
        }

    @contextmanager
    def inserted(self) -> Iterator[None]:
        """The same, in the recording's time."""
        with super().inserted(), self.clock.ruling():
            yield

    def _all_left(self) -> Iterator[tuple[int, tape.Exchange]]:
        for answers in self._left.values():
            yield from answers

    def _unknown(self, question: tape.Asked, *, is_known: bool) -> NotRecorded:
        what = "does not know" if not is_known else "has no further answer to"
        text = f"the recording {what} {_short(question.name)}"
        text += f", after {self.played} of {self._count} exchanges"
        like = [one.likeness for one in self.rest if one.name == question.name]
        if like:
            closest = max(like, key=lambda one: _parts_at(one, question.likeness))
            text += f": {_first_difference(closest, question.likeness)}"
        elif rest := self.rest:
            text += f"; the next that was recorded is {_short(rest[0].name)}"
        return NotRecorded(
            text, hint="the adapter asks otherwise than it did; if it is meant to, record anew"
        )


def _bound_names() -> tuple[tuple[ModuleType, str, type], ...]:
    """Modules that took `http.client.HTTPSConnection` by name when they were imported."""
    return tuple(
        (module, "HTTPSConnection", VCRHTTPSConnection)
        for name in ("pyVmomi.SoapAdapter", "nodes.hypervisors.vcenter_versions")
        if (module := sys.modules.get(name)) is not None
    )


def _sent(request: Request) -> bytes:
    body = request.body_bytes
    return body.encode() if isinstance(body, str) else bytes(body or b"")


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _plain(content: bytes, headers: dict[str, list[str]]) -> bytes:
    """A body as it was before it was packed; its headers no longer say that it is."""
    packed = [name for name in headers if name.lower() == "content-encoding"]
    kinds = [value.lower() for name in packed for value in headers.pop(name)]
    if "gzip" in kinds and content.startswith(b"\x1f\x8b"):
        return gzip.decompress(content)
    if "deflate" in kinds:
        return zlib.decompress(content)
    return content


def _decoded(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _is_kept(name: str) -> bool:
    low = name.lower()
    return low in KEPT_HEADERS or low.startswith(_KEPT_BEGIN)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _parts_at(before: str, now: str) -> int:
    """Where two requests part."""
    pairs = zip(before, now, strict=False)
    end = min(len(before), len(now))
    return next((place for place, (one, other) in enumerate(pairs) if one != other), end)


def _first_difference(before: str, now: str) -> str:
    """Where two requests part, with a little of what stands around."""
    at = _parts_at(before, now)
    begin, end = max(0, at - 40), at + 60
    return f"...{before[begin:end]!r} was recorded, ...{now[begin:end]!r} is asked"
