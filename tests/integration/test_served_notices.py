# SPDX-License-Identifier: Apache-2.0
"""`hypervouch serve` tells a program and a person of its verdicts, whatever becomes of it."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kit.installation import GOOD
from tests.kit.receivers import http_receiver, smtp_receiver
from tests.kit.sandbox_host import SandboxHost
from tests.kit.stage import Stage

pytestmark = pytest.mark.timeout(180)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def reporters(hook: int, mail: int) -> list[dict[str, Any]]:
    kinds = {"notices": ["verdict", "merge-conflict", "quarantine"]}
    to_program = {"url": f"http://127.0.0.1:{hook}/", "secret": {"from-env": "HOOK_SECRET"}}
    to_person = {
        "host": "127.0.0.1",
        "port": mail,
        "security": "none",
        "from": "ci@example.org",
        "to": ["ops@example.org"],
    }
    away = {"url": "http://127.0.0.1:1/", "secret": {"from-env": "HOOK_SECRET"}}
    return [
        {"reporter": {"name": "hook", "driver": "webhook", **kinds, **to_program}},
        {"reporter": {"name": "mail", "driver": "email", **kinds, **to_person}},
        {"reporter": {"name": "away", "driver": "webhook", **kinds, **away}},
    ]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def test_a_verdict_reaches_a_program_and_a_person(
    sandbox_host: SandboxHost, tmp_path: Path, stack: ExitStack
):
    hook = stack.enter_context(http_receiver())
    post = stack.enter_context(smtp_receiver())
    stage = Stage(
        sandbox_host,  # type: ignore[arg-type]
        tmp_path,
        items=reporters(hook.port, post.port),
        environment={"HOOK_SECRET": SECRET},
    )
    stage.ci.start()
    stack.callback(stage.ci.kill)
    change = stage.push(GOOD)
    assert stage.ci.wait_for_comments(stage.author, change).vote == 1
    stage.ci.wait(lambda: bool(hook.posts and post.mails), 30, "both notices")
    told = json.loads(hook.posts[0].body)
    assert told["type"] == "hypervouch.verdict"
    assert told["data"]["facts"]["change"] == change.number
    assert told["data"]["facts"]["vote"] == {"label": "Verified", "value": 1}
    assert f"{change.number},1: succeeded, Verified +1" in str(post.mails[0]["Subject"])
    hook.say(503)
    stage.ci.kill()
    stage.ci.start()
    second = stage.push(GOOD)
    stage.ci.wait_for_comments(stage.author, second)
    stage.ci.wait(lambda: len(post.mails) >= 2, 30, "the second notice")
    assert stage.ci.stop() == 0
    subjects = [str(mail["Subject"]) for mail in post.mails]
    assert [str(second.number) in subject for subject in subjects] == [False, True]
