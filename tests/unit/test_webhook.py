# SPDX-License-Identifier: Apache-2.0
"""The webhook's body, signature and options, without a network."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from ci.config_items import complaints
from ci.errors import ConfigError
from ci.model.notice import NoticeKind
from ci.reporters.standard_webhooks import message_id, payload, signed_headers, signing_key
from ci.reporters.trust import authorities, is_loopback
from ci.reporters.webhook import WebhookNotifier, WebhookOptions
from tests.kit.noticed import HOSTILE, notice

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
VARIABLE = "HYPERVOUCH_TEST_HOOK"


def options(**more: Any) -> dict[str, Any]:
    fields = {
        "name": "hook",
        "url": "https://hooks.example.org/in",
        "secret": {"from-env": VARIABLE},
    }
    return fields | more


def said(**more: Any) -> list[tuple[tuple[str | int, ...], str]]:
    return list(complaints(WebhookOptions, options(**more)))


def test_the_body():
    body = json.loads(payload(notice(3)))
    assert body == {
        "type": "hypervouch.verdict",
        "timestamp": "2026-03-01T12:30:00+00:00",
        "data": {
            "key": "verdict:3",
            "subject": "acme/virt 3,1: succeeded, Verified +1",
            "text": "The builds were judged.\nWhere: change 3.",
            "url": "https://ci.example.org/changes/3/1",
            "facts": {"change": 3, "vote": {"label": "Verified", "value": 1}},
        },
    }


@given(text=st.text(max_size=200), facts=st.dictionaries(st.text(max_size=9), st.integers()))
def test_every_text_comes_out_as_it_went_in(text, facts):
    content = payload(notice(subject=text, text=HOSTILE + text, facts=facts))
    assert content.isascii()
    assert b"\n" not in content
    data = json.loads(content)["data"]
    assert (data["subject"], data["text"], data["facts"]) == (text, HOSTILE + text, facts)


def test_the_signature_is_what_others_compute():
    content, at = payload(notice()), notice().occurred_at
    headers = signed_headers(signing_key(SECRET, "hook"), "msg_1", int(at.timestamp()), content)
    assert headers["webhook-signature"] == Webhook(SECRET).sign("msg_1", at, content.decode())


def test_an_identity_is_a_notices_and_a_reporters():
    mine = message_id("hook", notice())
    assert mine == message_id("hook", notice(subject="other words"))
    others = [("hook", notice(2)), ("hook", notice(1, NoticeKind.QUARANTINE)), ("b", notice())]
    assert len({mine, *(message_id(*other) for other in others)}) == 4
    assert "." not in mine


@pytest.mark.parametrize("size", [24, 32, 64])
def test_a_secret_with_and_without_its_mark(size):
    key = bytes(range(size))
    text = base64.b64encode(key).decode()
    assert signing_key(f"whsec_{text}", "hook") == signing_key(text, "hook") == key


@pytest.mark.parametrize("secret", ["hunter2!", "whsec_", "whsec_YWJj", "é", "A" * 400, "whsec_A"])
def test_a_bad_secret_is_refused_and_not_shown(secret, monkeypatch):
    monkeypatch.setenv(VARIABLE, secret)
    with pytest.raises(ConfigError, match="reporter hook is not base64 of 24 to 64 bytes") as found:
        WebhookNotifier(WebhookOptions.model_validate(options()))
    assert secret not in str(found.value).replace("whsec_$(", "")


def test_a_secret_that_is_not_there(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=VARIABLE):
        WebhookNotifier(WebhookOptions.model_validate(options()))


def test_good_options():
    for url in (
        "https://hooks.example.org",
        "https://hooks.example.org:8443/a?b=c",
        "http://127.0.0.1:8000/in",
        "http://localhost/in",
        "http://[::1]:80/in",
    ):
        assert said(url=url) == []
    assert said(url="http://hooks.example.org/in", insecure=True) == []


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://hooks.example.org/in", "should begin with https://, or set insecure: true"),
        ("http://127.0.0.1.example.org/in", "should begin with https://"),
        ("ftp://hooks.example.org/in", "https://HOST/PATH"),
        ("https://ci:pw@hooks.example.org/in", "https://HOST/PATH"),
        ("https://hooks.example.org/a b", "https://HOST/PATH"),
        ("https://hooks.example.org:99999/", "not a URL"),
        ("https://:443/", "not a URL"),
    ],
)
def test_a_url_that_is_refused(url, why):
    ((_, message),) = said(url=url)
    assert why in message


def test_an_unknown_option():
    assert said(retries=3) == [(("retries",), "unknown key")]
    assert said(urll="x")[0][1] == "unknown key (did you mean 'url'?)"


def test_a_file_of_authorities(tmp_path: Path):
    with pytest.raises(ConfigError, match="No such file"):
        authorities(tmp_path / "none.pem")
    (tmp_path / "empty.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match=r"empty\.pem cannot be used"):
        authorities(tmp_path / "empty.pem")


def test_this_machine():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("", "127.0.0.1.example.org", "10.0.0.1", "localhost.evil")))
