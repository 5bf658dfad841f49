# SPDX-License-Identifier: Apache-2.0
"""The review servers that keep one contract: the sandbox, and two releases of the real one."""

from pathlib import Path

import pytest

from tests.kit.review_scene import Host, Scene

REAL = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(
    params=[
        "sandbox_host",
        pytest.param("real_gerrit", marks=REAL),
        pytest.param("real_gerrit_313", marks=REAL),
    ]
)
def review_host(request: pytest.FixtureRequest) -> Host:
    """Each of them in turn."""
    server: Host = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def scene(review_host: Host, tmp_path: Path) -> Scene:
    """A fresh project there."""
    return Scene(review_host, tmp_path)
