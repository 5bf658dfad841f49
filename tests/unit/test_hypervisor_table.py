# SPDX-License-Identifier: Apache-2.0
"""Which adapter a URL leads to: a wrong one is the operator's to mend, never a test that failed."""

from pathlib import Path

import pytest

from ci.errors import ConfigError
from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.table import connect


@pytest.mark.parametrize("url", ["", "qemu", "/system", "://", "qemu://[::1/system", "\0"])
def test_what_is_no_url_is_told(tmp_path: Path, url: str):
    with pytest.raises(CallerFault, match="no URL"):
        connect(url, Access(work=tmp_path))


def test_a_hypervisor_that_nobody_knows_is_told_with_those_that_are_known(tmp_path: Path):
    with pytest.raises(ConfigError, match="no hypervisor driver nonsense") as told:
        connect("nonsense+ssh://host/system", Access(work=tmp_path))
    assert "docker" in told.value.hint
