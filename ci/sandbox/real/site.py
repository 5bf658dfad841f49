# SPDX-License-Identifier: Apache-2.0
"""A Gerrit site on disk: its config, keys and process id; and the command lines that serve it."""

import json
import os
import re
import shutil
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ci import proc
from ci.proc import start_tick
from ci.sandbox.real.jars import GerritFailed, Java
from ci.sandbox.real.releases import DEFAULT

HOST = "127.0.0.1"
LAUNCHER = "com.google.gerrit.launcher.GerritLauncher"
HEAP = "512m"
# Java 17 crashed (SIGSEGV in load_shared_lambda_proxy_class) on lambdas out of a dynamic class
# archive; with this it neither stores nor looks for them there, and keeps the rest.
NO_ARCHIVED_LAMBDAS = "-Djdk.internal.lambda.disableEagerInitialization=true"


@dataclass(frozen=True, kw_only=True)
class SiteState:
    """What a site remembers once its init has succeeded."""

    ssh_port: int
    http_port: int
    ci_user: str = ""
    version: str = DEFAULT.version


def free_port() -> int:
    """A TCP port on the loopback address that nobody holds now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class Site:
    """The directory of one server.

    Args:
        path: Made on the first start; refused when it holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.etc = self.path / "etc"
        self.keys = self.path / "keys"
        self.log = self.path / "logs" / "console.log"
        self.known_hosts = self.keys / "known_hosts"
        self._state = self.path / "real-gerrit.json"
        self._pid_file = self.path / "real-gerrit.pid"

    @property
    def lock_file(self) -> Path:
        """Locked by whoever starts or stops the server."""
        if self.path.is_dir() and any(self.path.iterdir()) and not self._lock_path.exists():
            raise GerritFailed(f"{self.path} holds something else than a Gerrit site of the tests")
        self.path.mkdir(parents=True, exist_ok=True)
        return self._lock_path

    @property
    def _lock_path(self) -> Path:
        return self.path / ".real-gerrit.lock"

    def load(self) -> SiteState | None:
        """The state; None before init has succeeded."""
        try:
            return SiteState(**json.loads(self._state.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, state: SiteState) -> None:
        """Remember the state, all or nothing."""
        fresh = self._state.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(state)))
        fresh.replace(self._state)

    def pid(self) -> int | None:
        """The server's process id if that very process still lives."""
        try:
            pid, born = self._pid_file.read_text().split()
        except (OSError, ValueError):
            return None
        return int(pid) if start_tick(int(pid)) == born else None

    def record_pid(self, pid: int | None) -> None:
        """Remember the running server, or that there is none."""
        if pid is None:
            self._pid_file.unlink(missing_ok=True)
        else:
            self._pid_file.write_text(f"{pid} {start_tick(pid)}")

    def make_key(self, name: str) -> Path:
        """An ed25519 key under `keys/`, made the first time."""
        return make_key(self.keys / name)

    def write_known_hosts(self, ssh_port: int) -> None:
        """List the server's host keys as an SSH client wants them."""
        lines = [
            f"[{HOST}]:{ssh_port} {' '.join(public.read_text().split()[:2])}\n"
            for public in sorted(self.etc.glob("ssh_host_*_key.pub"))
        ]
        self.known_hosts.write_text("".join(lines))

    def log_end(self, lines: int = 15) -> str:
        """The last lines of the console log."""
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def clear(self) -> None:
        """Remove what an init that was cut off left behind."""
        for old in self.path.iterdir():
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            elif old != self._lock_path:
                old.unlink()
        for sub in ("etc", "logs", "tmp", "home/.ssh"):
            (self.path / sub).mkdir(parents=True, exist_ok=True)


def make_key(path: Path) -> Path:
    """An ed25519 key without a passphrase at `path`, its public half beside it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        comment = f"{path.name}@example.com"
        proc.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
    return path


def java_command(site: Site, java: Java, jars: list[Path], *options: str) -> list[str]:
    """Java with Gerrit's launcher as its program; the caller appends the launcher's arguments."""
    return [
        str(java.executable),
        f"-Xmx{HEAP}",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Djava.awt.headless=true",
        NO_ARCHIVED_LAMBDAS,
        f"-Duser.home={site.path / 'home'}",
        f"-Djava.io.tmpdir={site.path / 'tmp'}",
        *options,
        "-cp",
        os.pathsep.join(str(jar) for jar in jars),
        LAUNCHER,
    ]


def server_environment(site: Site) -> Mapping[str, str]:
    """Our environment without what would leak the user's git or Java settings into the server."""
    foreign = re.compile(r"GIT_.*|JAVA_TOOL_OPTIONS|_JAVA_OPTIONS")
    blank = {name: "" for name in os.environ if foreign.fullmatch(name)}
    home = site.path / "home"
    return {**os.environ, **blank, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}


def initialise(site: Site, java: Java, jars: list[Path], lock_fd: int, state: SiteState) -> None:
    """Make a new site with an administrator who has a key.

    Raises:
        GerritFailed: The init program failed.
    """
    site.clear()
    key = site.make_key("admin")
    # Gerrit's init gives the first account the key that it finds under this name.
    shutil.copy(f"{key}.pub", site.path / "home" / ".ssh" / "id_rsa.pub")
    (site.etc / "gerrit.config").write_text(_config(state))
    done = proc.run(
        [
            *java_command(site, java, jars),
            *("init", "-d", str(site.path), "--batch", "--no-auto-start", "--dev"),
        ],
        env=server_environment(site),
        timeout_s=300,
        check=False,
        keep_open=[lock_fd],  # should we be killed, the lock lasts until init ends
    )
    said = done.text + done.stderr.decode("utf-8", "replace")
    (site.path / "logs" / "init.log").write_text(said)
    if done.status != 0 or not (site.path / "git" / "All-Projects.git").is_dir():
        end = "\n".join(said.splitlines()[-15:])
        raise GerritFailed(f"Gerrit's init failed:\n{end}")
    (site.path / "bin" / "gerrit.war").unlink(missing_ok=True)  # a 60 MB copy of a cached jar
    site.save(state)


def _config(state: SiteState) -> str:
    # Lucene commits at once, so that a server killed with -9 still finds its changes by search.
    indexes = "".join(
        f'[index "{name}"]\n\tcommitWithin = 0\n'
        for name in ("changes_open", "changes_closed", "accounts", "groups", "projects")
    )
    return f"""[gerrit]
	basePath = git
	canonicalWebUrl = http://{HOST}:{state.http_port}/
[httpd]
	listenUrl = http://{HOST}:{state.http_port}/
[sshd]
	listenAddress = {HOST}:{state.ssh_port}
	advertisedAddress = {HOST}:{state.ssh_port}
	threads = 8
[auth]
	type = DEVELOPMENT_BECOME_ANY_ACCOUNT
[sendemail]
	enable = false
[index]
	type = lucene
{indexes}"""
