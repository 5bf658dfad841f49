# SPDX-License-Identifier: Apache-2.0
"""Runs `hypervouch serve` as a contender, on a configuration written for one Gerrit.

Also a program, for harnesses that compare CIs by shell commands:
`python -m tests.bench.ours start|kill|stop|pids --gerrit FILE.json --dir DIR`.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import yaml

from ci.sandbox.account import ReviewServer
from ci.sandbox.real.site import free_port
from tests.bench.contender import account, end, gone, kill_tree, launch, projects
from tests.bench.meter import tree

READY_S = 60.0
PASSWORD_VARIABLE = "BENCH_GERRIT_PASSWORD"


class NotReady(Exception):
    """`hypervouch serve` ended, or did not answer in time."""


class Ours:
    """Hypervouch in one process, with a local provider: no isolation, as the floor has none.

    Args:
        server: Gerrit, seen by the contender's account.
        directory: For configuration, state, output and pid; made.
        slots: Jobs that may run at once.
        triggers: What starts a build; by default what does without being configured.
        further: Items of configuration besides.
    """

    name = "ours"
    durable = True

    def __init__(
        self,
        server: ReviewServer,
        directory: Path,
        *,
        slots: int = 4,
        triggers: Sequence[str] = (),
        further: Sequence[dict[str, Any]] = (),
    ) -> None:
        self._server = server
        self._directory = directory.absolute()
        self._slots = slots
        self._triggers = list(triggers)
        self._further = further
        self._pid_file = self._directory / "pid"
        self.log = self._directory / "ours.log"
        self.state_dir = self._directory / "state"
        (self._directory / "config").mkdir(parents=True, exist_ok=True)

    def start(self) -> None:
        """Start it, and return once its page answers.

        Raises:
            NotReady: It does not; its output is in the message.
        """
        port = free_port()
        config = self._directory / "config" / "bench.yaml"
        config.write_text(yaml.safe_dump(self._configuration(port), sort_keys=False))
        argv = [sys.executable, "-m", "ci.cli", "serve", "--config", str(config)]
        env = {PASSWORD_VARIABLE: self._server.password, "PYTHONPATH": str(_ROOT)}
        process = launch(argv, self.log, env)
        self._pid_file.write_text(str(process.pid))
        deadline = time.monotonic() + READY_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise NotReady(f"hypervouch serve: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it cleanly."""
        for pid in self.pids():
            end(pid)
        self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """Kill it with everything that it started."""
        for pid in self.pids():
            kill_tree(pid)
            gone(pid, 10)
        self._pid_file.unlink(missing_ok=True)

    def pids(self) -> list[int]:
        """Its one root process."""
        try:
            pid = int(self._pid_file.read_text())
        except (OSError, ValueError):
            return []
        return [pid] if tree([pid]) else []

    @staticmethod
    def connection(server: ReviewServer) -> dict[str, Any]:
        """What the configuration says of a server."""
        return {
            "name": "gerrit",
            "server": server.host,
            "port": server.ssh_port,
            "user": server.user,
            "key-file": str(server.key_file),
            "known-hosts": str(server.known_hosts),
            "url": f"{server.url}/",
            "password": {"from-env": PASSWORD_VARIABLE},
        }

    def _configuration(self, port: int) -> list[dict[str, Any]]:
        service = {
            "state-dir": str(self.state_dir),
            "url": f"http://127.0.0.1:{port}/",
            "listen": f"127.0.0.1:{port}",
            "worker-slots": self._slots,
        }
        provider = {"name": "here", "driver": "local", "label": "bench", "slots": self._slots}
        pipeline: dict[str, Any] = {"name": "check", "connection": "gerrit", "policy": "vote"}
        if self._triggers:
            pipeline["trigger"] = self._triggers
        items: list[dict[str, Any]] = [
            {"hypervouch": service},
            {"connection": self.connection(self._server)},
            {"pipeline": pipeline},
            {"provider": provider},
            *self._further,
        ]
        for project, command in projects(self.name).items():
            job = {"name": project, "suite": "shell", "run": command}
            items += [
                {"job": {**job, "node-label": "bench", "trusted": True}},
                {"project": {"name": project, "check": {"jobs": [project]}}},
            ]
        return items


_ROOT = Path(__file__).parents[2]


def _answers(port: int) -> bool:
    # Another tenant's proxy settings must not stand between us and loopback.
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/healthz", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _server_of(gerrit: Path) -> ReviewServer:
    """Gerrit as `python -m ci.sandbox.real.server status --json` describes it."""
    known = json.loads(gerrit.read_text())
    keys = Path(known["admin_key"]).parent
    return ReviewServer(
        host=known["host"],
        ssh_port=known["ssh_port"],
        url=known["url"],
        user=account(Ours.name),
        key_file=keys / account(Ours.name),
        password=known.get("ci_password") or known["admin_password"],
        known_hosts=Path(known["known_hosts"]),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """One command; `pids` prints the root process."""
    parser = argparse.ArgumentParser(prog="tests.bench.ours", description=__doc__)
    parser.add_argument("command", choices=("start", "kill", "stop", "pids"))
    parser.add_argument("--gerrit", type=Path, required=True, help="where Gerrit is, as JSON")
    parser.add_argument("--dir", type=Path, required=True, help="configuration, state and log")
    parser.add_argument("--slots", type=int, default=4)
    asked = parser.parse_args(arguments)
    ours = Ours(_server_of(asked.gerrit), asked.dir, slots=asked.slots)
    if asked.command == "pids":
        sys.stdout.write("".join(f"ours:{pid}\n" for pid in ours.pids()))
        return 0
    try:
        {"start": ours.start, "kill": ours.kill, "stop": ours.stop}[asked.command]()
    except NotReady as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
