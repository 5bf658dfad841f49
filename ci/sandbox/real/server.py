# SPDX-License-Identifier: Apache-2.0
"""A real Gerrit, 3.10.2 or 3.13.5, on the loopback address, for tests and for `make bench`.

As a library: `RealGerrit(directory)`. From a shell, one command at a time:
`python -m ci.sandbox.real.server start|seed|status|stop --site DIR --json`.
The server is headless (its web pages are only in the war) and runs until it is stopped.
"""

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from ci import proc
from ci.sandbox.account import ReviewServer
from ci.sandbox.client import authorities
from ci.sandbox.real import jars as gerrit_jars
from ci.sandbox.real import seed as gerrit_seed
from ci.sandbox.real.jars import GerritFailed, GerritMissing, locked
from ci.sandbox.real.releases import DEFAULT, RELEASES, Release
from ci.sandbox.real.site import (
    HOST,
    NO_ARCHIVED_LAMBDAS,
    Site,
    SiteState,
    free_port,
    initialise,
    java_command,
    server_environment,
)

ADMIN_USER, PASSWORD = "admin", "secret"  # what Gerrit's `init --dev` gives
DEFAULT_CI_USER = "hypervouch-ci"


class RealGerrit:
    """One real Gerrit server with its site on disk.

    Ports are chosen free at the first start and kept from then on, so that clients find a
    restarted server where it was. start and stop are repeatable and safe against a second
    process doing the same; the attributes that name ports are valid after the first start.

    Args:
        directory: The site; made by the first start, kept by stop and kill.
        version: One of `RELEASES`, for a new site; a site keeps the version it was made with.
        make_archive: Have a clean stop leave the class archive if there is none yet, which
            makes every later start twice as fast but that stop some 30 s long.
    """

    def __init__(
        self, directory: Path, *, version: str | None = None, make_archive: bool = False
    ) -> None:
        self.site = Site(directory)
        self._wanted = version
        self._make_archive = make_archive
        self.host = HOST
        self.admin_user, self.admin_password = ADMIN_USER, PASSWORD
        self.admin_key = self.site.keys / ADMIN_USER
        self.known_hosts = self.site.known_hosts
        self.ci_password = PASSWORD
        self._process: proc.Process | None = None

    @property
    def _state(self) -> SiteState:
        state = self.site.load()
        if state is None:
            raise GerritFailed(f"{self.site.path} holds no Gerrit site yet: start it first")
        return state

    @property
    def version(self) -> str:
        """The site's version, or the one that its first start will give it."""
        state = self.site.load()
        return state.version if state else self._wanted or DEFAULT.version

    @property
    def ssh_port(self) -> int:
        """Port of the SSH daemon."""
        return self._state.ssh_port

    @property
    def http_port(self) -> int:
        """Port of the REST interface."""
        return self._state.http_port

    @property
    def url(self) -> str:
        """Base address of the REST interface, without a trailing slash."""
        return f"http://{HOST}:{self.http_port}"

    @property
    def ci_user(self) -> str:
        """Username that `seed` made; the usual one before."""
        return self._state.ci_user or DEFAULT_CI_USER

    @property
    def ci_key(self) -> Path:
        """Private key of the CI account."""
        return self.site.keys / self.ci_user

    @property
    def pid(self) -> int | None:
        """Process id of the running server."""
        return self.site.pid()

    def start(self, *, timeout_s: float = 240.0) -> None:
        """Make the site if need be, start the server and wait until it answers.

        Raises:
            GerritMissing: This machine lacks Java, Maven or the jars.
            GerritFailed: Init or the server failed, or it did not answer in time.
        """
        with locked(self.site.lock_file) as lock_fd:
            if self.site.pid() is not None:
                return
            release = self._release()
            java = gerrit_jars.find_java(release.least_java)
            jars = gerrit_jars.class_path(release)
            state = self.site.load()
            if state is None:
                state = SiteState(
                    ssh_port=free_port(), http_port=free_port(), version=release.version
                )
                initialise(self.site, java, jars, lock_fd, state)
            self.site.write_known_hosts(state.ssh_port)
            self._launch(java, jars)
            self._await_answer(state, time.monotonic() + timeout_s)

    def _release(self) -> Release:
        if self._wanted not in {None, self.version}:
            raise GerritFailed(
                f"{self.site.path} is a site of Gerrit {self.version}, not {self._wanted}: "
                "use another directory"
            )
        try:
            return RELEASES[self.version]
        except KeyError:
            known = ", ".join(RELEASES)
            raise GerritFailed(f"Gerrit {self.version} is not one of {known}") from None

    def _launch(self, java: gerrit_jars.Java, jars: list[Path]) -> None:
        identity = sha256(f"{java}{jars}{NO_ARCHIVED_LAMBDAS}".encode()).hexdigest()[:12]
        archive = gerrit_jars.cache_dir() / f"classes-{self.version}-{identity}.jsa"
        sharing = []
        if archive.exists():
            sharing = [f"-XX:SharedArchiveFile={archive}"]
        elif self._make_archive:
            sharing = [f"-XX:ArchiveClassesAtExit={self._archive_draft}"]
            (self.site.path / "archive.path").write_text(str(archive))
        with self.site.log.open("ab") as log:
            self._process = proc.spawn(
                [
                    *java_command(
                        self.site,
                        java,
                        jars,
                        *(*sharing, "-Xshare:auto", "-Xlog:disable", "-Xlog:all=error:stderr"),
                    ),
                    *("daemon", "-d", str(self.site.path), "--console-log", "--headless"),
                ],
                cwd=self.site.path,
                env=server_environment(self.site),
                stdout=log,
            )
        self.site.record_pid(self._process.pid)

    @property
    def _archive_draft(self) -> Path:
        return self.site.path / "classes.jsa"

    def _await_answer(self, state: SiteState, deadline: float) -> None:
        while not _answers(state):
            if self.site.pid() is None:
                why = "the server ended while it started"
            elif time.monotonic() > deadline:
                why = "the server did not answer in time"
                self._signal(signal.SIGKILL, timeout_s=30)
            else:
                time.sleep(0.1)
                continue
            self.site.record_pid(None)
            self._reap()
            raise GerritFailed(f"{why}; its log ends:\n{self.site.log_end()}")

    def stop(self, *, timeout_s: float = 120.0) -> None:
        """Stop the server cleanly; one that is not running is no error.

        Raises:
            GerritFailed: It had to be killed.
        """
        with locked(self.site.lock_file):
            if self.site.pid() is None:
                return
            ended = self._signal(signal.SIGTERM, timeout_s=timeout_s)
            if not ended:
                self._signal(signal.SIGKILL, timeout_s=30)
            self.site.record_pid(None)
            self._reap()
            target = self.site.path / "archive.path"
            if ended and self._archive_draft.exists() and target.exists():
                _publish(self._archive_draft, Path(target.read_text()))
            self._archive_draft.unlink(missing_ok=True)
        if not ended:
            raise GerritFailed(f"Gerrit did not stop within {timeout_s:g} s and was killed")

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would; the site stays."""
        with locked(self.site.lock_file):
            if self.site.pid() is not None:
                self._signal(signal.SIGKILL, timeout_s=30)
            self.site.record_pid(None)
            self._reap()
            self._archive_draft.unlink(missing_ok=True)

    def restart(self) -> None:
        """Stop cleanly and start again on the same ports."""
        self.stop()
        self.start()

    def _signal(self, signum: signal.Signals, *, timeout_s: float) -> bool:
        pid = self.site.pid()
        if pid is None:
            return True
        os.kill(pid, signum)
        deadline = time.monotonic() + timeout_s
        while self.site.pid() == pid:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait(timeout=30)
            self._process = None

    def seed(
        self,
        *,
        ci_user: str = DEFAULT_CI_USER,
        full_name: str = "Hypervouch CI",
        projects: Sequence[str] = (),
    ) -> None:
        """Make the label, groups and rights, the CI's account, and projects. Repeatable."""
        gerrit_seed.seed_rights(self.admin)
        self.create_account(ci_user, full_name, stream_events=True, vote=True)
        for name in projects:
            self.create_project(name)
        with locked(self.site.lock_file):
            self.site.save(replace(self._state, ci_user=ci_user))

    def create_account(
        self, username: str, full_name: str, *, stream_events: bool, vote: bool
    ) -> ReviewServer:
        """Make an account with just these rights; `seed` comes first. Repeatable."""
        gerrit_seed.seed_account(
            self.admin,
            username=username,
            full_name=full_name,
            key_file=self.site.make_key(username),
            password=PASSWORD,
            stream_events=stream_events,
            vote=vote,
        )
        return self.connection(username)

    def create_project(self, name: str) -> None:
        """Make a project whose `master` holds one empty commit. Repeatable."""
        gerrit_seed.seed_project(self.admin, name)

    @property
    def admin(self) -> ReviewServer:
        """The server as the administrator sees it."""
        return self.connection(ADMIN_USER)

    @property
    def ci(self) -> ReviewServer:
        """The server as the CI's account sees it."""
        return self.connection(self.ci_user)

    def connection(self, username: str) -> ReviewServer:
        """The server as an account of ours sees it."""
        return ReviewServer(
            host=HOST,
            ssh_port=self.ssh_port,
            url=self.url,
            user=username,
            key_file=self.site.keys / username,
            password=PASSWORD,
            known_hosts=self.known_hosts,
        )

    def rest(self, method: str, path: str, body: object = None, *, ok: Sequence[int] = ()) -> Any:
        """Call the REST interface as the administrator."""
        return self.admin.rest(method, path, body, ok=ok)

    def describe(self) -> dict[str, object]:
        """What a program in another language needs to know, as JSON values."""
        state, pid = self.site.load(), self.site.pid()
        known: dict[str, object] = {"site": str(self.site.path), "running": pid is not None}
        if state is None:
            return known
        return known | {
            "pid": pid,
            "version": state.version,
            "host": HOST,
            "ssh_port": state.ssh_port,
            "http_port": state.http_port,
            "url": self.url,
            "admin_user": ADMIN_USER,
            "admin_password": PASSWORD,
            "admin_key": str(self.admin_key),
            "ci_user": self.ci_user,
            "ci_password": PASSWORD,
            "ci_key": str(self.ci_key),
            "known_hosts": str(self.known_hosts),
            "log": str(self.site.log),
        }


def _publish(draft: Path, archive: Path) -> None:
    # The archive may lie on another file system than the site: copy beside it, then rename.
    fresh = archive.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(draft.read_bytes())
    fresh.replace(archive)


def _answers(state: SiteState) -> bool:
    try:
        reply = httpx.get(
            f"http://{HOST}:{state.http_port}/config/server/version",
            timeout=5,
            trust_env=False,
            verify=authorities(),
        )
        with socket.create_connection((HOST, state.ssh_port), timeout=5) as connection:
            return reply.status_code == httpx.codes.OK and connection.recv(64).startswith(
                b"SSH-2.0-Gerrit"
            )
    except (OSError, httpx.HTTPError):
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; exit status 0 done, 1 failed, 3 not running (status only)."""
    parser = argparse.ArgumentParser(prog="real_gerrit", description=__doc__)
    parser.add_argument("command", choices=("start", "seed", "status", "stop"))
    parser.add_argument("--site", type=Path, required=True, help="the site's directory")
    parser.add_argument(
        "--gerrit-version", choices=sorted(RELEASES), help=f"a new site's; {DEFAULT.version}"
    )
    parser.add_argument("--json", action="store_true", help="print what is known as JSON")
    parser.add_argument("--kill", action="store_true", help="stop with SIGKILL")
    parser.add_argument("--ci-user", default=DEFAULT_CI_USER)
    parser.add_argument("--full-name", default="Hypervouch CI")
    parser.add_argument("--project", action="append", default=[], help="may be repeated")
    asked = parser.parse_args(arguments)
    gerrit = RealGerrit(asked.site, version=asked.gerrit_version, make_archive=True)
    try:
        if asked.command == "start":
            gerrit.start()
        elif asked.command == "seed":
            gerrit.seed(ci_user=asked.ci_user, full_name=asked.full_name, projects=asked.project)
        elif asked.command == "stop":
            gerrit.kill() if asked.kill else gerrit.stop()
    except (GerritMissing, GerritFailed) as error:
        sys.stderr.write(f"real_gerrit: {error}\n")
        return 1
    _show(gerrit.describe(), as_json=asked.json)
    return 3 if asked.command == "status" and gerrit.pid is None else 0


def _show(known: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(known, indent=1) + "\n")
    else:
        sys.stdout.write("".join(f"{name}: {value}\n" for name, value in known.items()))


if __name__ == "__main__":
    sys.exit(main())
