# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the fixtures of the kit, and an account of what was skipped."""

import gc
import signal
from collections import Counter
from collections.abc import Generator, Iterable

import pytest
from hypothesis import settings

# No deadline: the machines are noisy. No database: a run leaves nothing behind.
settings.register_profile("house", deadline=None, database=None, print_blob=True)
settings.load_profile("house")

# A shell that starts the tests in the background has them ignore it, and so all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.kit.fixtures", "tests.kit.databases", "tests.kit.libvirt_hosts"]
pytest_plugins += ["tests.kit.containers", "tests.kit.nested_nodes", "tests.kit.node_sources"]

HYPERVISORS = {
    *("test_container.py", "test_demo_lab.py", "test_engines.py", "test_hypervisor.py"),
    *("test_hypervisor_faults.py", "test_providers.py", "test_held_nodes.py"),
    *("test_lab.py", "test_libvirt.py", "test_libvirt_lxc.py", "test_nested_kvm.py"),
    *("test_node_care.py", "test_provider.py", "test_provider_killed.py", "test_uml.py"),
    *("test_xen.py", "test_compute_suite.py", "test_compute.py"),
}
"""Modules that boot guests of real hypervisors: `-m hypervisor` runs them alone."""
STAND_INS = {
    *("test_vcenter.py", "test_vcenter_faults.py", "test_vcenter_gaps.py"),
    *("test_vcenter_guests.py", "test_xenserver.py", "test_xenserver_faults.py", "test_hyperv.py"),
    *("test_zvm.py", "test_ironic.py", "test_redfish.py", "test_windows_nodes.py"),
    *("test_compute_stand_ins.py", "test_compute_api.py", "test_node_care_api.py"),
    *("test_api_hypervisors.py", "test_api_faults.py", "test_replay.py"),
    "test_modelled_hypervisors.py",
}
"""Modules that speak to what stands in for a hypervisor's API: `-m stand_in` runs them alone."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Load modules and tests, which stay to the end, out of the garbage collector's sight.

    To look through all of them again and again is a fifth of what the tests cost.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what takes hypervisors, and what takes their stand-ins."""
    for item in items:
        if item.path.parent.name == "unit":
            continue
        if item.path.name in HYPERVISORS:
            item.add_marker(pytest.mark.hypervisor)
        elif item.path.name in STAND_INS:
            item.add_marker(pytest.mark.stand_in)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end what was missing, and how many tests that cost."""
    counts = Counter(_reasons(terminalreporter.getreports("skipped")))
    if counts:
        terminalreporter.section("missing on this machine")
    for reason, count in counts.most_common():
        tests = "1 test" if count == 1 else f"{count} tests"
        terminalreporter.write_line(f"missing: {reason} ({tests} skipped)")


def _reasons(reports: Iterable[pytest.TestReport]) -> Iterable[str]:
    for report in reports:
        # Of a skip, pytest keeps (file, line, reason); an expected failure has no such triple.
        if isinstance(report.longrepr, tuple):
            yield report.longrepr[2].removeprefix("Skipped: ")
