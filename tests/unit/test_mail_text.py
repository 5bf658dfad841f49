# SPDX-License-Identifier: Apache-2.0
"""The mail that tells notices, and the options of its sender, without a network."""

from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.config_items import complaints
from ci.model.notice import Notice, NoticeKind
from ci.reporters.email import EmailOptions
from ci.reporters.mail_text import ADDRESS, compose
from tests.kit.noticed import AT, HOSTILE, notice

HEADERS = {
    "from",
    "to",
    "subject",
    "date",
    "message-id",
    "references",
    "auto-submitted",
    "x-hypervouch-notice",
    "content-type",
    "content-transfer-encoding",
    "mime-version",
}


def mail(*notices: Notice, to: tuple[str, ...] = ("ops@example.org",)) -> EmailMessage:
    """The mail as a receiver reads it."""
    made = compose(notices, sender="ci@example.org", to=to, at=AT)
    read = message_from_bytes(made.as_bytes(), policy=policy.default)
    assert isinstance(read, EmailMessage)
    return read


def body(read: EmailMessage) -> str:
    """Its text, with plain line ends."""
    return str(read.get_content()).replace("\r\n", "\n")


def test_one_notice():
    read = mail(notice(), to=("ops@example.org", "b@example.org"))
    assert read["Subject"] == "[hypervouch] acme/virt 1,1: succeeded, Verified +1"
    assert read["From"] == "ci@example.org"
    assert read["To"] == "ops@example.org, b@example.org"
    assert read["Auto-Submitted"] == "auto-generated"
    assert read["X-Hypervouch-Notice"] == "verdict"
    assert read["References"] is None
    assert read.get_content_type() == "text/plain"
    assert body(read) == (
        "acme/virt 1,1: succeeded, Verified +1\n"
        "2026-03-01 12:30:00 UTC\n"
        "\n"
        "The builds were judged.\n"
        "Where: change 1.\n"
        "\n"
        "https://ci.example.org/changes/1/1\n"
    )


def test_a_link_is_not_repeated():
    read = mail(
        notice(text="see https://ci.example.org/changes/1/1", url="https://ci.example.org/")
    )
    assert body(read).count("https://") == 1


def test_several_notices_are_one_mail():
    read = mail(*(notice(n) for n in range(1, 4)), notice(9, NoticeKind.QUARANTINE, text="node"))
    assert read["Subject"] == "[hypervouch] 4 notices: 3 verdict, 1 quarantine"
    assert read["X-Hypervouch-Notice"] == "quarantine, verdict"
    text = body(read)
    assert text.startswith("- acme/virt 1,1: succeeded, Verified +1\n- acme/virt 2,1:")
    assert [text.index(f"Where: change {n}.") for n in (1, 2, 3)] == sorted(
        text.index(f"Where: change {n}.") for n in (1, 2, 3)
    )


def test_a_repeat_is_the_same_mail_to_its_reader():
    one, two = notice(1), notice(2)
    assert mail(one)["Message-ID"] == mail(one)["Message-ID"]
    ids = {mail(*told)["Message-ID"] for told in ((one,), (two,), (one, two), (two, one))}
    assert len(ids) == 4, "another mail under the same id would be thrown away"
    both = mail(one, two)["References"]
    assert both.split() == [mail(one)["Message-ID"], mail(two)["Message-ID"]]


def test_fifty_notices_keep_every_line_short():
    raw = compose(
        [notice(n, text="ü" * 5000) for n in range(50)],
        sender="ci@example.org",
        to=["ops@example.org"],
        at=AT,
    ).as_bytes()
    assert max(map(len, raw.split(b"\r\n"))) <= 998


@given(text=st.text(max_size=300))
def test_no_text_makes_a_header(text):
    for hostile in (text, HOSTILE + text, f"x\r\n{text}", f"x\nBcc: {text}"):
        read = mail(notice(subject=hostile, text=hostile, url=hostile))
        assert {name.lower() for name in read} <= HEADERS
        assert not read.is_multipart()
        assert not read.defects
        assert len(read.get_all("To")) == len(read.get_all("Subject")) == 1
        assert str(read["Subject"]).isprintable()
        assert all(line.isprintable() for line in body(read).split("\n"))


@pytest.mark.parametrize(
    "address",
    [
        "ops",
        "ops@",
        "@example.org",
        "a b@example.org",
        "Ops <ops@example.org>",
        "ops@example.org\r\nBcc: x@example.org",
        "a@example.org,b@example.org",
        "ops@exam_ple.org",
        "ops@example..org",
        "öps@example.org",
        "",
    ],
)
def test_what_is_no_address(address):
    assert not ADDRESS.fullmatch(address)
    assert said(**{"from": address})
    assert said(to=["ops@example.org", address])


def said(**more: Any) -> list[tuple[tuple[str | int, ...], str]]:
    fields = {
        "name": "mail",
        "host": "mail.example.org",
        "from": "ci@example.org",
        "to": ["ops@example.org"],
    }
    return list(complaints(EmailOptions, fields | more))


def test_good_options():
    login = {"user": "ci", "password": {"from-env": "X"}}
    assert said() == []
    assert said(security="tls", port=465, **login) == []
    assert said(security="none", host="127.0.0.1") == []
    assert said(security="none", insecure=True) == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"security": "none"}, "use security: starttls or tls, or set insecure: true"),
        ({"security": "ssl"}, "should be 'starttls', 'tls' or 'none'"),
        ({"user": "ci"}, "give both user and password, or neither"),
        ({"password": {"from-env": "X"}}, "give both user and password, or neither"),
        ({"to": []}, "should have at least 1 entry"),
        ({"host": "a b"}, "Host name or address"),
        ({"port": 0}, "greater than or equal to 1"),
        ({"from": "Ops <ops@example.org>"}, "is not an address such as ops@example.org"),
        ({"passwort": "x"}, "unknown key (did you mean 'password'?)"),
    ],
)
def test_options_that_are_refused(options, why):
    ((_, message),) = said(**options)
    assert why in message
