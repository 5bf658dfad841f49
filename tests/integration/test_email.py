# SPDX-License-Identifier: Apache-2.0
"""Mail against a real SMTP server on loopback, whatever that does."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ci.clock import FakeClock
from ci.errors import ConfigError, NoticeRefused, ReporterError
from ci.reporters.email import EmailNotifier, EmailOptions
from tests.kit.noticed import HOSTILE, notice
from tests.kit.receivers import SmtpReceiver, certificate, smtp_receiver


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERVOUCH_TEST_MAIL", "right")


@pytest.fixture
def server() -> Iterator[SmtpReceiver]:
    with smtp_receiver(login=True) as made:
        yield made


LOGIN = {"user": "ci", "password": {"from-env": "HYPERVOUCH_TEST_MAIL"}}


def notifier(port: int, **more: Any) -> EmailNotifier:
    fields = {
        "name": "mail",
        "host": "127.0.0.1",
        "port": port,
        "security": "none",
        "from": "ci@example.org",
        "to": ["ops@example.org", "night@example.org"],
        "timeout-s": 1,
    }
    return EmailNotifier(EmailOptions.model_validate(fields | more), FakeClock())


def test_a_mail_arrives(server):
    said = notifier(server.port).deliver([notice()])
    assert said == "sent to ops@example.org, night@example.org"
    assert server.envelopes == [("ci@example.org", ["ops@example.org", "night@example.org"])]
    (mail,) = server.mails
    assert mail["Subject"] == "[hypervouch] acme/virt 1,1: succeeded, Verified +1"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert "Where: change 1." in mail.get_content()


def test_a_digest_arrives_as_one_mail(server):
    made = notifier(server.port)
    made.deliver([notice(number) for number in range(made.most)])
    (mail,) = server.mails
    assert mail["Subject"] == f"[hypervouch] {made.most} notices: {made.most} verdict"


def test_hostile_text_adds_no_recipient_and_no_header(server):
    dots = "\r\n.\r\nMAIL FROM:<evil@example.org>\r\n"
    notifier(server.port).deliver([notice(subject=HOSTILE, text=HOSTILE + dots, url=HOSTILE)])
    (mail,) = server.mails
    assert mail["Bcc"] is None
    assert len(server.envelopes) == 1
    assert "MAIL FROM" in mail.get_content()


def test_a_login(server):
    notifier(server.port, **LOGIN).deliver([notice()])
    assert server.logins == [("ci", "right")]
    assert len(server.mails) == 1


def test_a_wrong_password_is_one_clear_message(server, monkeypatch):
    monkeypatch.setenv("HYPERVOUCH_TEST_MAIL", "hunter2")
    with pytest.raises(ReporterError, match=r"refuses the login of ci: 535") as found:
        notifier(server.port, **LOGIN).deliver([notice()])
    assert (found.value.retryable, isinstance(found.value, NoticeRefused)) == (False, False)
    assert "notices test" in found.value.hint
    assert "hunter2" not in str(found.value)
    assert server.mails == []
    # One call may try each method that the server offers, and no more than that.
    assert len(server.logins) <= 3


def test_a_password_that_cannot_be_sent_is_not_shown(server, monkeypatch):
    monkeypatch.setenv("HYPERVOUCH_TEST_MAIL", "pässword")
    with pytest.raises(ReporterError, match="use ASCII") as found:
        notifier(server.port, **LOGIN).deliver([notice()])
    assert "ä" not in str(found.value)
    assert found.value.__cause__ is None


def test_a_password_that_is_not_there(server, monkeypatch):
    made = notifier(server.port, **LOGIN)
    monkeypatch.delenv("HYPERVOUCH_TEST_MAIL")
    with pytest.raises(ConfigError, match="HYPERVOUCH_TEST_MAIL"):
        made.deliver([notice()])
    with pytest.raises(ConfigError, match="HYPERVOUCH_TEST_MAIL"):
        notifier(server.port, **LOGIN)


@pytest.mark.parametrize("implicit", [False, True])
def test_tls(tmp_path: Path, implicit: bool):  # noqa: FBT001
    context, file = certificate(tmp_path)
    security = {"security": "tls" if implicit else "starttls"}
    with smtp_receiver(context, implicit=implicit, login=True) as server:
        with pytest.raises(ReporterError, match="is not trusted") as found:
            notifier(server.port, **security, **LOGIN).deliver([notice()])
        assert not found.value.retryable
        assert server.logins == [], "the password went to somebody who is not trusted"
        made = notifier(server.port, **security, **LOGIN, **{"ca-file": file})
        made.deliver([notice()])
        assert "ci logs in" in made.probe()
    assert len(server.mails) == 1


def test_a_server_without_tls_gets_no_password(server):
    with pytest.raises(ReporterError, match="does not offer") as found:
        notifier(server.port, security="starttls", **LOGIN).deliver([notice()])
    assert not found.value.retryable
    assert server.logins == []


def test_tls_where_starttls_is_meant(server):
    with pytest.raises(ReporterError, match=r"does not speak TLS.*starttls is for port 587"):
        notifier(server.port, security="tls").deliver([notice()])


@pytest.mark.parametrize("code", [550, 552, 554])
def test_a_refused_mail(server, code):
    server.data_answers.append(f"{code} not this one")
    with pytest.raises(NoticeRefused, match=f"refuses the mail: {code} not this one"):
        notifier(server.port).deliver([notice()])


def test_a_server_that_is_busy(server):
    server.data_answers.append("451 later")
    with pytest.raises(ReporterError, match="451 later") as found:
        notifier(server.port).deliver([notice()])
    assert found.value.retryable


def test_one_recipient_of_two_is_told_of(server):
    server.refused_recipients["night@example.org"] = "550 who?"
    said = notifier(server.port).deliver([notice()])
    assert said == "sent, but refused for night@example.org (550 who?)"
    assert server.envelopes == [("ci@example.org", ["ops@example.org"])]


@pytest.mark.parametrize(("answer", "retryable"), [("550 who?", False), ("450 greylisted", True)])
def test_no_recipient_at_all(server, answer, retryable):
    for address in ("ops@example.org", "night@example.org"):
        server.refused_recipients[address] = answer
    with pytest.raises(ReporterError, match=f"refuses every recipient: .*{answer[:3]}") as found:
        notifier(server.port).deliver([notice()])
    assert found.value.retryable is retryable
    assert not isinstance(found.value, NoticeRefused)


@contextmanager
def speaks(greeting: bytes) -> Iterator[int]:
    """A server that says one thing, then nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken: list[socket.socket] = []

        def serve() -> None:
            try:
                while True:
                    taken.append(listening.accept()[0])
                    taken[-1].sendall(greeting)
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for one in taken:
                one.close()


@pytest.mark.parametrize("greeting", [b"", b"220 hello\r\n", b"220-he"])
def test_a_server_that_stalls(greeting):
    with speaks(greeting) as port:
        began = time.monotonic()
        with pytest.raises(ReporterError, match="does not answer") as found:
            notifier(port).deliver([notice()])
    assert found.value.retryable
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("greeting", "retryable"), [(b"554 no\r\n", False), (b"421 busy\r\n", True)]
)
def test_a_server_that_turns_us_away(greeting, retryable):
    with speaks(greeting) as port, pytest.raises(ReporterError, match="refuses us") as found:
        notifier(port).deliver([notice()])
    assert found.value.retryable is retryable


def test_a_server_that_speaks_something_else():
    with speaks(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port, pytest.raises(ReporterError):
        notifier(port).deliver([notice()])


def test_no_server():
    with pytest.raises(ReporterError, match="does not answer") as found:
        notifier(1).probe()
    assert found.value.retryable


def test_a_probe_sends_no_mail(server):
    assert "no mail was sent" in notifier(server.port, **LOGIN).probe()
    assert server.logins == [("ci", "right")]
    assert server.mails == []
