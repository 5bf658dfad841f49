# SPDX-License-Identifier: Apache-2.0
"""The webhook against a real HTTP server on loopback, whatever that does."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from ci.clock import FakeClock
from ci.errors import ConfigError, NoticeRefused, ReporterError
from ci.reporters import webhook
from ci.reporters.webhook import WebhookNotifier, WebhookOptions
from tests.kit.noticed import HOSTILE, notice
from tests.kit.receivers import HttpReceiver, certificate, http_receiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


MADE: list[WebhookNotifier] = []


@pytest.fixture(autouse=True)
def _secret(tmp_path: Path) -> Iterator[None]:
    """The secret's file; every notifier is closed afterwards."""
    (tmp_path / "secret").write_text(SECRET + "\n")
    yield
    while MADE:
        MADE.pop().close()


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with http_receiver() as made:
        yield made


def notifier(
    receiver: HttpReceiver, folder: Path, clock: Any = None, **more: Any
) -> WebhookNotifier:
    fields = {
        "name": "hook",
        "url": f"http://127.0.0.1:{receiver.port}/in?a=b",
        "secret": {"from-file": folder / "secret"},
        "timeout-s": 1,
    }
    MADE.append(WebhookNotifier(WebhookOptions.model_validate(fields | more), clock))
    return MADE[-1]


def test_a_receiver_verifies_it_with_the_reference_library(receiver, tmp_path):
    made = notifier(receiver, tmp_path)
    assert made.deliver([notice(text=HOSTILE)]) == "the receiver answered 204"
    (post,) = receiver.posts
    assert (post.method, post.path) == ("POST", "/in?a=b")
    body = Webhook(SECRET).verify(post.body, dict(post.headers))
    assert body["data"]["text"] == HOSTILE
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(post.body + b" ", dict(post.headers))
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "B" * 32).verify(post.body, dict(post.headers))


def test_a_repeat_has_its_id_and_a_new_time(receiver, tmp_path):
    clock = FakeClock()
    made = notifier(receiver, tmp_path, clock)
    made.deliver([notice()])
    clock.advance(3600)
    made.deliver([notice()])
    first, second = (post.headers for post in receiver.posts)
    assert first["webhook-id"] == second["webhook-id"]
    assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 3600


def test_a_new_secret_needs_no_restart(receiver, tmp_path):
    made = notifier(receiver, tmp_path)
    made.deliver([notice()])
    (tmp_path / "secret").write_text("whsec_" + "B" * 32)
    made.deliver([notice()])
    Webhook("whsec_" + "B" * 32).verify(receiver.posts[1].body, dict(receiver.posts[1].headers))
    (tmp_path / "secret").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        made.deliver([notice()])


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_an_answer_of_success(receiver, tmp_path, status):
    receiver.say(status)
    assert str(status) in notifier(receiver, tmp_path).deliver([notice()])


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 599])
def test_a_receiver_in_trouble(receiver, tmp_path, status):
    receiver.say(status, body=b"<html>oops</html>")
    with pytest.raises(ReporterError, match=f"reporter hook at 127.* answered {status}") as found:
        notifier(receiver, tmp_path).deliver([notice()])
    assert found.value.retryable
    assert not isinstance(found.value, NoticeRefused)


@pytest.mark.parametrize("status", [301, 302, 307, 308, 401, 403, 404, 405, 407, 410])
def test_what_somebody_has_to_mend(receiver, tmp_path, status):
    receiver.say(status, {"Location": f"http://127.0.0.1:{receiver.port}/other"})
    with pytest.raises(ReporterError, match=str(status)) as found:
        notifier(receiver, tmp_path).deliver([notice()])
    assert (found.value.retryable, isinstance(found.value, NoticeRefused)) == (False, False)
    assert len(receiver.posts) == 1, "a redirect was followed"


@pytest.mark.parametrize("status", [400, 413, 415, 422, 451])
def test_a_refused_notice(receiver, tmp_path, status):
    receiver.say(status)
    with pytest.raises(NoticeRefused, match=str(status)):
        notifier(receiver, tmp_path).deliver([notice()])


@pytest.mark.parametrize(
    ("said", "pause_s"),
    [
        ("120", 120.0),
        (format_datetime(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=90)), 90.0),
        ("999999", 3600.0),
        ("-5", 0.0),
        ("soon", 0.0),
    ],
)
def test_a_receiver_says_when_to_come_again(receiver, tmp_path, said, pause_s):
    receiver.say(429, {"Retry-After": said})
    with pytest.raises(ReporterError) as found:
        notifier(receiver, tmp_path, FakeClock()).deliver([notice()])
    assert found.value.pause_s == pause_s


def test_a_receiver_that_says_nothing(receiver, tmp_path):
    receiver.say(-1)
    began = time.monotonic()
    with pytest.raises(ReporterError, match="does not answer: timed out") as found:
        notifier(receiver, tmp_path).deliver([notice()])
    assert found.value.retryable
    assert time.monotonic() - began < 5


def test_a_receiver_that_hangs_up(receiver, tmp_path):
    receiver.say(0)
    with pytest.raises(ReporterError, match="does not answer") as found:
        notifier(receiver, tmp_path).deliver([notice()])
    assert found.value.retryable


def test_a_reply_without_an_end_is_not_read_to_it(receiver, tmp_path, monkeypatch):
    monkeypatch.setattr(webhook, "REPLY_LIMIT_BYTES", 1000)
    receiver.say(200, {"Content-Length": str(10**12)}, body=b"x" * 5000)
    assert notifier(receiver, tmp_path).deliver([notice()]) == "the receiver answered 200"


def test_a_receiver_with_a_certificate_of_its_own(tmp_path):
    context, file = certificate(tmp_path)
    with http_receiver(context) as receiver:
        url = f"https://127.0.0.1:{receiver.port}/in"
        with pytest.raises(ReporterError, match="is not trusted") as found:
            notifier(receiver, tmp_path, url=url).deliver([notice()])
        assert not found.value.retryable
        trusting = notifier(receiver, tmp_path, url=url, **{"ca-file": file})
        assert trusting.deliver([notice()]) == "the receiver answered 204"
        assert len(receiver.posts) == 1


def test_a_receiver_that_speaks_no_tls(receiver, tmp_path):
    with pytest.raises(ReporterError, match="does not answer"):
        notifier(receiver, tmp_path, url=f"https://127.0.0.1:{receiver.port}/").deliver([notice()])


def test_a_proxy_of_the_environment_does_not_stand_before_this_machine(
    receiver, tmp_path, monkeypatch
):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert "204" in notifier(receiver, tmp_path).deliver([notice()])


@pytest.mark.parametrize("status", [200, 400, 401, 404, 405])
def test_a_probe_takes_any_answer_for_a_receiver(receiver, tmp_path, status):
    receiver.say(status)
    assert f"answers ({status} to HEAD" in notifier(receiver, tmp_path).probe()
    assert [post.method for post in receiver.posts] == ["HEAD"]


@pytest.mark.parametrize("status", [301, 410, 503])
def test_a_probe_finds_trouble(receiver, tmp_path, status):
    receiver.say(status)
    with pytest.raises(ReporterError, match=str(status)):
        notifier(receiver, tmp_path).probe()


def test_the_body_is_json_of_one_object(receiver, tmp_path):
    notifier(receiver, tmp_path).deliver([notice()])
    (post,) = receiver.posts
    assert post.headers["Content-Type"] == "application/json"
    assert json.loads(post.body)["type"] == "hypervouch.verdict"
