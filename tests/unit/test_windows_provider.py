# SPDX-License-Identifier: Apache-2.0
"""What the `windows` provider asks for, and what it says of its nodes."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ci.errors import ConfigError, NodeUnavailable
from ci.model.node import Transport
from nodes.health import preflight
from nodes.holding import login
from nodes.providers.table import driver
from nodes.providers.windows import WindowsOptions, WindowsProvider


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    return file


def provider(tmp_path: Path, **given: Any) -> WindowsProvider:
    known = {"host": "hv01", "user": "CI\\hypervouch", "password": {"from_env": "HV_PASSWORD"}}
    return WindowsProvider(WindowsOptions.model_validate({**known, **given}), tmp_path / "state")


class _Open:
    def close(self) -> None:
        """Nothing is open."""


def test_its_nodes_are_reached_over_winrm(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: _Open())
    made = provider(tmp_path, slots=2, password={"from_file": str(secret)}, certificate="AB" * 32)
    made.prepare()
    endpoint = made.start("windows-2", "b")
    assert (endpoint.transport, endpoint.port) == (Transport.WINRM, 5986)
    assert endpoint.workdir == "C:/hypervouch/work/windows-2"
    assert endpoint.winrm is not None
    assert endpoint.winrm.password_file == secret
    assert "s3cret" not in repr(endpoint)
    assert preflight(endpoint) == {}
    made.stop("windows-2")
    assert driver("windows").Options is WindowsOptions


def test_what_is_missing_is_said_before_the_first_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="HV_PASSWORD"):
        provider(tmp_path).prepare()
    monkeypatch.setenv("HV_PASSWORD", "x")
    with pytest.raises(ConfigError, match="ca-file"):
        provider(tmp_path, ca_file=str(tmp_path / "absent")).prepare()


def test_a_machine_that_is_down_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr("socket.create_connection", refuse)
    with pytest.raises(NodeUnavailable, match="hv01:5986 does not answer") as error:
        provider(tmp_path).start("windows-1", "b")
    assert error.value.retryable


def over_ssh(tmp_path: Path, **given: Any) -> dict[str, Any]:
    for name in ("key", "hosts"):
        (tmp_path / name).write_text("x")
    files = {"key_file": str(tmp_path / "key"), "known_hosts": str(tmp_path / "hosts")}
    return {"password": None, "transport": "ssh", **files, **given}


def test_its_nodes_are_reached_over_openssh_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: _Open())
    made = provider(tmp_path, **over_ssh(tmp_path))
    made.prepare()
    endpoint = made.start("windows-1", "b")
    assert (endpoint.transport, endpoint.port) == (Transport.WINDOWS_SSH, 22)
    assert endpoint.workdir == "C:/hypervouch/work"
    assert (endpoint.key_file, endpoint.winrm) == (tmp_path / "key", None)
    assert preflight(endpoint) == {}
    assert login(endpoint).startswith(f"ssh -i {tmp_path}/key -p 22 ")
    (tmp_path / "hosts").unlink()
    with pytest.raises(ConfigError, match="known-hosts"):
        made.prepare()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"password": {"from_env": "X"}}, "password belongs to transport: winrm"),
        ({"certificate": "ab" * 32}, "certificate belongs to transport: winrm"),
        ({"key_file": None}, "transport: ssh needs key-file"),
        ({"transport": "winrm"}, "key-file, known-hosts belongs to transport: ssh"),
    ],
)
def test_a_key_of_the_other_transport_is_told(
    tmp_path: Path, given: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValidationError, match=text):
        provider(tmp_path, **over_ssh(tmp_path, **given))


@pytest.mark.parametrize(
    "wrong",
    [
        {"workdir": "C:\\ci\\work"},
        {"workdir": "ci/work"},
        {"workdir": "C:/ci/%TEMP%"},
        {"certificate": "abcd"},
        {"auth": "credssp"},
        {"user": ""},
        {"password": "s3cret"},
        {"port": 0},
        {"grade": "emulator"},
    ],
)
def test_a_mistake_is_told_by_the_configuration(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        provider(tmp_path, **wrong)
