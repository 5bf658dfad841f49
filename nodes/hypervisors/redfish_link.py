# SPDX-License-Identifier: Apache-2.0
"""One machine's management controller by Redfish, through sushy; its errors by one table.

Requests go to the URL's host only and over TLS only. A reset whose answer was lost is not repeated,
which sushy would do; a read that a broken server refuses is made twice. Sessions of Redfish are not
used: each request carries the password, so that none ends.

Source: DMTF DSP0266 (Redfish), and sushy 5.14.
"""

import http
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import requests
import sushy
from sushy import auth, connector, exceptions

from ci.errors import HypervouchError
from ci.model.feature import Feature
from nodes.hypervisors import api_url, certificates, requests_tls
from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import (
    CallerFault,
    CertificateRefused,
    LoginRefused,
    NodeFault,
    TransientFault,
    Unsupported,
)

OPTIONS = frozenset({"images", "boot"})
BOOTS = frozenset({"cd", "pxe", "hdd"})
_PORT = 443
_SYSTEMS = "/redfish/v1/Systems/"
_CALL_S = 60.0
_FIRST_LOOK_S, _LAST_LOOK_S = 0.1, 1.0
_WORDS = 600
_IS_IT = "is it a Redfish of version 1.0 or newer?"


@dataclass(frozen=True)
class Meaning:
    """Whose fault an answer is, and what helps."""

    fault: type[TransientFault | NodeFault | CallerFault | Unsupported]
    hint: str = ""


BY_STATUS: Mapping[int, Meaning] = {
    400: Meaning(CallerFault, "look at the URL's options and at the image"),
    401: Meaning(LoginRefused, "look at user and password: it was tried once"),
    403: Meaning(LoginRefused, "look at the user's role"),
    404: Meaning(CallerFault, "look at the URL's path: /redfish/v1/Systems lists them"),
    405: Meaning(Unsupported),
    409: Meaning(TransientFault, "it is busy: try again in a moment"),
    501: Meaning(Unsupported),
}
"""Of the other statuses, 5xx is nobody's fault and the rest the node's."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """What a URL says: `redfish://user@host/redfish/v1/Systems/ID?images=...&boot=...`.

    Attributes:
        host: Name or address of the management controller.
        port: TCP port.
        user: Login.
        path: Of the machine.
        images: URL of a folder with the images, where the controller fetches them.
        boot: What the machine is started from: `cd` (virtual media), `pxe` or `hdd`.
    """

    host: str
    port: int
    user: str
    path: str
    images: str
    boot: str


def address(url: str) -> Address:
    """Take a URL apart.

    Raises:
        CallerFault: It is no URL of a machine, or holds a password.
    """
    example = "redfish://user@host/redfish/v1/Systems/1?boot=pxe"
    parts, host, port = api_url.split(url, _PORT, example)
    path = parts.path.rstrip("/")
    names = path.removeprefix(_SYSTEMS)
    if not host or not parts.username or names == path or not names or "/" in names:
        raise CallerFault(f"{url!r} names no host, no user or no machine", hint=example)
    options = api_url.options(url, parts, OPTIONS)
    images = options.get("images", "").rstrip("/")
    boot = options.get("boot", "cd" if images else "hdd")
    if boot not in BOOTS or (boot == "cd") != bool(images):
        raise CallerFault(f"{url!r}: boot is pxe, hdd, or cd together with images", hint=example)
    user = unquote(parts.username)
    return Address(host=host, port=port, user=user, path=path, images=images, boot=boot)


class RedfishLink:
    """One machine of one controller; calls come one at a time."""

    def __init__(self, where: Address, access: Access) -> None:
        """Connect, and log in once.

        Raises:
            CallerFault: There is no password, or no such machine.
            TransientFault: It does not answer.
            NodeFault: It refuses us, showed another certificate, or is no Redfish.
        """
        if not access.password:
            raise CallerFault(
                f"there is no password for {where.user} on {where.host}",
                hint="name a file or a variable that holds it",
            )
        self.where = where
        self.timeout_s = access.timeout_s
        self._lock = threading.RLock()
        host = f"[{where.host}]" if ":" in where.host else where.host
        place = f"https://{host}:{where.port}"
        self._connector = connector.Connector(
            place,
            server_side_retries=1,
            server_side_retries_delay=0.1,
            default_request_timeout=min(_CALL_S, access.timeout_s),
        )
        session = self._connector._session  # noqa: SLF001 - it takes none from outside
        requests_tls.secure(session, place, certificates.context(access))
        try:
            with self._lock, translated(f"log in to {where.host} as {where.user}"):
                self.root = sushy.Sushy(
                    place,
                    auth=auth.BasicAuth(where.user, access.password),
                    connector=self._connector,
                )
                self.machine: Any = self.root.get_system(where.path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections; never raises."""
        with suppress(Exception):
            self._connector.close()

    def told(self) -> dict[str, Any]:
        """What the machine says of itself now."""
        with self.asking("read the machine's state"):
            self.machine.refresh(force=True)
            return dict(self.machine.json)

    @contextmanager
    def asking(self, doing: str, feature: Feature | None = None) -> Iterator[None]:
        """Whatever is done with sushy's objects: one at a time, errors in our words.

        Raises:
            HypervouchError: See BY_STATUS.
            Unsupported: It cannot do that, and `feature` was given.
        """
        with self._lock, translated(doing, feature):
            yield

    def reset(self, doing: str, kind: sushy.ResetType, feature: Feature) -> None:
        """Press a button.

        Raises:
            HypervouchError: It was not taken, see BY_STATUS.
            Unsupported: This machine has no such button.
        """
        with self.asking(doing, feature):
            if kind not in self.machine.get_allowed_reset_system_values():
                raise Unsupported(feature, f"its controller offers no {kind.value}")
            self.machine.reset_system(kind)

    def await_power(self, doing: str, wanted: str) -> None:
        """Wait until the machine is `On` or `Off`.

        Raises:
            TransientFault: It is not so in time.
        """
        deadline, pause = time.monotonic() + self.timeout_s, _FIRST_LOOK_S
        while (state := self.told().get("PowerState")) != wanted:
            if time.monotonic() >= deadline:
                raise TransientFault(
                    f"cannot {doing}: after {self.timeout_s:g} s it is still {short(state)}",
                    hint="look at the machine, and at what its controller logs",
                    retryable=True,
                )
            time.sleep(pause)
            pause = min(pause * 2, _LAST_LOOK_S)


@contextmanager
def translated(doing: str, feature: Feature | None = None) -> Iterator[None]:
    """Let whatever sushy raises come out as one of ours.

    Raises:
        HypervouchError: See BY_STATUS.
        Unsupported: It cannot do that, and `feature` was given.
    """
    try:
        yield
    except requests.JSONDecodeError as error:
        raise _nonsense(error, doing) from error
    except (exceptions.SushyError, requests.RequestException, OSError) as error:
        raise fault(error, doing, feature) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _nonsense(error, doing) from error


def _nonsense(error: Exception, doing: str) -> NodeFault:
    """What sushy stumbles over: an answer that has another shape than Redfish's."""
    words = short(error) or type(error).__name__
    return NodeFault(f"cannot {doing}: its answer makes no sense: {words}", hint=_IS_IT)


def fault(
    error: Exception, doing: str, feature: Feature | None = None
) -> HypervouchError | Unsupported:
    """Our error for one of sushy's, or of the way there."""
    words = short(error) or type(error).__name__
    if isinstance(error, exceptions.HTTPError):
        words = short(f"HTTP {error.status_code}: {error.detail or 'it says no more'}")
    text = f"cannot {doing}: {words}"
    if isinstance(error, exceptions.HTTPError):
        meaning = _meaning(int(error.status_code or 0))
    elif isinstance(error, exceptions.MissingActionError):
        meaning = Meaning(Unsupported)
    elif isinstance(error, (exceptions.ConnectionError, requests.RequestException, OSError)):
        return _on_the_way(error, doing, words)
    else:
        meaning = Meaning(NodeFault, _IS_IT)
    if issubclass(meaning.fault, Unsupported):
        if feature is not None:
            return Unsupported(feature, f"its controller says: {words}")
        return CallerFault(text)
    if meaning.fault is TransientFault:
        return TransientFault(text, hint=meaning.hint, retryable=True)
    return meaning.fault(text, hint=meaning.hint)


def _meaning(status: int) -> Meaning:
    if status in BY_STATUS:
        return BY_STATUS[status]
    if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        return Meaning(TransientFault, "look into the controller's log")
    return Meaning(NodeFault, "look into the controller's log")


def _on_the_way(error: Exception, doing: str, words: str) -> HypervouchError:
    """TLS, TCP and HTTP."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CertificateRefused(
                f"cannot {doing}: its certificate is not the one that was expected: {words}",
                hint="set a ca-file, or pin it: certificate = its SHA-256",
            )
        if isinstance(cause, requests.exceptions.InvalidSchema):
            return NodeFault(
                f"cannot {doing}: it leads to another host: {words}",
                hint="the password is for the URL's host alone",
            )
        cause = cause.__cause__ or cause.__context__
    return TransientFault(f"cannot {doing}: {words}", hint="look whether it runs", retryable=True)


def short(told: object) -> str:
    """Foreign words on one line, without what a terminal would obey."""
    words = "".join(char if char.isprintable() else " " for char in str(told))
    return " ".join(words.split())[:_WORDS]
