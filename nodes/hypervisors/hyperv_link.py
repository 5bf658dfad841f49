# SPDX-License-Identifier: Apache-2.0
"""A session with a Hyper-V host by PowerShell Remoting: pipelines of cmdlets, never script text.

Cmdlets and their parameters travel as structure, so there is nothing to quote and nothing to
inject into. One pipeline runs at a time. A session that the host has ended is opened anew before
the next pipeline, and never in the middle of one: see `hyperv_session`.
"""

import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from pypsrp.serializer import TaggedValue

from ci.model.feature import Feature
from nodes import wsman
from nodes.hypervisors import api_url, hyperv_session
from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.hyperv_errors import (
    NO_PATH,
    UNKNOWN_NAME,
    CmdletFailed,
    translated,
)
from nodes.hypervisors.hyperv_session import Step

OPTIONS = frozenset({"switch", "folder", "auth"})
WAYS = frozenset(wsman.AUTHS)
FOLDER = r"C:\hypervouch"
HTTPS_PORT, HTTP_PORT = 5986, 5985
Record = dict[str, Any]
_PATH = re.compile(r"(?:[A-Za-z]:|\\\\[\w.-]+\\[\w.$-]+)(?:\\[\w][\w .-]*)+")


@dataclass(frozen=True, kw_only=True)
class Address:
    """What a URL says: `hyperv://user@host:5986?switch=NAME&folder=PATH&auth=negotiate`.

    Attributes:
        host: Name or address.
        port: TCP port.
        user: Login; `DOMAIN%5Cname` in the URL.
        is_tls: Whether it is HTTPS; over HTTP each message is sealed by the login.
        options: What stands after the question mark.
    """

    host: str
    port: int
    user: str
    is_tls: bool
    options: dict[str, str]

    @property
    def way(self) -> str:
        """How to log in."""
        return self.options.get("auth", "negotiate")

    @property
    def folder(self) -> str:
        """Where our files lie on the host."""
        return self.options.get("folder", FOLDER).rstrip("\\")


def address(url: str) -> Address:
    r"""Take a URL apart: `hyperv://` is HTTPS, `hyperv+http://` is HTTP with sealed messages.

    Raises:
        CallerFault: It is no URL of a host, or holds a password.
    """
    example = "hyperv://user@host:5986?switch=NAME"
    is_tls = url.partition(":")[0].lower() != "hyperv+http"
    parts, host, port = api_url.split(url, HTTPS_PORT if is_tls else HTTP_PORT, example)
    if parts.scheme not in {"hyperv", "hyperv+http"}:
        raise CallerFault(f"{url!r} is no URL of a Hyper-V host", hint=example)
    if not host or not parts.username or parts.path.strip("/"):
        raise CallerFault(f"{url!r} names no host or no user, or has a path", hint=example)
    options = api_url.options(url, parts, OPTIONS)
    made = Address(
        host=host, port=port, user=unquote(parts.username), is_tls=is_tls, options=options
    )
    _check(made)
    return made


def _check(where: Address) -> None:
    if where.way not in WAYS:
        raise CallerFault(f"auth={where.way} is unknown", hint=f"use {', '.join(sorted(WAYS))}")
    if where.way == "basic" and not where.is_tls:
        raise CallerFault("auth=basic over HTTP would show the password", hint="use hyperv://")
    if not _PATH.fullmatch(where.folder):
        raise CallerFault(
            f"{where.folder!r} is no folder of a Windows host",
            hint=r"an absolute path without wildcards: C:\hypervouch",
        )


def step(name: str, /, **parameters: Any) -> Step:
    """A cmdlet that ends its pipeline when it fails."""
    return Step(name, parameters | {"ErrorAction": "Stop"})


def wide(number: int) -> TaggedValue:
    """A size in 64 bits: pypsrp writes every int in 32, which 2 GiB do not fit."""
    return TaggedValue("I64", number)


class HyperVLink:
    """One session.

    Attributes:
        where: From the URL.
        timeout_s: Seconds that one pipeline may take.
    """

    def __init__(self, where: Address, access: Access) -> None:
        """Log in, once.

        Raises:
            CallerFault: There is no password.
            TransientFault: It does not answer.
            NodeFault: It refuses us, showed another certificate, or is no WinRM.
        """
        if not access.password:
            raise CallerFault(
                f"there is no password for {where.user} on {where.host}",
                hint="name a file or a variable that holds it",
            )
        self.where = where
        self.timeout_s = access.timeout_s
        self._lock = threading.Lock()
        self._session = hyperv_session.Session(where, access)
        with self._lock, translated(f"log in to {where.host} as {where.user}"):
            self._session.open()

    def close(self) -> None:
        """End the session; never raises."""
        with self._lock, suppress(Exception):
            self._session.close()

    def run(self, doing: str, *steps: Step, feature: Feature | None = None) -> list[Any]:
        """Run a pipeline; objects come as dictionaries of their properties.

        Raises:
            HypervouchError: See `nodes.hypervisors.hyperv_errors`.
            Unsupported: It cannot do that, and `feature` was given.
        """
        with self._lock, translated(doing, feature):
            return self._session.run(doing, steps)

    def find(self, doing: str, *steps: Step) -> list[Any]:
        """The same, and nothing where what was named is not there.

        Raises:
            HypervouchError: See `nodes.hypervisors.hyperv_errors`.
        """
        with self._lock, translated(doing):
            try:
                return self._session.run(doing, steps)
            except CmdletFailed as error:
                if error.identity in {UNKNOWN_NAME, NO_PATH}:
                    return []
                raise
