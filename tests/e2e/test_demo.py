# SPDX-License-Identifier: Apache-2.0
"""`hypervouch demo` as a newcomer runs it: real QEMU guests, a real browser on its pages.

Where HYPERVOUCH_SCREENSHOTS names a directory, the pictures of the documents are left there.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from nodes.images.build import missing_tools
from tests.kit import browser as chromium
from tests.kit.require import require

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
LIMIT_S = 780.0
DEBIAN_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
PICTURE_PX = 1500


@dataclass
class Demo:
    """A running demo: its process, what it has printed, and where its page is."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def said(self) -> str:
        """Everything on its screen so far."""
        return self.output.read_text()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until it prints something."""
        deadline = time.monotonic() + LIMIT_S
        while (found := re.search(pattern, self.said)) is None:
            ended = self.process.poll() is not None
            assert not ended, f"the demo ended: {self.said[-3000:]}"
            assert time.monotonic() < deadline, f"no {pattern!r} in: {self.said[-3000:]}"
            time.sleep(0.3)
        return found


@contextmanager
def demo(tmp_path: Path, *options: str) -> Iterator[Demo]:
    """Start the demo; end it by SIGINT, as Ctrl-C does.

    Debian's own programs must do: its python3 has no pytest.
    """
    output = tmp_path / "screen"
    with output.open("wb") as screen:
        process = subprocess.Popen(
            [sys.executable, "-m", "ci.cli", "demo", "--port", "0", *options],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(tmp_path), "PATH": DEBIAN_PATH},
            stdin=subprocess.DEVNULL,
            stdout=screen,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Demo(process=process, output=output)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def test_on_qemu_the_expected_votes_come_and_the_page_shows_why(tmp_path: Path):
    lacking = missing_tools()
    require("qemu", present=not lacking, why=f"not installed: {', '.join(lacking)}")
    absent = chromium.missing()
    require("chromium", present=not absent, why=f"not installed: {absent}")
    with demo(tmp_path, "--hypervisor", "qemu") as running:
        url = running.wait_for(r"Page: (http://\S+)").group(1)
        running.wait_for(r"Exactly the expected 4 votes are in")
        build = failing_build(url)
        with chromium.browser(tmp_path / "chromium") as window:
            look_at(window, url, build)
    assert running.process.returncode == 0
    assert "evidence is nested" in running.said
    assert "Traceback" not in running.said
    assert not list(tmp_path.glob("hypervouch-demo-*")), "the demo's directory was left behind"


def failing_build(url: str) -> dict[str, Any]:
    """The first run of the change that breaks resume."""
    reply = httpx.get(f"{url}builds.json?result=FAILURE", trust_env=False).json()
    build: dict[str, Any] = reply["builds"][-1]
    return build


def look_at(window: chromium.Browser, url: str, build: dict[str, Any]) -> None:
    """The page of a failing build: verdict first, the test by name, its evidence's grade."""
    assert build["grade"] == "nested"
    window.open(f"{url}builds/{build['id']}")
    text = window.run("return document.body.innerText")
    for expected in (
        "test_resume_continues_the_same_counter",
        "the guest lost its memory",
        "nested",
        "baseline",
        "repeat",
    ):
        assert expected in text
    assert text.index("his patch breaks 1 test") < text.index("the guest lost its memory")
    assert window.complaints() == []
    keep(window, "build-page.png")
    window.open(url)
    assert "acme-virt" in window.run("return document.body.innerText")
    keep(window, "status-page.png")


def keep(window: chromium.Browser, name: str) -> None:
    """Leave a picture for the documents where somebody asked for it."""
    folder = os.environ.get("HYPERVOUCH_SCREENSHOTS")
    if folder:
        window.picture(Path(folder) / name, tallest=PICTURE_PX)


def test_without_a_hypervisor_every_line_says_emulator(tmp_path: Path):
    with demo(tmp_path, "--hypervisor", "emulator", "--once") as running:
        deadline = time.monotonic() + LIMIT_S
        while running.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.3)
    assert running.process.returncode == 0, running.said[-3000:]
    assert "it proves no hypervisor" in running.said
    builds = [
        line for line in running.said.splitlines() if re.match(r"\d+ .* on emulator-\d", line)
    ]
    assert builds
    assert all("[emulator]" in line or "[none]" in line for line in builds)
