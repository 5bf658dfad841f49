# SPDX-License-Identifier: Apache-2.0
"""How a provider hands on what logs in to a hypervisor's API: a path, never the password."""

import stat
from pathlib import Path

import pytest
from pydantic import ValidationError

from ci.errors import ConfigError
from nodes.providers.local import LocalOptions, LocalProvider

SECRET = "open-sesame-4711"


def provider(folder: Path, **more: object) -> LocalProvider:
    url = "vcenter://ci@vc.example.org/DC/C"
    options = LocalOptions.model_validate({"hypervisor": url, "grade": "simulator", **more})
    return LocalProvider(options, folder)


def test_a_password_of_the_environment_is_in_a_file_that_only_we_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("VC_PASSWORD", SECRET)
    digest = ":".join(["AB"] * 32)
    made = provider(
        tmp_path,
        **{"hypervisor-password": {"from-env": "VC_PASSWORD"}, "hypervisor-certificate": digest},
    )
    made.prepare()
    for _ in range(2):
        endpoint = made.start("local-1", "holder")
    assert endpoint.password_file is not None
    assert endpoint.password_file.read_text() == SECRET
    assert stat.S_IMODE(endpoint.password_file.stat().st_mode) == 0o600
    assert SECRET not in repr(endpoint)
    assert endpoint.marks == tmp_path / "local-1.marks"
    assert endpoint.certificate == "ab" * 32
    made.stop("local-1")
    made.stop("local-1")
    assert not list(tmp_path.rglob("*"))


def test_a_password_in_a_file_stays_there(tmp_path: Path):
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    made = provider(tmp_path / "state", **{"hypervisor-password": {"from-file": str(file)}})
    assert made.start("local-1", "holder").password_file == file
    made.stop("local-1")
    assert file.exists()


@pytest.mark.parametrize(
    "more",
    [
        {"hypervisor-password": {"from-env": "NOWHERE_TO_BE_FOUND"}},
        {"hypervisor-ca-file": "/nowhere/ca.pem"},
    ],
)
def test_what_is_not_there_is_told_before_a_node_is_used(more: dict[str, object], tmp_path: Path):
    with pytest.raises(ConfigError):
        provider(tmp_path, **more).prepare()


@pytest.mark.parametrize("digest", ["abc", "g" * 64, "ab" * 33])
def test_a_pin_that_is_none_is_refused(digest: str, tmp_path: Path):
    with pytest.raises(ValidationError):
        provider(tmp_path, **{"hypervisor-certificate": digest})
