# SPDX-License-Identifier: Apache-2.0
"""The part of a preflight that logs in to a hypervisor with an API of its own, from here.

It answers, takes our login, shows the certificate that was expected, and tells its versions.

A login that was refused is not tried again for some minutes, whoever asks for the node: builds
come often, and an account that fails five times in a row is locked by its vCenter. Another
password or another URL is tried at once.
"""

import hashlib
import tempfile
import threading
import time
from pathlib import Path

from ci.errors import ConfigError, NodeUnavailable
from ci.model.node import Endpoint
from nodes import reach
from nodes.hypervisors import table
from nodes.hypervisors.base import Access, Hypervisor
from nodes.hypervisors.faults import NodeFault

AGAIN_S = 300.0
"""Seconds for which a refusal counts."""

_refused: dict[str, tuple[float, str, str]] = {}  # when, what it said, and the hint
_lock = threading.Lock()


def probe(endpoint: Endpoint) -> dict[str, str]:
    """Log in to a node's hypervisor, and out again.

    Returns:
        Versions by name, as its adapter gives them; empty where it has no API of its own, or
        nobody gave us its password.

    Raises:
        NodeUnavailable: It does not answer, refuses us, or nobody here could ask it.
    """
    if not reach.has_api(endpoint):
        return {}
    with tempfile.TemporaryDirectory(prefix="hypervouch-probe-") as folder:
        access = reach.access_of(endpoint, Path(folder))
        try:
            hypervisor = _login(endpoint.hypervisor, access)
            try:
                return dict(hypervisor.system().versions)
            finally:
                hypervisor.close()
        except ConfigError as error:
            raise NodeUnavailable(
                f"nobody can ask {reach.place_of(endpoint)}: {error.message}",
                hint=error.hint or "correct `hypervisor`, or leave `hypervisor-password` out",
            ) from error


def _login(url: str, access: Access) -> Hypervisor:
    """Connect, unless that was refused a moment ago."""
    text = "\0".join((url, access.password, access.certificate, str(access.ca_file)))
    key = hashlib.sha256(text.encode()).hexdigest()
    now = time.monotonic()
    with _lock:
        at, message, hint = _refused.get(key, (now - AGAIN_S, "", ""))
    if (left_s := at + AGAIN_S - now) > 0:
        raise NodeFault(f"{message} (tried again in {left_s:.0f} s)", hint=hint)
    try:
        made = table.connect(url, access)
    except NodeFault as fault:
        with _lock:
            _refused[key] = (now, fault.message, fault.hint)
        raise
    with _lock:
        _refused.pop(key, None)
    return made
