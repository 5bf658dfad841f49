# SPDX-License-Identifier: Apache-2.0
"""A log store that is away, slow, broken or refuses us: no build fails for it, nothing is lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.clock import FakeClock
from ci.collect import ConsoleLog, LogStore
from ci.disk_guard import MIB, DiskGuard
from ci.doctor import _log_store, _try
from ci.errors import ConfigError, StorageError
from ci.layout import Layout, Service
from ci.log_keeping import LogKeeping
from ci.log_mirror import Mirror
from ci.log_publish import SEGMENT_BYTES, Publisher
from ci.log_shelf import Shelf, open_shelf
from tests.kit.core import database_in, layout
from tests.kit.faulty_http import FaultyHttp, Rule
from tests.kit.s3 import S3Server
from webui.logs import LogFiles

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


class Behind:
    """A bucket behind faults, a worker that publishes to it, a reader elsewhere."""

    def __init__(self, http: FaultyHttp, bucket: str, folder: Path) -> None:
        self.http, self.clock = http, FakeClock()
        self.service = service(folder, http.url, bucket)
        self.shelf = opened(self.service)
        self.publisher = Publisher(folder / "spool", self.shelf, self.clock)
        self.store = LogStore(folder / "spool", 1 << 30, 0, self.clock, self.publisher)
        mirror = Mirror(folder / "reader", self.shelf, 1 << 30, self.clock)
        self.pages = LogFiles(folder / "reader", mirror)

    def text(self) -> str:
        self.clock.advance(11)
        found = self.pages.console("b1", "a1")
        return found.read_text() if found else ""


def service(folder: Path, endpoint: str, bucket: str) -> Service:
    key = {"from-env": "S3_KEY"}
    return Service.model_validate(
        {
            "state-dir": str(folder),
            "log-store": f"s3://{bucket}/logs",
            "log-store-options": {
                "endpoint": endpoint,
                "access-key-id": key,
                "secret-access-key": key,
            },
        }
    )


def opened(given: Service) -> Shelf:
    shelf = open_shelf(given)
    assert shelf is not None
    return shelf


@pytest.fixture
def behind(s3: S3Server, tmp_path: Path, monkeypatch) -> Iterator[Behind]:
    monkeypatch.setenv("S3_KEY", "sesame-secret")
    with FaultyHttp(s3.url) as http:
        yield Behind(http, s3.make_bucket(), tmp_path)


def with_service(given: Service) -> Layout:
    return layout().model_copy(update={"service": given})


def test_a_store_that_goes_down_in_the_middle_costs_nothing(behind: Behind):
    console = behind.store.open_console("b1", "a1")
    console.write(b"x" * SEGMENT_BYTES + b"\n")
    behind.publisher.follow()
    assert behind.text() == console.path.read_text()
    behind.http.down()
    console.write(b"while it was down\n" * 100_000)
    with pytest.raises(StorageError) as caught:
        behind.publisher.follow()
    assert caught.value.retryable
    console.close()  # the build ends as if nothing was wrong
    assert not behind.publisher.publish_owed()
    assert "1 attempts wait" in behind.publisher.trouble
    assert behind.text()  # what was read before is still shown
    behind.http.up()
    assert behind.publisher.publish_owed()
    assert behind.publisher.trouble == ""
    assert behind.text() == console.path.read_text()


@pytest.mark.parametrize(
    "rule",
    [
        Rule(status=503, count=0),
        Rule(status=500, path="console.log", count=0),
        Rule(method="PUT", drop_reply=True, count=0),
    ],
    ids=["503", "500 for one file", "no replies"],
)
def test_errors_are_waited_for(behind: Behind, rule: Rule, monkeypatch: pytest.MonkeyPatch):
    with behind.store.open_console("b1", "a1") as console:
        console.write(b"hello\n")
    behind.http.add(rule)
    assert not behind.publisher.publish_owed()
    behind.http.clear()
    assert behind.publisher.publish_owed()
    assert behind.text() == console.path.read_text()


def test_a_slow_store_keeps_no_attempt_waiting(behind: Behind):
    behind.http.add(Rule(stall_s=1.0, count=1))
    began = time.monotonic()
    with behind.store.open_console("b1", "a1") as console:
        console.write(b"hello\n")
    assert time.monotonic() - began < 0.5
    assert behind.publisher.publish_owed()
    assert behind.text() == console.path.read_text()


@pytest.mark.parametrize(
    ("rule", "said"),
    [(Rule(status=403, count=0), "refuses us"), (Rule(status=401, count=0), "refuses us")],
)
def test_wrong_credentials_are_said_at_the_start_and_by_doctor(
    behind: Behind, tmp_path: Path, rule: Rule, said: str
):
    behind.http.add(rule)
    with pytest.raises(ConfigError, match=said) as caught:
        LogKeeping(with_service(behind.service), FakeClock(), database_in(tmp_path)).start()
    assert "sesame" not in str(caught.value)
    finding = _try("log store", lambda: _log_store(with_service(behind.service)))
    assert not finding.good
    assert "log-store-options" in finding.hint


def test_a_missing_bucket_is_said_at_the_start(s3: S3Server, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("S3_KEY", "k")
    keeping = LogKeeping(
        with_service(service(tmp_path, s3.url, "nobody-made-it")),
        FakeClock(),
        database_in(tmp_path),
    )
    with pytest.raises(ConfigError, match="no such bucket"):
        keeping.start()
    assert keeping.shelf is not None
    with pytest.raises(StorageError, match="no such bucket"):
        keeping.shelf.read("b1/a1/console.log")


def test_a_store_that_is_down_does_not_stop_the_start(behind: Behind, tmp_path: Path):
    behind.http.down()
    keeping = LogKeeping(with_service(behind.service), FakeClock(), database_in(tmp_path))
    keeping.start()
    assert [name for name, _ in keeping.bodies()] == ["log-live", "log-publish"]
    assert not _try("log store", lambda: _log_store(with_service(behind.service))).good


WRITER = """
import sys, time
from pathlib import Path
from ci.clock import SystemClock
from ci.collect import LogStore
from ci.layout import Service
from ci.log_publish import Publisher
from ci.log_shelf import open_shelf
folder = Path(sys.argv[1])
service = {"state-dir": str(folder), "log-store": f"file://{folder / 'shared'}"}
shelf, clock = open_shelf(Service.model_validate(service)), SystemClock()
publisher = Publisher(folder / "spool", shelf, clock)
console = LogStore(folder / "spool", 1 << 30, 0, clock, publisher).open_console("b1", "a1")
console.write(b"y" * 2_000_000 + b"\\n")
publisher.follow()
print("ready", flush=True)
time.sleep(60)
"""


def test_what_a_killed_process_left_is_published_by_the_next(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        given = {"state-dir": str(tmp_path), "log-store": f"file://{tmp_path / 'shared'}"}
        shelf = opened(Service.model_validate(given))
        later = Publisher(tmp_path / "spool", shelf, FakeClock())
        assert later.publish_owed()  # held by the one that still writes
        assert shelf.read("b1/a1/published.json") is None
        os.killpg(process.pid, signal.SIGKILL)
    assert later.publish_owed()
    pages = LogFiles(tmp_path / "reader", Mirror(tmp_path / "reader", shelf, 1 << 30))
    found = pages.console("b1", "a1")
    assert found is not None
    assert found.stat().st_size > 2_000_000
    assert list(shelf.below("b1", "a1", "live")) == []


def fill(console: ConsoleLog) -> None:
    for _ in range(64):
        console.write(b"x" * MIB)


def test_a_real_small_disk_that_fills(tmp_path: Path):
    small = tmp_path / "small"
    small.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("a small disk: mounting a tmpfs needs root")
    try:
        guard = DiskGuard(small, FakeClock(), high_percent=90)
        assert guard.reason() == ""
        store = LogStore(small / "logs", 1 << 30, 0)
        console = store.open_console("b1", "a1")
        with pytest.raises(StorageError, match="cannot be written"):
            fill(console)
        console.close()
        assert "log ends here" in console.path.read_text()[-200:]
        assert "% full" in guard.again()
        console.path.unlink()
        assert guard.again() == ""
    finally:
        subprocess.run(["umount", str(small)], check=True)
