# SPDX-License-Identifier: Apache-2.0
"""Several reporters at once, each with its thread and a real receiver: none waits for another."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ci.bell import Bell
from ci.clock import SystemClock
from ci.layout import ReporterConfig
from ci.model.notice import NoticeKind
from ci.notifier import NoticeRelay
from ci.reporters.table import driver
from ci.store import notices, schema
from ci.store.database import Database
from tests.kit.core import database_in, rows
from tests.kit.noticed import notice
from tests.kit.receivers import http_receiver, smtp_receiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KINDS = [kind.value for kind in NoticeKind]


class Site:
    """Reporters in threads of their own, as `ci.app` starts them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.bells: list[Bell] = []
        self.running: list[tuple[NoticeRelay, threading.Thread]] = []

    def start(self, name: str, driver_name: str, **options: Any) -> None:
        config = ReporterConfig.model_validate(
            {"name": name, "driver": driver_name, "notices": KINDS, **options}
        )
        chosen = driver(driver_name)
        notifier = chosen(chosen.Options.model_validate(config.options))
        self.bells.append(Bell())
        relay = NoticeRelay(config, self.database, SystemClock(), notifier, bell=self.bells[-1])
        relay.register()
        thread = threading.Thread(target=relay.run, daemon=True)
        thread.start()
        self.running.append((relay, thread))

    def hook(self, name: str, port: int) -> None:
        url = f"http://127.0.0.1:{port}/"
        secret = {"from-env": "HYPERVOUCH_TEST_HOOK"}
        self.start(name, "webhook", url=url, secret=secret, **{"timeout-s": 3})

    def mail(self, name: str, port: int) -> None:
        more = {"from": "ci@example.org", "to": ["ops@example.org"], "security": "none"}
        self.start(name, "email", host="127.0.0.1", port=port, **more)

    def write(self, first: int, last: int) -> None:
        for number in range(first, last + 1):
            with self.database.write() as tx:
                notices.add(tx, notice(number))
        for bell in self.bells:
            bell.ring()

    def stop(self) -> None:
        for relay, _ in self.running:
            relay.stop()
        for _, thread in self.running:
            thread.join(10)
            assert not thread.is_alive()

    def states(self, reporter: str) -> list[str]:
        return [row.state for row in rows(self.database, schema.delivery, reporter=reporter)]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("HYPERVOUCH_TEST_HOOK", SECRET)
    made = Site(database_in(tmp_path))
    yield made
    made.stop()
    made.database.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def soon(true: Callable[[], bool], within_s: float = 10.0) -> None:
    until = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def test_a_dead_and_a_stalled_receiver_hold_up_nobody(site, stack):
    good, stalled = (stack.enter_context(http_receiver()) for _ in range(2))
    post = stack.enter_context(smtp_receiver())
    for _ in range(100):
        stalled.say(-1)
    site.hook("stalled", stalled.port)
    site.hook("dead", 1)
    site.hook("good", good.port)
    site.mail("mail", post.port)
    began = time.monotonic()
    site.write(1, 20)
    soon(lambda: len(good.posts) == 20 and site.states("mail") == ["delivered"] * 20)
    assert time.monotonic() - began < 5
    told = [json.loads(one.body)["data"]["key"] for one in good.posts]
    assert told == [f"verdict:{number}" for number in range(1, 21)]
    assert site.states("dead") == ["pending"] * 20
    stalled.released.set()


def test_an_outage_ends_in_one_mail(site, stack):
    post = stack.enter_context(smtp_receiver())
    post.data_answers += ["451 later"]
    site.mail("mail", post.port)
    site.write(1, 1)
    soon(lambda: post.data_answers == [])
    site.write(2, 30)
    soon(lambda: site.states("mail") == ["delivered"] * 30)
    subjects = [str(mail["Subject"]) for mail in post.mails]
    assert subjects == ["[hypervouch] 30 notices: 30 verdict"]


def test_each_notice_once_over_failures_and_restarts(site, stack):
    receiver = stack.enter_context(http_receiver())
    for status in (500, 204, 503, 0, 204):
        receiver.say(status)
    site.hook("hook", receiver.port)
    site.write(1, 3)
    soon(lambda: "delivered" in site.states("hook"))
    site.stop()
    site.running.clear()
    site.hook("hook", receiver.port)
    site.write(4, 6)
    soon(lambda: site.states("hook") == ["delivered"] * 6, within_s=20)
    told = [json.loads(one.body)["data"]["key"] for one in receiver.posts]
    assert list(dict.fromkeys(told)) == [f"verdict:{number}" for number in range(1, 7)]
    ids = {one.headers["webhook-id"] for one in receiver.posts}
    assert len(ids) == 6
