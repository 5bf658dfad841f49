# SPDX-License-Identifier: Apache-2.0
"""A private PostgreSQL: its own directory, a free port on loopback, trusted, and quick to lose.

It runs as `nobody` where the tests run as root, since PostgreSQL refuses root. Nothing is
flushed to the disk: a killed server comes back, a machine that loses its power would not.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg import sql

START_S = 30
UNPRIVILEGED = "nobody"
USER = "hypervouch"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "autovacuum": "off",
    "log_min_messages": "warning",
    "dynamic_shared_memory_type": "mmap",
}


class PostgresMissing(Exception):
    """This machine cannot run PostgreSQL; the text says what is missing."""


def program(name: str) -> Path:
    """Path of one of the server's programs; Debian keeps them off the PATH.

    Raises:
        PostgresMissing: It is not installed.
    """
    below = Path("/usr/lib/postgresql")
    versions = sorted(below.glob(f"*/bin/{name}"), key=lambda p: int(p.parts[-3]))
    if versions:
        return versions[-1]
    if found := shutil.which(name):
        return Path(found)
    raise PostgresMissing(f"PostgreSQL's {name} (apt-get install postgresql)")


class Postgres:
    """One server: where it is, its databases, and the means to hurt it.

    Args:
        directory: Holds its data, its log and its socket; belongs to its user.
        password: What it asks of everybody; empty: it trusts.
    """

    def __init__(self, directory: Path, *, password: str = "") -> None:
        self.directory = directory
        self.password = password
        self.port = 0
        self._data = directory / "data"
        self._user = UNPRIVILEGED if os.geteuid() == 0 else None

    @property
    def pid(self) -> int:
        """Of the postmaster, the parent of every other process of the server."""
        return int((self._data / "postmaster.pid").read_text().splitlines()[0])

    @property
    def log(self) -> str:
        """What the server has written so far."""
        return (self.directory / "log").read_text(errors="replace")

    def url(self, name: str) -> str:
        """Of a database; without the password."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{name}"

    def make(self) -> None:
        """Make its files, and start it."""
        arguments: list[str | Path] = [
            "-D",
            self._data,
            "-U",
            USER,
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "-N",
        ]
        secret = self.directory / "secret"
        if self.password:
            secret.write_text(self.password)
            shutil.chown(secret, self._user) if self._user else None
            arguments += ["-A", "scram-sha-256", f"--pwfile={secret}"]
        else:
            arguments += ["-A", "trust"]
        self._call("initdb", *arguments)
        self.start()

    def start(self) -> None:
        """Start it on its port, the same every time; returns when it answers."""
        self.port = self.port or _free_port()
        settings = {**_SETTINGS, "port": str(self.port), "unix_socket_directories": self.directory}
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        log = self.directory / "log"
        self._call("pg_ctl", "-D", self._data, "-l", log, "-o", options, f"-t{START_S}", "start")

    def stop(self, mode: str = "fast") -> None:
        """End it: `fast` lets nobody finish, `immediate` is a crash. Nothing where it is down.

        A frozen server is thawed first.
        """
        with suppress(FileNotFoundError, ProcessLookupError):
            self.thaw()
            self._call("pg_ctl", "-D", self._data, "-m", mode, f"-t{START_S}", "stop")

    def freeze(self) -> None:
        """Let every process of the server stand still: the host has hung, connections stay."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def make_database(self, name: str, *, template: str = "template0") -> str:
        """An empty database of our own; returns its URL."""
        self.run(sql.SQL("CREATE DATABASE {} TEMPLATE {}"), name, template)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop one, whoever is still connected to it."""
        self.run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)"), name)

    def run(self, statement: sql.SQL, *names: str) -> None:
        """Run a statement of the superuser; `names` are quoted as identifiers."""
        with psycopg.connect(
            self.url("postgres"), password=self.password or None, autocommit=True
        ) as connection:
            connection.execute(statement.format(*map(sql.Identifier, names)))

    def _signal(self, number: int) -> None:
        # Every process of the server is a child of the postmaster, which makes no more once it
        # stands still: it comes first.
        os.kill(self.pid, number)
        for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), number)

    def _call(self, name: str, *arguments: str | Path) -> None:
        # pg_ctl's server keeps what it inherits: a pipe for its output would never end.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [program(name), *arguments],
                user=self._user,
                group=_group(self._user),
                extra_groups=[] if self._user else None,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=2 * START_S,
                check=False,
            )
            output.seek(0)
            said = output.read().decode(errors="replace")
        if done.returncode:
            raise RuntimeError(f"{name} failed: {said.strip()}")


@contextmanager
def cluster(directory: Path, *, password: str = "") -> Iterator[Postgres]:
    """A running server for a block; everything of it lies in a short-lived directory.

    Args:
        directory: Where its log stays behind. The files themselves lie elsewhere: an unprivileged
            user must reach them, and a socket's path must be short.
        password: What it asks of its one user.

    Raises:
        PostgresMissing: It is not installed.
    """
    program("initdb")
    directory.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="hypervouch-pg-"))
    if os.geteuid() == 0:
        shutil.chown(home, UNPRIVILEGED, _group(UNPRIVILEGED))
    server = Postgres(home, password=password)
    try:
        with _not_outliving_us(home):
            server.make()
            yield server
    finally:
        server.stop("immediate")
        with suppress(FileNotFoundError):
            shutil.copyfile(home / "log", directory / "postgresql.log")
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _not_outliving_us(home: Path) -> Iterator[None]:
    """End the server, and take its files away, should this process be killed within the block.

    The watcher reads a pipe whose other end only this process has.
    """
    last_will = 'cat; kill -QUIT "$(head -n 1 "$0/data/postmaster.pid")"; sleep 1; rm -rf "$0"'
    watcher = subprocess.Popen(
        ["sh", "-c", last_will, home],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(watcher.pid, signal.SIGKILL)
        watcher.communicate()


def _group(user: str | None) -> int | None:
    """Id of the first group of a user."""
    if user is None:
        return None
    import pwd  # noqa: PLC0415 - only where there are such users

    return pwd.getpwnam(user).pw_gid


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
