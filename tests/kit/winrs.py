# SPDX-License-Identifier: Apache-2.0
"""A stand-in of a Windows machine's remote shells, and an endpoint on it."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from ci.model.node import Endpoint, Transport, WinrmLogin
from ci.model.result import Grade
from nodes.lab.apis import USER, ApiHost, Program


@dataclass(frozen=True)
class Winrs:
    """One that runs."""

    host: ApiHost
    url: str
    pid: int

    def endpoint(self, workdir: Path, **login: Any) -> Endpoint:
        """A node with that work directory."""
        known = {"password_file": self.host.password_file, "ca_file": self.host.ca_file}
        return Endpoint(
            transport=Transport.WINRM,
            port=urlsplit(self.url).port or 0,
            user=USER,
            workdir=str(workdir),
            grade=Grade.EMULATOR,
            winrm=WinrmLogin(**{"auth": "basic", **known, **login}),
        )

    def misbehave(self, **rule: Any) -> None:
        """Let answers fail; without a rule, no more."""
        answer = requests.post(
            f"{self.url}/faults",
            data=json.dumps(rule),
            headers={"X-Password": self.host.password()},
            verify=str(self.host.ca_file),
            timeout=30,
        )
        answer.raise_for_status()


@contextmanager
def running(folder: Path) -> Iterator[Winrs]:
    """A stand-in that ends with the test."""
    host = ApiHost(folder)
    argv = [sys.executable, "-m", "nodes.stand_ins.winrs", "--user", USER]
    argv += ["--certificate", str(host.ca_file), "--key", str(host.key_file)]
    root = str(Path(__file__).parents[2])
    with host.running(Program(argv=argv, env={"PYTHONPATH": root})) as said:
        yield Winrs(host, str(said["url"]), int(said["pid"]))
