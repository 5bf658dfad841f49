# SPDX-License-Identifier: Apache-2.0
"""The contract of `ci.reporters.notifier`, kept by every driver: real servers on loopback."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from ci.errors import ConfigError, NoticeRefused, ReporterError
from ci.model.notice import NoticeKind
from ci.reporters.dummy_notifier import DummyNotifier, DummyNotifierOptions
from ci.reporters.notifier import Notifier
from ci.reporters.table import BUILT_IN, driver
from tests.kit.noticed import HOSTILE, notice
from tests.kit.receivers import http_receiver, smtp_receiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass(kw_only=True)
class Site:
    """A notifier with its receiver.

    Attributes:
        notifier: What is tested.
        identities: What told apart the notices that came, in order; a repeat has the same.
        texts: All that came, as one text.
        refuse: Makes the receiver refuse the next notice.
        trouble: Makes the receiver fail at the next call.
        bar: Makes the receiver refuse us from now on, if it can.
        vanish: Takes the receiver away.
    """

    notifier: Notifier
    identities: Callable[[], list[str]]
    texts: Callable[[], str]
    refuse: Callable[[], None]
    trouble: Callable[[], None]
    bar: Callable[[], None]
    vanish: Callable[[], None]


def dummy(stack: ExitStack) -> Site:
    made = DummyNotifier(DummyNotifierOptions(most=5))
    return Site(
        notifier=made,
        identities=lambda: [",".join(one.key for one in told) for told in made.told],
        texts=lambda: "\n".join(f"{n.subject}\n{n.text}" for told in made.told for n in told),
        refuse=lambda: made.errors.append(NoticeRefused("told so")),
        trouble=lambda: made.errors.append(ReporterError("told so", retryable=True)),
        bar=lambda: made.errors.append(ReporterError("told so")),
        vanish=lambda: made.errors.append(ReporterError("told so", retryable=True)),
    )


def webhook(stack: ExitStack) -> Site:
    receiver = stack.enter_context(http_receiver())
    chosen = driver("webhook")
    made = chosen(
        chosen.Options.model_validate(
            {
                "name": "hook",
                "url": f"http://127.0.0.1:{receiver.port}/in",
                "secret": {"from-env": "HYPERVOUCH_TEST_HOOK"},
            }
        )
    )

    def texts() -> str:
        bodies = [json.loads(post.body)["data"] for post in receiver.posts if post.body]
        return "\n".join(f"{body['subject']}\n{body['text']}" for body in bodies)

    return Site(
        notifier=made,
        identities=lambda: [post.headers["webhook-id"] for post in receiver.posts if post.body],
        texts=texts,
        refuse=lambda: receiver.say(422),
        trouble=lambda: receiver.say(503),
        bar=lambda: receiver.say(301, {"Location": "/elsewhere"}),
        vanish=stack.close,
    )


def email(stack: ExitStack) -> Site:
    receiver = stack.enter_context(smtp_receiver(login=True))
    chosen = driver("email")
    made = chosen(
        chosen.Options.model_validate(
            {
                "name": "mail",
                "host": "127.0.0.1",
                "port": receiver.port,
                "security": "none",
                "user": "ci",
                "password": {"from-env": "HYPERVOUCH_TEST_MAIL"},
                "from": "ci@example.org",
                "to": ["ops@example.org"],
            }
        )
    )

    def bar() -> None:
        receiver.password = "another"

    return Site(
        notifier=made,
        identities=lambda: [str(mail["Message-ID"]) for mail in receiver.mails],
        texts=lambda: "\n".join(f"{m['Subject']}\n{m.get_content()}" for m in receiver.mails),
        refuse=lambda: receiver.data_answers.append("554 not wanted"),
        trouble=lambda: receiver.data_answers.append("451 try again"),
        bar=bar,
        vanish=stack.close,
    )


SITES = {"dummy": dummy, "webhook": webhook, "email": email}


@pytest.fixture(params=BUILT_IN)
def site(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("HYPERVOUCH_TEST_HOOK", SECRET)
    monkeypatch.setenv("HYPERVOUCH_TEST_MAIL", "right")
    with ExitStack() as stack:
        made = SITES[request.param](stack)
        yield made
        made.notifier.close()


def test_a_notice_arrives_with_what_it_says(site: Site):
    said = site.notifier.deliver([notice()])
    assert said
    assert "\n" not in said
    assert "acme/virt 1,1: succeeded, Verified +1" in site.texts()
    assert "Where: change 1." in site.texts()


def test_as_many_as_it_takes_arrive_at_once_in_their_order(site: Site):
    most = site.notifier.most
    assert most >= 1
    told = [notice(number) for number in range(1, most + 1)]
    site.notifier.deliver(told)
    places = [site.texts().index(f"Where: change {number}.") for number in range(1, most + 1)]
    assert places == sorted(places)


def test_a_repeat_has_the_same_identity_and_another_notice_has_not(site: Site):
    for number in (1, 2, 1):
        site.notifier.deliver([notice(number)])
    first, second, again = site.identities()
    assert first == again != second


def test_every_kind_arrives(site: Site):
    for number, kind in enumerate(NoticeKind, 1):
        site.notifier.deliver([notice(number, kind)])
    assert len(set(site.identities())) == len(NoticeKind)


def test_a_refused_notice_is_told_apart_from_a_receiver_in_trouble(site: Site):
    site.refuse()
    with pytest.raises(NoticeRefused) as refused:
        site.notifier.deliver([notice()])
    assert not refused.value.retryable
    site.trouble()
    with pytest.raises(ReporterError) as away:
        site.notifier.deliver([notice()])
    assert not isinstance(away.value, NoticeRefused)
    assert away.value.retryable
    site.notifier.deliver([notice()])
    assert len(set(site.identities())) == 1


def test_a_receiver_that_bars_us_is_for_somebody_to_mend(site: Site):
    site.bar()
    with pytest.raises(ReporterError) as barred:
        site.notifier.deliver([notice()])
    assert not isinstance(barred.value, NoticeRefused)
    assert not barred.value.retryable


def test_a_receiver_that_went_away_is_worth_another_try(site: Site):
    site.notifier.deliver([notice()])
    site.vanish()
    with pytest.raises(ReporterError) as away:
        site.notifier.deliver([notice(2)])
    assert away.value.retryable


def test_a_probe_tells_nobody_anything(site: Site):
    said = site.notifier.probe()
    assert said
    assert "\n" not in said
    assert not site.texts()
    assert not site.identities()


def test_a_probe_finds_a_receiver_that_went_away(site: Site):
    site.vanish()
    with pytest.raises(ReporterError):
        site.notifier.probe()


def test_hostile_text_arrives_as_text(site: Site):
    # As `ci.store.notices.add` leaves it, and worse.
    site.notifier.deliver([notice(subject=" ".join(HOSTILE.split()), text=HOSTILE)])
    assert "victim@example.org" in site.texts()
    assert len(site.identities()) == 1


def test_close_may_be_repeated(site: Site):
    site.notifier.close()
    site.notifier.close()


def test_a_driver_nobody_knows():
    with pytest.raises(ConfigError, match=r"no reporter driver pigeon.*webhook, email, dummy"):
        driver("pigeon")
