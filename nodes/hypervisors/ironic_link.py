# SPDX-License-Identifier: Apache-2.0
"""Ironic's REST API: calls, pages, waiting for power and provision states, errors by one table.

It is spoken to as a standalone Ironic is: over TLS, with a user and a password (`http_basic`).
A call that meets a locked node is made again until the time of one call is over.

Source: Ironic's API reference and its state machine, release 39.0.
"""

import http
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import httpx

from ci.errors import HypervouchError
from ci.model.feature import Feature
from nodes.hypervisors import api_url, certificates
from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import (
    CallerFault,
    CertificateRefused,
    LoginRefused,
    NodeFault,
    TransientFault,
    Unsupported,
)

OPTIONS = frozenset({"node", "class", "images", "deploy-s"})
MICROVERSION = "1.61"
PAGE = 500
PAGES = 200
_PORT = 6385
_DEPLOY_S = 1800.0
_CALL_S = 60.0
_FIRST_LOOK_S, _LAST_LOOK_S = 0.1, 2.0
_WORDS = 600
# What httpx tells of a line that was closed too early; it has one error for that and for rubbish.
_HUNG_UP = ("disconnected", "closed connection")
_AGAIN = "try again in a moment"
FAILED = frozenset(
    f"{what} failed"
    for what in ("deploy", "clean", "rescue", "unrescue", "inspect", "adopt", "service")
) | {"error"}
"""Provision states that a node does not leave by itself."""
_STABLE = FAILED | {"enroll", "manageable", "available", "active", "rescue"}
Node = dict[str, Any]


class Taken(TransientFault):
    """Ironic refused for now: the node is locked, or somebody else's instance is on it."""


@dataclass(frozen=True)
class Meaning:
    """Whose fault an answer is, and what helps."""

    fault: type[TransientFault | NodeFault | CallerFault]
    hint: str = ""


BY_STATUS: Mapping[int, Meaning] = {
    400: Meaning(CallerFault, "look at the URL's options and at the image"),
    401: Meaning(LoginRefused, "look at user and password: it was tried once"),
    403: Meaning(LoginRefused, "look at the user's role"),
    404: Meaning(CallerFault, "look at the inventory"),
    406: Meaning(NodeFault, f"it takes an Ironic that knows API {MICROVERSION}: 15.0 or newer"),
    409: Meaning(Taken, "the node is locked: try again in a moment"),
}
"""Of the other statuses, 5xx is nobody's fault and the rest the node's."""

_STATE_WORDS = ("requested action", "invalid state", "provision state")
_CANNOT_WORDS = ("does not support", "unsupported", "not supported")


@dataclass(frozen=True, kw_only=True)
class Address:
    """What a URL says: `ironic://user@host:6385?node=...&class=...&images=...&deploy-s=...`.

    Attributes:
        host: Name or address of the API.
        port: TCP port.
        user: Login.
        node: Pattern of the names of nodes that are given to us: `ci-*`.
        resource_class: Their resource class; any when empty.
        images: URL of a folder with the images, where the conductor fetches them.
        deploy_s: Seconds that a change of the provision state may take.
    """

    host: str
    port: int
    user: str
    node: str
    resource_class: str
    images: str
    deploy_s: float


def address(url: str) -> Address:
    """Take a URL apart.

    Raises:
        CallerFault: It is no URL of an Ironic, names no nodes, or holds a password.
    """
    example = "ironic://user@host?node=ci-*"
    parts, host, port = api_url.split(url, _PORT, example)
    if not host or not parts.username or parts.path.strip("/"):
        raise CallerFault(f"{url!r} names no host or no user, or has a path", hint=example)
    options = api_url.options(url, parts, OPTIONS)
    try:
        deploy_s = float(options.get("deploy-s", _DEPLOY_S))
    except ValueError as error:
        raise CallerFault(f"{url!r} is no URL: {error}", hint=example) from error
    if not options.get("node") and not options.get("class"):
        raise CallerFault(f"{url!r} does not say which machines are for us", hint=example)
    if not 0 < deploy_s < float("inf"):
        raise CallerFault(f"{url!r}: deploy-s is a number of seconds", hint="for instance 1800")
    return Address(
        host=host,
        port=port,
        user=unquote(parts.username),
        node=options.get("node", "") or "*",
        resource_class=options.get("class", ""),
        images=options.get("images", "").rstrip("/"),
        deploy_s=deploy_s,
    )


class IronicLink:
    """One API, one user. Safe to use from several threads."""

    def __init__(
        self, where: Address, access: Access, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Connect, and log in once.

        Args:
            where: From the URL.
            access: What the URL must not hold.
            transport: Instead of TLS, for tests.

        Raises:
            CallerFault: There is no password.
            TransientFault: It does not answer.
            NodeFault: It refuses us, showed another certificate, or is no Ironic.
        """
        if not access.password:
            raise CallerFault(
                f"there is no password for {where.user} on {where.host}",
                hint="name a file or a variable that holds it",
            )
        self.where = where
        self.timeout_s = access.timeout_s
        host = f"[{where.host}]" if ":" in where.host else where.host
        self._client = httpx.Client(
            base_url=f"https://{host}:{where.port}",
            auth=httpx.BasicAuth(where.user.encode(), access.password.encode()),
            verify=certificates.context(access),
            timeout=min(_CALL_S, access.timeout_s),
            headers={"X-OpenStack-Ironic-API-Version": MICROVERSION},
            trust_env=False,
            transport=transport,
        )
        try:
            # The root tells its versions to anybody: the nodes show whether the password is right.
            self.call(f"log in to {where.host} as {where.user}", "GET", "/v1/nodes?limit=1")
            self.root = self.call("read its versions", "GET", "/")
        except BaseException:
            self._client.close()
            raise

    def close(self) -> None:
        """Close the connections; never raises."""
        with suppress(Exception):
            self._client.close()

    def call(
        self,
        doing: str,
        method: str,
        path: str,
        body: object = None,
        *,
        feature: Feature | None = None,
        again: bool = True,
    ) -> dict[str, Any]:
        """Make one call; while the node is locked again, for the time of one call.

        Args:
            doing: What for, for messages.
            method: HTTP's.
            path: Below the API's root.
            body: Sent as JSON.
            feature: What it is a part of: told when the driver cannot do that.
            again: Whether a locked node is waited for.

        Raises:
            HypervouchError: See BY_STATUS.
            Unsupported: The node's driver cannot do that, and `feature` was given.
        """
        deadline, pause = time.monotonic() + self.timeout_s, _FIRST_LOOK_S
        while True:
            try:
                answer = self._client.request(method, path, json=body)
            except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError) as error:
                raise on_the_way(error, doing) from error
            locked = answer.status_code == http.HTTPStatus.CONFLICT and again
            if not locked or time.monotonic() >= deadline:
                return _content(answer, doing, feature)
            time.sleep(pause)
            pause = min(pause * 2, _LAST_LOOK_S)

    def node(self, known_as: str) -> Node:
        """One node by its UUID or name.

        Raises:
            CallerFault: There is none.
        """
        return self.call(f"read node {known_as}", "GET", f"/v1/nodes/{quote(known_as, safe='')}")

    def nodes(self, **filters: str) -> Iterator[Node]:
        """All nodes, a page at a time.

        Raises:
            NodeFault: The list does not end.
        """
        marker = ""
        for _ in range(PAGES):
            query = httpx.QueryParams({"limit": PAGE, **filters, **_marker(marker)})
            told = self.call("list the nodes", "GET", f"/v1/nodes/detail?{query}")
            page = [one for one in told.get("nodes", ()) if isinstance(one, dict)]
            yield from page
            if not told.get("next") or not page:
                return
            marker = str(page[-1].get("uuid", ""))
        raise NodeFault(f"its list of nodes has not ended after {PAGES} pages of {PAGE}")

    def patch(self, doing: str, uuid: str, changes: object, *, again: bool = True) -> Node:
        """Change fields of a node: a JSON patch."""
        return self.call(doing, "PATCH", f"/v1/nodes/{uuid}", changes, again=again)

    # States ------------------------------------------------------------------------------

    def provision(
        self, doing: str, uuid: str, target: str, wanted: str, feature: Feature, **more: object
    ) -> Node:
        """Ask for a provision state and wait until the node has it.

        Raises:
            NodeFault: It has come to another one; Ironic's own error is in the message.
            TransientFault: It has not come to one in time.
            HypervouchError: It was not taken, see BY_STATUS.
            Unsupported: The node's driver cannot do that.
        """
        path = f"/v1/nodes/{uuid}/states/provision"
        self.call(doing, "PUT", path, {"target": target, **more}, feature=feature)
        return self.settle(doing, uuid, wanted)

    def settle(self, doing: str, uuid: str, wanted: str) -> Node:
        """Wait until a node has a provision state.

        Raises:
            NodeFault: It has come to another one.
            TransientFault: It has not come to one in time.
        """
        for node in self.looks(doing, f"/v1/nodes/{uuid}", self.where.deploy_s):
            state = str(node.get("provision_state"))
            moves = node.get("target_provision_state") or node.get("reservation")
            if moves and state not in FAILED:  # what has failed keeps its target, and stays
                continue
            if state == wanted:
                return node
            if state in _STABLE:
                raise failed(doing, node)
        raise AssertionError("unreachable: the looks end with an error")

    def power(self, doing: str, uuid: str, target: str, wanted: str, feature: Feature) -> None:
        """Ask for a power state and wait until the node has it.

        Raises:
            NodeFault: It has not got it; Ironic's own error is in the message.
            TransientFault: It has not come to one in time.
            HypervouchError: It was not taken, see BY_STATUS.
            Unsupported: The node's driver cannot do that.
        """
        path = f"/v1/nodes/{uuid}/states/power"
        body: dict[str, object] = {"target": target}
        if target.startswith("soft"):
            body["timeout"] = max(1, int(self.timeout_s))
        self.call(doing, "PUT", path, body, feature=feature)
        for node in self.looks(doing, f"/v1/nodes/{uuid}", 2 * self.timeout_s):
            # The conductor holds its lock from the answer on, until it is done.
            if node.get("reservation") or node.get("target_power_state"):
                continue
            if node.get("power_state") == wanted:
                return
            if node.get("last_error"):
                raise failed(doing, node)

    def looks(
        self, doing: str, path: str, limit_s: float, feature: Feature | None = None
    ) -> Iterator[Node]:
        """Read something again and again, for whoever waits for a change of it.

        Raises:
            TransientFault: The time is over.
        """
        deadline, pause = time.monotonic() + limit_s, _FIRST_LOOK_S
        while True:
            told = self.call(doing, "GET", path, feature=feature)
            yield told
            if time.monotonic() >= deadline:
                raise TransientFault(
                    f"cannot {doing}: {_told(told)} after {limit_s:g} s",
                    hint="look at the node in Ironic",
                    retryable=True,
                )
            time.sleep(pause)
            pause = min(pause * 2, _LAST_LOOK_S)


def failed(doing: str, node: Node) -> NodeFault:
    """What to raise about a node that has come to a state that was not asked for."""
    return NodeFault(
        f"cannot {doing}: {_told(node)}", hint="mend it in Ironic: baremetal node show says more"
    )


def _told(node: Node) -> str:
    name = node.get("name") or node.get("uuid") or "?"
    states = f"{node.get('provision_state')}, {node.get('power_state')}"
    words = short(node.get("last_error") or node.get("maintenance_reason") or "no error is told")
    return f"node {short(name)} is in state {states}: {words}"


def _marker(uuid: str) -> dict[str, str]:
    return {"marker": uuid} if uuid else {}


def _content(answer: httpx.Response, doing: str, feature: Feature | None) -> dict[str, Any]:
    if not answer.is_success:
        raise refused(answer.status_code, answer.text, doing, feature)
    if not answer.content:
        return {}
    try:
        told = answer.json()
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise NodeFault(f"cannot {doing}: its answer is no JSON object", hint="is it an Ironic?")
    return told


def refused(
    status: int, text: str, doing: str, feature: Feature | None = None
) -> HypervouchError | Unsupported:
    """Our error for an answer that is none of success, with Ironic's words."""
    words = said(text) or http.HTTPStatus(status).phrase if _is_known(status) else said(text)
    low = words.lower()
    if status == http.HTTPStatus.BAD_REQUEST and any(one in low for one in _CANNOT_WORDS):
        if feature is not None:
            return Unsupported(feature, f"Ironic says: {words}")
    elif status == http.HTTPStatus.BAD_REQUEST and any(one in low for one in _STATE_WORDS):
        return TransientFault(
            f"cannot {doing}: {words}", hint="look at the node's state", retryable=True
        )
    text = f"cannot {doing}: HTTP {status}: {words}"
    meaning = BY_STATUS.get(status, Meaning(NodeFault, "look into Ironic's log"))
    if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        meaning = Meaning(TransientFault, "look into Ironic's log")
    if issubclass(meaning.fault, TransientFault):
        return meaning.fault(text, hint=meaning.hint, retryable=True)
    return meaning.fault(text, hint=meaning.hint)


def said(text: str) -> str:
    """What Ironic says in an answer's body: `error_message`, which may itself be JSON."""
    told: object = text
    for key in ("error_message", "faultstring"):
        if isinstance(told, str):
            with suppress(ValueError):
                told = json.loads(told)
        if isinstance(told, dict):
            told = told.get(key, told)
    return short(told)


def on_the_way(error: Exception, doing: str) -> HypervouchError:
    """TLS, TCP and HTTP."""
    words = short(error) or type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return CertificateRefused(
                f"cannot {doing}: its certificate is not the one that was expected: {words}",
                hint="set a ca-file, or pin it: certificate = its SHA-256",
            )
        cause = cause.__cause__ or cause.__context__
    strange = isinstance(error, (httpx.RemoteProtocolError, httpx.DecodingError))
    if strange and not any(one in words for one in _HUNG_UP):
        return NodeFault(f"cannot {doing}: {words}", hint="is it an Ironic?")
    return TransientFault(f"cannot {doing}: {words}", hint=_AGAIN, retryable=True)


def _is_known(status: int) -> bool:
    return status in {one.value for one in http.HTTPStatus}


def short(told: object) -> str:
    """Foreign words on one line, without what a terminal would obey."""
    words = "".join(char if char.isprintable() else " " for char in str(told))
    return " ".join(words.split())[:_WORDS]
