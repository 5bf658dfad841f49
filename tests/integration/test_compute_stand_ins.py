# SPDX-License-Identifier: Apache-2.0
"""The compute suite where no guest runs: what a stand-in can show, and what it never does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest

from ci.jobs.compute.run import FAILS, NOT_TRIED, WORKS, Order, run
from ci.matrix import report
from ci.model.evidence import Evidence, Shown
from ci.model.feature import Feature
from ci.model.result import Grade
from tests.kit.require import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
require("xenserver", present=find_spec("XenAPI") is not None, why="pip install XenAPI")

from nodes.hypervisors.xenserver import XenServerHypervisor  # noqa: E402
from tests.kit import vcenter, xapi  # noqa: E402
from tests.kit.xapi import XapiPool  # noqa: E402

# What asks the host, the adapter or the interface, and no guest.
ASK_NO_GUEST = ("test_told.py", "test_host.py", "test_declared.py", "::test_guest_info")


@pytest.fixture(scope="module")
def xen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[XapiPool]:
    with xapi.pool(tmp_path_factory.mktemp("xapi")) as made:
        yield made


def words(path: Path) -> dict[str, Evidence]:
    _, found = report.read(path, now=datetime.now(UTC) + timedelta(minutes=1))
    return {one.test_id: one for one in found}


def works(found: dict[str, Evidence]) -> set[str]:
    return {one.feature for one in found.values() if one.shown is Shown.WORKS}


def order(pool: XapiPool, folder: Path, *features: Feature) -> Order:
    return Order(
        hypervisor=pool.url(),
        password=pool.host.password,
        ca_file=pool.host.ca_file,
        grade=Grade.EMULATOR,
        timeout_s=60.0,
        features=frozenset(features),
        report=folder / "report.json",
    )


def test_an_emulator_shows_its_interface_and_nothing_of_guests(xen: XapiPool, tmp_path: Path):
    made = {name: tmp_path / f"x.{name}" for name in ("report", "html", "junit")}
    argv = [sys.executable, "-m", "ci.jobs.compute", "--hypervisor", xen.url("host=xs1")]
    argv += ["--second", xen.url("host=xs2"), "--password-env", "XS_PASSWORD"]
    argv += ["--ca-file", str(xen.host.ca_file), "--grade", "emulator"]
    argv += [word for name, path in made.items() for word in (f"--{name}", str(path))]
    password = xen.host.password()
    environment = {**os.environ, "XS_PASSWORD": password}
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == WORKS, said
    found = words(made["report"])
    assert {one.system.grade for one in found.values()} == {Grade.EMULATOR}
    assert {Feature.LAUNCH, Feature.PAUSE, Feature.SNAPSHOT, Feature.LIVE_MIGRATE} <= works(found)
    asked = {test for test in found if not any(word in test for word in ASK_NO_GUEST)}
    assert {found[test].shown for test in asked} <= {Shown.UNSUPPORTED}
    assert "no guest can be asked" in said
    assert "needs a guest" in said
    page = made["html"].read_text()
    assert "our own stand-in" in page
    assert "No guest was asked" in page
    for text in (said, *(path.read_text() for path in made.values())):
        assert password not in text


def test_a_stand_in_that_does_not_do_what_it_was_told_fails(
    xen: XapiPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(XenServerHypervisor, "suspend", lambda *_: None)
    lines: list[str] = []
    wanted = order(xen, tmp_path, Feature.SUSPEND, Feature.LAUNCH)
    quick = Order(**{**vars(wanted), "timeout_s": 2.0})
    assert run(quick, lines.append) == FAILS, lines
    assert works(words(tmp_path / "report.json")) == {Feature.LAUNCH}


def test_a_wrong_password_is_told_and_tests_nothing(xen: XapiPool, tmp_path: Path):
    lines: list[str] = []
    wrong = Order(**{**vars(order(xen, tmp_path)), "password": lambda: "not-the-password"})
    assert run(wrong, lines.append) == NOT_TRIED
    assert "not tried: " in lines[0]
    assert not (tmp_path / "report.json").exists()


def test_a_simulator_moves_a_guest_that_nobody_asks(tmp_path: Path):
    lines: list[str] = []
    moved = {Feature.LIVE_MIGRATE, Feature.ATTACH_VOLUME}
    with vcenter.simulator(tmp_path) as made:
        wanted = Order(
            hypervisor=made.url,
            password=made.host.password,
            ca_file=made.host.ca_file,
            grade=Grade.SIMULATOR,
            timeout_s=60.0,
            features=frozenset(
                {Feature.LIVE_MIGRATE, Feature.ATTACH_VOLUME, Feature.STORAGE_IMAGE}
            ),
            report=tmp_path / "report.json",
        )
        assert run(wanted, lines.append) == WORKS, lines
    assert works(words(tmp_path / "report.json")) == moved
