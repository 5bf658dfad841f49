# SPDX-License-Identifier: Apache-2.0
"""Whose fault an error of libvirt is, and what `operation` makes of calls."""

import importlib.util
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NoReturn

import pytest

from ci.errors import HypervouchError
from ci.model.feature import Feature
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault, Unsupported
from tests.kit.require import require

require(
    "libvirt",
    present=importlib.util.find_spec("libvirt") is not None,
    why="libvirt-python is not installed",
)

import libvirt  # noqa: E402

from nodes.hypervisors import libvirt_bounded, libvirt_errors  # noqa: E402
from nodes.hypervisors.libvirt_qemu import Aarch64, Ppc64, QemuHypervisor, S390x  # noqa: E402

GUIDE = Path(__file__).parents[2] / "docs/how-to/hypervisor-libvirt.md"


def _error(code: int, message: str) -> libvirt.libvirtError:
    error = libvirt.libvirtError("call failed")
    error.err = (code, 10, message, 2, "", "", "", 0, 0)
    return error


@pytest.mark.parametrize(
    ("code", "message", "kind", "hint"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN, "no domain with matching name", CallerFault, "inventory"),
        (libvirt.VIR_ERR_OPERATION_INVALID, "domain is not running", CallerFault, "state"),
        (libvirt.VIR_ERR_OPERATION_TIMEOUT, "cannot acquire state change lock", TransientFault, ""),
        (libvirt.VIR_ERR_INTERNAL_ERROR, "something odd", NodeFault, "log"),
        (
            libvirt.VIR_ERR_INTERNAL_ERROR,
            (
                "unable to execute QEMU command 'migrate-incoming': "
                "Failed to find an available port: Address already in use"
            ),
            TransientFault,
            "again",
        ),
        (
            libvirt.VIR_ERR_INTERNAL_ERROR,
            (
                "unable to execute QEMU command 'blockdev-add': iSCSI: Failed to connect to LUN : "
                "Failed to log in to target. Status: Authentication failure(513)"
            ),
            CallerFault,
            "secret",
        ),
        (
            libvirt.VIR_ERR_INTERNAL_ERROR,
            (
                "unable to execute QEMU command 'blockdev-add': iSCSI: Failed to connect to LUN : "
                "iscsi_service failed with : Can not reconnect right now."
            ),
            TransientFault,
            "reaches the target",
        ),
        (libvirt.VIR_ERR_SYSTEM_ERROR, "write: No space left on device", NodeFault, "disk"),
        (
            libvirt.VIR_ERR_SYSTEM_ERROR,
            "Failed to connect socket to '/run/x': No such file or directory",
            TransientFault,
            "does not run",
        ),
        (
            libvirt.VIR_ERR_SYSTEM_ERROR,
            "Failed to connect socket to '/run/x': Connection refused",
            TransientFault,
            "died",
        ),
        (
            libvirt.VIR_ERR_SYSTEM_ERROR,
            "Cannot recv data: Host key verification failed.: Connection reset by peer",
            NodeFault,
            "host key",
        ),
        (
            libvirt.VIR_ERR_SYSTEM_ERROR,
            "End of file while reading data: root@h: Permission denied (publickey).: I/O error",
            NodeFault,
            "key-file",
        ),
        (
            libvirt.VIR_ERR_INTERNAL_ERROR,
            "client socket is closed",
            TransientFault,
            "libvirtd",
        ),
        (libvirt.VIR_ERR_AGENT_UNRESPONSIVE, "agent is not connected", TransientFault, "agent"),
        (
            libvirt.VIR_ERR_INTERNAL_ERROR,
            "qemu-img: /disks/hv-v: Unable to get accurate CPU usage",
            TransientFault,
            "busy",
        ),
    ],
)
def test_whose_fault_it_is(code: int, message: str, kind: type[HypervouchError], hint: str) -> None:
    told = libvirt_errors.fault(_error(code, message), "pause hv-a")
    assert type(told) is kind
    assert message in str(told)  # libvirt's own words are always there
    assert "pause hv-a" in str(told)
    assert hint in str(told)
    assert getattr(told, "retryable", False) is (kind is TransientFault)


def test_unsupported_is_data_where_a_feature_is_asked() -> None:
    error = _error(libvirt.VIR_ERR_NO_SUPPORT, "this function is not supported: virDomainReset")
    told = libvirt_errors.fault(error, "reboot hv-a", Feature.REBOOT)
    assert isinstance(told, Unsupported)
    assert "virDomainReset" in told.reason
    assert isinstance(libvirt_errors.fault(error, "look"), CallerFault)


@pytest.mark.parametrize(
    "words",
    [
        "operation failed: Unable to find any firmware to satisfy 'efi'",
        "Path '/usr/share/ovmf/OVMF.fd' is not accessible: No such file or directory",
    ],
)
def test_firmware_that_is_not_installed_shows_nothing_and_breaks_nothing(words: str) -> None:
    told = libvirt_errors.fault(
        _error(libvirt.VIR_ERR_OPERATION_FAILED, words), "launch hv-a", Feature.LAUNCH
    )
    assert isinstance(told, CallerFault)
    assert words in told.message
    assert "ovmf" in told.hint


class _Host:
    missing: ClassVar[Mapping[Feature, str]] = {Feature.SUSPEND: "the driver has none"}
    url = "test:///"
    timeout_s = 0.05

    def __init__(self) -> None:
        self.calls = 0
        self.over = threading.Event()

    def cannot(self, feature: Feature) -> NoReturn:
        raise Unsupported(feature, self.missing[feature])

    @libvirt_bounded.operation(Feature.SUSPEND)
    def suspend(self, name: str) -> None:
        self.calls += 1

    @libvirt_bounded.operation(Feature.PAUSE)
    def pause(self, name: str) -> None:
        raise _error(libvirt.VIR_ERR_NO_DOMAIN, f"no domain {name}")

    @libvirt_bounded.operation(Feature.UNPAUSE)
    def unpause(self, name: str) -> None:
        self.over.wait(10)

    @libvirt_bounded.operation()
    def twice(self, name: str) -> str:
        return f"{name}, {threading.current_thread().name}, {self.once()}"

    @libvirt_bounded.operation()
    def once(self) -> str:
        return threading.current_thread().name


def test_what_is_missing_is_said_before_anything_is_tried() -> None:
    host = _Host()
    with pytest.raises(Unsupported, match="the driver has none"):
        host.suspend("hv-a")
    assert host.calls == 0


def test_an_operations_error_says_what_was_done_and_where() -> None:
    with pytest.raises(CallerFault, match="cannot pause hv-a on test:///: no domain hv-a"):
        _Host().pause("hv-a")


def test_a_call_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt_bounded, "GRACE_S", 0.0)
    host = _Host()
    with pytest.raises(TransientFault, match="cannot unpause hv-a on test:///: no answer"):
        host.unpause("hv-a")
    host.over.set()


def test_an_operation_inside_another_stays_in_its_thread() -> None:
    name, outer, inner = _Host().twice("hv-a").split(", ")
    assert name == "hv-a"
    assert outer == inner == "libvirt-call"


def test_the_guide_gives_every_reason_why_something_is_missing() -> None:
    guide = GUIDE.read_text()
    for adapter in (QemuHypervisor, S390x, Ppc64, Aarch64):
        for feature, reason in adapter.missing.items():
            assert f"| `{feature}` | {reason} |" in guide
