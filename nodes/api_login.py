# SPDX-License-Identifier: Apache-2.0
"""The login to a hypervisor with an API of its own, which rests once it was refused.

Builds come often, each looks at its node several times, and an account that fails five times in a
row is locked by its vCenter. So whoever asks for it here, a refused login is not tried again for
some minutes, and for twice as long each time that it is refused again, up to an hour. It is the
account that rests: clusters of one vCenter rest together, and of several that log in at once for
the first time one goes ahead. Another password, another certificate to expect, another user or
host is tried at once. So is what never saw our password: a host that does not answer, or shows
another certificate. An account that was mended over there is tried when its rest is over, or by a
process that starts anew: nothing of this is kept.
"""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from nodes.hypervisors import table
from nodes.hypervisors.base import Access, Hypervisor
from nodes.hypervisors.faults import LoginRefused

AGAIN_S = 300.0
"""Seconds for which the first refusal counts."""
LONGEST_S = 3600.0
_FIRST_S = 60.0  # a host that does not answer is asked by all, then


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A login that was refused: until when it rests, how long that is, and what was said."""

    until: float
    rest_s: float
    message: str
    hint: str


_refused: dict[str, Refusal] = {}
_taken: set[str] = set()  # logins that were taken the last time
_ahead: dict[str, threading.Event] = {}  # of others, the one that is tried first
_lock = threading.Lock()


def log_in(url: str, access: Access) -> Hypervisor:
    """Connect, unless that was refused a while ago.

    Raises:
        LoginRefused: It is refused, or was and rests.
        HypervouchError: See `nodes.hypervisors.table`.
    """
    key = _key(url, access)
    with _turn(key):
        return _tried(key, url, access)


def _tried(key: str, url: str, access: Access) -> Hypervisor:
    with _lock:
        known = _refused.get(key)
    if known is not None and (left_s := known.until - time.monotonic()) > 0:
        when = f"tried again in {left_s:.0f} s, or after a restart"
        raise LoginRefused(f"{known.message} ({when})", hint=known.hint)
    try:
        made = table.connect(url, access)
    except LoginRefused as fault:
        rest_s = min(2 * known.rest_s, LONGEST_S) if known is not None else AGAIN_S
        until = time.monotonic() + rest_s
        with _lock:
            _taken.discard(key)
            _refused[key] = Refusal(
                until=until, rest_s=rest_s, message=fault.message, hint=fault.hint
            )
        raise
    with _lock:
        _refused.pop(key, None)
        _taken.add(key)
    return made


@contextmanager
def _turn(key: str) -> Iterator[None]:
    """Wait for whoever tries a login that nobody knows to be taken; if nobody does, go ahead."""
    mine = threading.Event()
    with _lock:
        first = mine if key in _taken else _ahead.setdefault(key, mine)
    if first is not mine:
        first.wait(_FIRST_S)
    try:
        yield
    finally:
        with _lock:
            if _ahead.get(key) is mine:
                del _ahead[key]
        mine.set()


def _key(url: str, access: Access) -> str:
    """What a login is made of, whatever the URL picks there; the password is not kept."""
    try:
        parts = urlsplit(url)
    except ValueError:  # whoever connects says so
        account: tuple[str, ...] = (url,)
    else:
        user, _, place = parts.netloc.rpartition("@")
        way = dict(parse_qsl(parts.query)).get("auth", "")
        account = (parts.scheme, user, place.lower(), way)
    text = "\0".join((*account, access.password, access.certificate, str(access.ca_file)))
    return hashlib.sha256(text.encode()).hexdigest()
