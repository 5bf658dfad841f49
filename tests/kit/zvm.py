# SPDX-License-Identifier: Apache-2.0
"""IBM's connector over a model of z/VM, and adapters that are connected to it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ci.model.result import Grade
from nodes.hypervisors.base import Access
from nodes.hypervisors.zvm import ZvmHypervisor, connect
from nodes.lab.apis import ApiHost, Program


@dataclass(frozen=True)
class Connector:
    """One that runs."""

    host: ApiHost
    url: str

    def access(self, work: Path, **other: object) -> Access:
        """What a connection needs."""
        known = {
            "work": work,
            "grade": Grade.SIMULATOR,
            "password": self.host.password(),
            "ca_file": self.host.ca_file,
            "timeout_s": 120.0,
        }
        return Access(**{**known, **other})  # type: ignore[arg-type]

    @contextmanager
    def opened(self, work: Path) -> Iterator[ZvmHypervisor]:
        """A connection that is closed."""
        made = connect(self.url, self.access(work))
        try:
            yield made
        finally:
            made.close()


@contextmanager
def connector(folder: Path) -> Iterator[Connector]:
    """A stand-in that ends with the test."""
    host = ApiHost(folder)
    argv = [sys.executable, "-m", "nodes.stand_ins.zvm"]
    argv += ["--certificate", str(host.ca_file), "--key", str(host.key_file)]
    root = str(Path(__file__).parents[2])
    with host.running(Program(argv=argv, env={"PYTHONPATH": root})) as said:
        yield Connector(host, str(said["url"]))
