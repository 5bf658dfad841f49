# SPDX-License-Identifier: Apache-2.0
"""A session with a vCenter: properties, tasks and files of datastores. Safe from any thread.

Properties are read through the property collector alone: pyvmomi's attributes fail on what is not
set, and `task.info` does not parse for every task. A session that has ended is opened once more;
a refused login is never tried again, so that no account is locked.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlencode

from pyVmomi import vim, vmodl

from ci.model.feature import Feature
from nodes.hypervisors import api_url, certificates, vcenter_versions
from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault
from nodes.hypervisors.vcenter_errors import ON_THE_WAY, at_login, fault, translated
from nodes.hypervisors.vcenter_stub import stub

OPTIONS = frozenset({"datastore", "network"})
PAGE = 500
_FIRST_LOOK_S, _LAST_LOOK_S = 0.001, 0.5
# A file that is not there yet, or has nothing in it yet.
_NOTHING = (HTTPStatus.NOT_FOUND, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
_TAKEN = (HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.PARTIAL_CONTENT)
# The session has ended, which the next call mends; or its services are away.
_LATER = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Address:
    """What a URL says: `vcenter://user@host:443/DATACENTER/CLUSTER?datastore=...&network=...`.

    Attributes:
        host: Name or address.
        port: TCP port.
        user: Login.
        datacenter: Its name; empty for the only one.
        cluster: Its name; empty for the only one.
        options: What stands after the question mark.
    """

    host: str
    port: int
    user: str
    datacenter: str
    cluster: str
    options: dict[str, str]


def address(url: str) -> Address:
    """Take a URL apart.

    Raises:
        CallerFault: It is no URL of a vCenter, or holds a password.
    """
    example = "vcenter://user@host/DATACENTER/CLUSTER"
    parts, host, port = api_url.split(url, 443, example)
    if not host or not parts.username:
        raise CallerFault(f"{url!r} names no host or no user", hint=example)
    datacenter, _, cluster = parts.path.strip("/").partition("/")
    if "/" in cluster:
        raise CallerFault(f"{url!r} has a path that is too long", hint=example)
    options = api_url.options(url, parts, OPTIONS)
    return Address(
        host=host,
        port=port,
        user=unquote(parts.username),
        datacenter=unquote(datacenter),
        cluster=unquote(cluster),
        options=options,
    )


class VcenterLink:
    """One login."""

    def __init__(self, where: Address, access: Access) -> None:
        """Connect and log in, once.

        Raises:
            CallerFault: There is no password, or the certificates cannot be read.
            TransientFault: It does not answer.
            NodeFault: It refuses us, showed another certificate, or is no vCenter.
        """
        if not access.password:
            raise CallerFault(
                f"there is no password for {where.user} on {where.host}",
                hint="name a file or a variable that holds it",
            )
        self.where = where
        self.timeout_s = access.timeout_s
        self.doing = f"connect to {where.host}:{where.port}"
        self._password = access.password
        self._lock = threading.Lock()
        self._session = 0
        self._refused: vmodl.MethodFault | None = None
        context = certificates.context(access)
        version = vcenter_versions.find(where.host, where.port, context, access.timeout_s)
        with translated(self.doing):
            self._stub = stub(where.host, where.port, version, context, access.timeout_s)
        try:
            with translated(self.doing):
                instance = vim.ServiceInstance("ServiceInstance", self._stub)
                self.content: Any = instance.RetrieveContent()
            self._log_in(0)
        except BaseException:
            self._stub.DropConnections()
            raise

    def close(self) -> None:
        """Log out; never raises."""
        with suppress(vmodl.MethodFault, *ON_THE_WAY):
            self.content.sessionManager.Logout()
        with suppress(*ON_THE_WAY):
            self._stub.DropConnections()

    def _log_in(self, stale: int) -> None:
        """Open a session, unless another thread has done so since `stale` was the current one."""
        doing = f"log in to {self.where.host} as {self.where.user}"
        with self._lock, at_login(doing):
            if self._refused is not None:
                raise self._refused
            if self._session == stale:
                if stale:
                    # A session that lives, but was called unknown, would refuse another login.
                    with suppress(vmodl.MethodFault):
                        self.content.sessionManager.Logout()
                    self._stub.cookie = ""
                try:
                    self.content.sessionManager.Login(self.where.user, self._password, None)
                except (vim.fault.InvalidLogin, vim.fault.NoPermission) as error:
                    self._refused = error
                    raise
                self._session += 1

    def call(self, doing: str, what: Callable[[], T], feature: Feature | None = None) -> T:
        """Make one call; again where it was refused because the session had ended.

        Raises:
            HypervouchError: See `vcenter_errors`.
            Unsupported: It cannot do that, and `feature` was given.
        """
        session = self._session
        try:
            return what()
        except vim.fault.NotAuthenticated:
            self._log_in(session)
        except (vmodl.MethodFault, *ON_THE_WAY) as error:
            raise fault(error, doing, feature) from error
        with translated(doing, feature):
            return what()

    # Properties --------------------------------------------------------------------------

    def props(self, thing: Any, *paths: str, doing: str = "") -> dict[str, Any]:
        """Properties of one object; what is not set is not in it. `doing` is for the message.

        Raises:
            NodeUnavailable: They cannot be read.
        """
        collector = vmodl.query.PropertyCollector
        wanted = collector.FilterSpec(
            objectSet=[collector.ObjectSpec(obj=thing)],
            propSet=[collector.PropertySpec(type=type(thing), pathSet=list(paths))],
        )
        found = self.call(
            doing or f"read {paths[0]}",
            lambda: self.content.propertyCollector.RetrieveContents([wanted]),
        )
        return {one.name: one.val for one in found[0].propSet} if found else {}

    def all(self, kind: Any, below: Any, *paths: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        """All objects of a kind below a folder, with properties, a page at a time.

        Raises:
            NodeUnavailable: They cannot be read.
        """
        doing = f"list {kind.__name__.rpartition('.')[2]}"
        view = self.call(
            doing,
            lambda: self.content.viewManager.CreateContainerView(below, [kind], recursive=True),
        )
        try:
            yield from self.along(view, "view", kind, *paths, doing=doing)
        finally:
            with suppress(vmodl.MethodFault, *ON_THE_WAY):
                view.Destroy()

    def along(
        self, thing: Any, path: str, kind: Any, *paths: str, doing: str = ""
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """All objects that a property of one object lists, with properties, a page at a time.

        Raises:
            NodeUnavailable: They cannot be read.
        """
        collector = vmodl.query.PropertyCollector
        through = collector.TraversalSpec(name=path, type=type(thing), path=path, skip=False)
        where = collector.ObjectSpec(obj=thing, skip=True, selectSet=[through])
        return self._pages(doing or f"list each {path}", [where], kind, paths)

    def several(
        self, things: Sequence[Any], kind: Any, *paths: str
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Properties of several objects of a kind, a page at a time; one that went is left out.

        Raises:
            NodeUnavailable: They cannot be read.
        """
        where = [vmodl.query.PropertyCollector.ObjectSpec(obj=one) for one in things]
        return self._pages(f"read {paths[0]}", where, kind, paths) if where else iter(())

    def _pages(
        self, doing: str, where: Sequence[Any], kind: Any, paths: tuple[str, ...]
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        collector = vmodl.query.PropertyCollector
        wanted = collector.FilterSpec(
            objectSet=list(where),
            propSet=[collector.PropertySpec(type=kind, pathSet=list(paths))],
            reportMissingObjectsInResults=True,
        )
        options = collector.RetrieveOptions(maxObjects=PAGE)
        reader = self.content.propertyCollector
        page = self.call(doing, lambda: reader.RetrievePropertiesEx([wanted], options))
        while page is not None:
            for one in page.objects:
                yield one.obj, {found.name: found.val for found in one.propSet}
            token = page.token
            if not token:
                return
            page = self.call(doing, partial(reader.ContinueRetrievePropertiesEx, token))

    # Tasks -------------------------------------------------------------------------------

    def run(
        self,
        doing: str,
        what: Callable[[], Any],
        feature: Feature | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Any:
        """Start a task and wait for its result.

        Raises:
            TransientFault: It did not end in time; it was asked to stop.
            HypervouchError: It failed, see `vcenter_errors`.
            Unsupported: It cannot do that, and `feature` was given.
        """
        task = self.call(doing, what, feature)
        limit = self.timeout_s if timeout_s is None else timeout_s
        deadline, pause = time.monotonic() + limit, _FIRST_LOOK_S
        while True:
            time.sleep(pause)  # no task has ended when its reference comes
            pause = min(pause * 2, _LAST_LOOK_S)
            told = self.props(task, "info.state", "info.result", "info.error", doing=doing)
            state = told.get("info.state")
            if state == vim.TaskInfo.State.success:
                return told.get("info.result")
            if state == vim.TaskInfo.State.error:
                error = told.get("info.error")
                raise fault(error or vmodl.MethodFault(), doing, feature) from error
            if time.monotonic() >= deadline:
                with suppress(vmodl.MethodFault, *ON_THE_WAY):
                    task.CancelTask()
                raise TransientFault(
                    f"cannot {doing}: its task has not ended in {limit:g} s",
                    hint="look at the task in vCenter",
                    retryable=True,
                )

    def wait(self, seen: Callable[[], bool]) -> bool:
        """Look until something is seen; whether it was within the time of one call."""
        deadline = time.monotonic() + self.timeout_s
        while not seen():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_LAST_LOOK_S)
        return True

    # Files of datastores -----------------------------------------------------------------

    def put(self, datacenter: str, datastore: str, path: str, content: Path | bytes) -> None:
        """Write a file of a datastore; folders above it must be there.

        Raises:
            NodeUnavailable: It cannot be written.
        """
        doing = f"write [{datastore}] {path}"
        place = _place(datacenter, datastore, path)
        if isinstance(content, bytes):
            self._http("PUT", doing, place, body=content)
            return
        with content.open("rb") as file:
            headers = {"Content-Length": str(content.stat().st_size)}
            self._http("PUT", doing, place, body=file, headers=headers)

    def get(
        self, datacenter: str, datastore: str, path: str, *, first: int = 0, last: int = 0
    ) -> bytes:
        """Read a file of a datastore, or only its first or its last bytes; none where it is not.

        Raises:
            NodeUnavailable: It cannot be read.
        """
        part = f"bytes=0-{first - 1}" if first else f"bytes=-{last}"
        headers = {"Range": part} if first or last else {}
        doing = f"read [{datastore}] {path}"
        got = self._http("GET", doing, _place(datacenter, datastore, path), headers=headers)
        if first:
            return got[:first]
        return got[-last:] if last else got

    def _http(
        self,
        method: str,
        doing: str,
        place: str,
        body: object = None,
        headers: dict[str, str] | None = None,
    ) -> bytes:
        with translated(doing):
            connection = self._stub.GetConnection()
            try:
                cookie = {"Cookie": str(self._stub.cookie).partition(";")[0]}
                kind = {"Content-Type": "application/octet-stream"}
                connection.request(
                    method, place, body=body, headers=cookie | kind | (headers or {})
                )
                answer = connection.getresponse()
                content: bytes = answer.read()
            except BaseException:
                connection.close()
                raise
            self._stub.ReturnConnection(connection)
        if answer.status in _NOTHING:
            return b""
        if answer.status not in _TAKEN:
            text = f"cannot {doing}: HTTP {answer.status} {answer.reason}"
            if answer.status in _LATER:
                raise TransientFault(text, hint="try again in a moment", retryable=True)
            raise NodeFault(text, hint="look at the datastore, and at the user's rights")
        return content


def _place(datacenter: str, datastore: str, path: str) -> str:
    return f"/folder/{quote(path)}?{urlencode({'dcPath': datacenter, 'dsName': datastore})}"
