# SPDX-License-Identifier: Apache-2.0
"""The login to a hypervisor with an API of its own, which rests once it was refused.

Builds come often, each looks at its node several times, and an account that fails five times in a
row is locked by its vCenter. So whoever asks for it here, a refused login is not tried again for
some minutes, and for twice as long each time that it is refused again, up to an hour. Another
password, another certificate to expect or another URL is tried at once. So is what never saw our
password: a host that does not answer, or shows another certificate.
"""

import hashlib
import threading
import time
from dataclasses import dataclass

from nodes.hypervisors import table
from nodes.hypervisors.base import Access, Hypervisor
from nodes.hypervisors.faults import LoginRefused

AGAIN_S = 300.0
"""Seconds for which the first refusal counts."""
LONGEST_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A login that was refused: until when it rests, how long that is, and what was said."""

    until: float
    rest_s: float
    message: str
    hint: str


_refused: dict[str, Refusal] = {}
_lock = threading.Lock()


def log_in(url: str, access: Access) -> Hypervisor:
    """Connect, unless that was refused a while ago.

    Raises:
        LoginRefused: It is refused, or was and rests.
        HypervouchError: See `nodes.hypervisors.table`.
    """
    key = _key(url, access)
    with _lock:
        known = _refused.get(key)
    if known is not None and (left_s := known.until - time.monotonic()) > 0:
        raise LoginRefused(f"{known.message} (tried again in {left_s:.0f} s)", hint=known.hint)
    try:
        made = table.connect(url, access)
    except LoginRefused as fault:
        rest_s = min(2 * known.rest_s, LONGEST_S) if known is not None else AGAIN_S
        until = time.monotonic() + rest_s
        with _lock:
            _refused[key] = Refusal(
                until=until, rest_s=rest_s, message=fault.message, hint=fault.hint
            )
        raise
    with _lock:
        _refused.pop(key, None)
    return made


def _key(url: str, access: Access) -> str:
    """What a login is made of; the password is not kept."""
    text = "\0".join((url, access.password, access.certificate, str(access.ca_file)))
    return hashlib.sha256(text.encode()).hexdigest()
