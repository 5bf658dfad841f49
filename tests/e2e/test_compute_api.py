# SPDX-License-Identifier: Apache-2.0
"""The compute suite through the whole CI and a real Gerrit, on vCenter's simulator.

The password is a variable of the service. It must come to the suite, and nowhere else.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ci.sandbox.author import Pusher
from ci.sandbox.real.server import RealGerrit
from tests.kit import vcenter
from tests.kit.installation import Installation
from tests.kit.vcenter import Simulator

APIS = "HYPERVOUCH_APIS"
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not os.environ.get(APIS), reason=f"set {APIS}: it takes a minute"),
]

SUITE_S = 180.0
VARIABLE = "VCENTER_PASSWORD"
FEATURES = ("operation.launch", "operation.suspend", "operation.live-migrate")


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    with vcenter.simulator(tmp_path) as made:
        yield made


def test_its_vote_has_the_grade_of_a_simulator_and_its_password_is_nowhere(
    real_gerrit: RealGerrit, simulator: Simulator, tmp_path: Path
):
    project = f"api-{time.time_ns()}"
    real_gerrit.create_project(project)
    author = Pusher(real_gerrit.admin, project, tmp_path / "author")
    author.push_branch({"driver.py": "A = 1\n"}, subject="Base")
    node = {
        "name": "vc",
        "driver": "local",
        "label": "vc",
        "hypervisor": simulator.url,
        "grade": "simulator",
        "hypervisor-password": {"from-env": VARIABLE},
        "hypervisor-ca-file": str(simulator.host.ca_file),
    }
    job = {"suite": "compute", "features": list(FEATURES), "node-label": "vc", "timeout-s": SUITE_S}
    job |= {"run": None, "results": None, "irrelevant-files": None}
    password = simulator.host.password()
    ci = Installation(
        real_gerrit.ci,
        tmp_path / "ci",
        project,
        job=job,
        items=[{"provider": node}],
        environment={VARIABLE: password},
    )
    ci.start()
    try:
        change = author.push_change("Change the driver", {"driver.py": "A = 2\n"})
        said = ci.wait_for_comments(author, change, seconds=SUITE_S)
        assert said.vote == 1, said
        assert "simulator" in said.comments[0]
        build = ci.builds(change)[0]
        log = httpx.get(f"{ci.url}builds/{build['id']}/log", trust_env=False).text
        assert "works" in log
        assert "vCenter" in log
        for text in (log, *said.comments):
            assert password not in text
    finally:
        ci.stop()
    kept = [path for path in (tmp_path / "ci").rglob("*") if path.is_file()]
    assert not [path for path in kept if password.encode() in path.read_bytes()]
