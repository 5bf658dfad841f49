# SPDX-License-Identifier: Apache-2.0
"""The sandbox as a whole: made from its parts, started and stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ci.clock import Clock, SystemClock
from ci.errors import ReviewServerError
from ci.sandbox.bridge import Bridge
from ci.sandbox.changes import Changes
from ci.sandbox.events import Announcer, Stream
from ci.sandbox.http import HttpServer
from ci.sandbox.push import Pushes
from ci.sandbox.records import AccountRecord
from ci.sandbox.repositories import Repositories
from ci.sandbox.rest import Rest
from ci.sandbox.rest_shapes import RestShapes
from ci.sandbox.search import Search
from ci.sandbox.shapes import Shapes
from ci.sandbox.ssh import HOST, SshServer, load_host_key
from ci.sandbox.ssh_commands import SshCommands
from ci.sandbox.store import Store, password_digest

_Server = TypeVar("_Server")


class Sandbox:
    """A Gerrit-compatible review server in threads of this process, on the loopback address.

    Everything it knows lies in its directory and survives a `kill -9` of the process. Ports
    are chosen free at the first start and asked for again at every later one. start and stop
    are repeatable; accounts and projects can be added before and after start.

    Args:
        directory: Holds state and repositories; made.
        clock: Where time comes from.
        events_log: Stand in for Gerrit's events-log plugin: keep the stream's lines and show
            them at `/plugins/events-log/events/`. Without it that address is not found.

    Raises:
        StorageError: The directory cannot be used.
    """

    def __init__(
        self, directory: Path, *, clock: Clock | None = None, events_log: bool = False
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._clock = clock or SystemClock()
        self._store: Store | None = Store(directory / "sandbox.sqlite")
        self._repositories = Repositories(directory / "git")
        self._events_log = events_log
        self._stream = Stream(self._keep_event if events_log else None)
        self._host_key = load_host_key(directory / "ssh_host_ecdsa_key")
        self._announcer: Announcer | None = None
        self._running: tuple[Bridge, SshServer, HttpServer] | None = None
        self.host = HOST
        self.known_hosts = directory / "known_hosts"

    @property
    def store(self) -> Store:
        """The state; opened anew after a stop."""
        if self._store is None:
            self._store = Store(self._directory / "sandbox.sqlite")
        return self._store

    @property
    def repositories(self) -> Repositories:
        """The projects' git repositories."""
        return self._repositories

    def _keep_event(self, at: int, line: str) -> None:
        self.store.save_event(at, line)

    def start(self) -> None:
        """Listen; returns when clients can connect.

        Raises:
            ReviewServerError: No port could be had.
        """
        if self._running is not None:
            return
        store, repositories = self.store, self._repositories
        for project in store.projects():
            repositories.install_hook(project)
        http = self._on_port("http_port", lambda port: HttpServer(store, repositories, port))
        url = f"http://{HOST}:{http.port}"
        shapes = Shapes(store, url)
        announcer = Announcer(self._stream, shapes)
        changes = Changes(store, repositories, announcer, self._clock)
        bridge = Bridge(Pushes(changes, url))
        search = Search(store)
        commands = SshCommands(changes, search, shapes=shapes, stream=self._stream, bridge=bridge)
        ssh = self._on_port(
            "ssh_port", lambda port: SshServer(store, self._host_key, commands, port)
        )
        self._announcer = announcer
        self.known_hosts.write_text(
            f"[{HOST}]:{ssh.port} {self._host_key.get_name()} {self._host_key.get_base64()}\n"
        )
        bridge.start()
        ssh.start()
        rest = Rest(
            changes,
            RestShapes(store, repositories),
            search,
            create_project=self.create_project,
            events_log=self._events_log,
        )
        http.start(rest, bridge)
        self._running = (bridge, ssh, http)

    def stop(self) -> None:
        """Close every connection, give the ports back, release the state's file."""
        if self._running is not None:
            bridge, ssh, http = self._running
            self._running = None
            ssh.stop()
            http.stop()
            bridge.stop()
        if self._store is not None:
            self._store.close()
            self._store = None

    def _on_port(self, name: str, listen: Callable[[int], _Server]) -> _Server:
        """Listen on the remembered port, or on another one when it is taken by now."""
        remembered = int(self.store.setting(name) or 0)
        try:
            server = listen(remembered)
        except OSError:
            try:
                server = listen(0)
            except OSError as error:
                raise ReviewServerError(f"the sandbox has no port: {error}") from error
        self.store.save_setting(name, str(server.port))  # type: ignore[attr-defined]
        return server

    def _port(self, name: str) -> int:
        if self._running is None:
            raise ReviewServerError("the sandbox is not running", hint="start it first")
        return int(self.store.setting(name))

    @property
    def ssh_port(self) -> int:
        """Port of the SSH daemon, while it runs."""
        return self._port("ssh_port")

    @property
    def http_port(self) -> int:
        """Port of the REST interface, while it runs."""
        return self._port("http_port")

    @property
    def url(self) -> str:
        """Base address of the REST interface, without a trailing slash."""
        return f"http://{HOST}:{self.http_port}"

    def add_account(
        self,
        username: str,
        full_name: str,
        *,
        key: Path | None = None,
        password: str = "",
        stream_events: bool = False,
        vote: bool = False,
        admin: bool = False,
    ) -> None:
        """Add an account or replace it.

        Args:
            username: Login name; its address is `USERNAME@example.com`.
            full_name: Shown beside comments; a CI's ends in ` CI`.
            key: Private key file whose public half lies beside it in `.pub`.
            password: For HTTP; empty forbids it.
            stream_events: Whether it may follow the event stream.
            vote: Whether it may give the Verified label.
            admin: Whether it may do everything, pushes to branches included.
        """
        salt, digest = password_digest(password) if password else ("", "")
        public = " ".join(Path(f"{key}.pub").read_text().split()[:2]) if key else ""
        self.store.save_account(
            AccountRecord(
                number=self.store.next_account_number(username),
                username=username,
                full_name=full_name,
                email=f"{username}@example.com",
                salt=salt,
                digest=digest,
                public_key=public,
                stream_events=stream_events,
                vote=vote,
                admin=admin,
            )
        )

    def create_project(self, name: str) -> None:
        """Make a project whose `master` holds one empty commit; repeatable.

        Raises:
            ReviewServerError: The name is not one.
        """
        if self.store.has_project(name):
            return
        self._repositories.create(name)
        self.store.save_project(name)
        if self._announcer is not None:
            self._announcer.project_created(name, self._clock.now().timestamp())
