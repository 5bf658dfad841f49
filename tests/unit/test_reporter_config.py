# SPDX-License-Identifier: Apache-2.0
"""Reporters in the configuration, and the verbs about them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ci import app, plugins, settings
from ci.cli import main
from ci.clock import FakeClock
from ci.doctor import examine
from ci.model.notice import NoticeKind
from ci.reporters.dummy_notifier import DummyNotifier
from ci.reporters.table import BUILT_IN, driver
from ci.store import notices
from tests.kit.core import database_in
from tests.kit.noticed import notice

Run = Callable[..., Result]
CONFIG = """
- hypervouch: {state-dir: state}
- connection:
    name: review
    server: review.example.org
    user: acme-ci
    key-file: key
    known-hosts: hosts
    url: https://review.example.org/
    password: {from-env: HYPERVOUCH_TEST_PASSWORD}
- pipeline: {name: check, connection: review, policy: vote}
- job: {name: unit, suite: shell, run: "true", node-label: lab}
- project: {name: acme/virt, check: {jobs: [unit]}}
- provider: {name: lab, driver: dummy, label: lab}
"""
HOOK = """
- reporter:
    name: hook
    driver: webhook
    notices: [verdict, quarantine]
    url: https://hooks.example.org/in
    secret: {from-file: secrets/hook}
"""
DUMMY = "- reporter: {name: told, driver: dummy, notices: [quarantine]}\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "ci.yaml").write_text(CONFIG + DUMMY)
    monkeypatch.setattr(settings.config_checks, "files_are_usable", lambda _: ())
    monkeypatch.setenv("HYPERVOUCH_CONFIG", str(tmp_path / "ci.yaml"))
    return lambda *arguments: CliRunner().invoke(main, arguments)


def problems(folder: Path, text: str) -> list[str]:
    file = folder / "r.yaml"
    file.write_text(text.lstrip("\n"))
    found = settings.check(file, app.check_driver)
    return [
        f"{p.line}:{p.column}: {p.path}: {p.message}"
        for p in found
        if p.path.startswith("reporter")
    ]


def test_a_good_reporter(tmp_path):
    assert problems(tmp_path, HOOK) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "https://hooks.example.org/in",
            "http://hooks.example.org/in",
            "1:3: reporter[hook]: url should begin with https://, or set insecure: true",
        ),
        ("    url:", "    urll:", "5:5: reporter[hook].urll: unknown key (did you mean 'url'?)"),
        (
            "driver: webhook",
            "driver: pigeon",
            "3:13: reporter[hook].driver: there is no reporter driver pigeon (use one of webhook",
        ),
        (
            "driver: webhook",
            "driver: qemu",
            "3:13: reporter[hook].driver: there is no reporter driver qemu (use one of webhook",
        ),
        (
            "[verdict, quarantine]",
            "[verdict, tea]",
            "4:24: reporter[hook].notices[1]: should be ",
        ),
    ],
)
def test_a_mistake_is_shown_where_it_stands(tmp_path, old, new, said):
    found = problems(tmp_path, HOOK.replace(old, new))
    assert any(one.startswith(said) for one in found), found


def test_a_secrets_file_starts_at_the_file_it_stands_in(tmp_path, run):
    (tmp_path / "ci.yaml").write_text(CONFIG + HOOK + "    ca-file: ca.pem\n")
    (reporter,) = settings.load(tmp_path / "ci.yaml", app.check_driver).reporters
    assert reporter.options["secret"] == {"from-file": str(tmp_path / "secrets" / "hook")}
    assert reporter.options["ca-file"] == str(tmp_path / "ca.pem")


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_driver_has_options_with_a_name(name):
    assert "name" in driver(name).Options.model_fields


def test_the_list_of_what_was_not_told(tmp_path, run):
    database = database_in(tmp_path / "state")
    with database.write() as tx:
        for reporter in ("told", "gone"):
            notices.register(tx, reporter, at=FakeClock().now())
        notices.add(tx, notice(1, NoticeKind.QUARANTINE, subject="node n-1 was taken out of work"))
        notices.take_up(tx, "gone", [NoticeKind.QUARANTINE], at=FakeClock().now())
    shown = run("notices")
    assert shown.exit_code == 0, shown.output
    assert "node n-1 was taken out of work" in shown.output
    assert "pending, no such reporter any more" in shown.output
    lines = json.loads(run("notices", "--json").output)
    assert [(one["reporter"], one["state"]) for one in lines] == [
        ("gone", "pending"),
        ("told", "new"),
    ]


def test_a_list_of_nothing(tmp_path, run):
    database_in(tmp_path / "state")
    assert json.loads(run("notices", "--all", "--json").output) == []


def test_before_anything_was_run(run):
    shown = run("notices")
    assert shown.exit_code == 1
    assert "nothing was ever run" in shown.output


@pytest.mark.parametrize("before", [True, False])
def test_a_test_notice(tmp_path, run, monkeypatch, before):
    monkeypatch.delenv("HYPERVOUCH_CONFIG")
    given = ("-c", str(tmp_path / "ci.yaml"))
    words = ("notices", *given, "test", "told") if before else ("notices", "test", *given, "told")
    shown = run(*words)
    assert (shown.exit_code, shown.output) == (0, "told: told to the dummy\n")


def test_a_test_notice_that_is_not_delivered(tmp_path, run):
    (tmp_path / "ci.yaml").write_text(CONFIG + DUMMY.replace("}", ", fail-first: 1}"))
    shown = run("notices", "test", "told")
    assert shown.exit_code == 1
    assert "the dummy is away, as it was told to be" in shown.output
    assert "Traceback" not in shown.output


def test_a_test_notice_to_nobody(run):
    shown = run("notices", "test", "mail")
    assert shown.exit_code == 1
    assert "no reporter mail" in shown.output


def test_a_retry_of_nothing(tmp_path, run):
    database_in(tmp_path / "state")
    shown = run("notices", "retry", "told")
    assert (shown.exit_code, shown.output) == (
        0,
        "dropped notices that told is owed again: 0\n",
    )


class _Point:
    def __init__(self, value: str) -> None:
        self.value = value


def test_an_outsiders_driver_joins_by_its_entry_point(monkeypatch):
    where = "ci.reporters.dummy_notifier:DummyNotifier"
    asked: list[dict[str, str]] = []

    def points(**how: str) -> list[_Point]:
        asked.append(how)
        return [_Point(where)]

    monkeypatch.setattr(plugins, "entry_points", points)
    assert driver("pigeon") is DummyNotifier
    assert asked == [{"group": "hypervouch.reporters", "name": "pigeon"}]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("no_such_package.x:Y", "needs no_such_package, which is not installed"),
        ("ci.reporters.dummy_notifier:Gone", "is broken: ci.reporters.dummy_notifier has no Gone"),
    ],
)
def test_an_outsiders_driver_that_cannot_be_used(monkeypatch, where, said):
    monkeypatch.setattr(plugins, "entry_points", lambda **_: [_Point(where)])
    with pytest.raises(settings.ConfigError, match=said):
        driver("pigeon")


@pytest.mark.parametrize(
    ("more", "good", "said"),
    [("", True, "the dummy answers"), (", fail-first: 1", False, "is away")],
)
def test_the_doctor_tries_each_reporter(tmp_path, monkeypatch, *, more, good, said):
    monkeypatch.setattr(settings.config_checks, "files_are_usable", lambda _: ())
    (tmp_path / "ci.yaml").write_text(CONFIG + DUMMY.replace("}", more + "}"))
    told: list[Any] = []
    monkeypatch.setattr(DummyNotifier, "deliver", lambda _, notices: told.append(notices))
    monkeypatch.setattr("ci.doctor._provider", lambda *_: "fine")
    layout = app.load_layout(tmp_path / "ci.yaml").model_copy(update={"connections": ()})
    (found,) = [one for one in examine(layout) if one.what == "reporter told"]
    assert found.good is good
    assert said in found.message
    assert told == []


def test_an_installation_has_a_loop_for_each_reporter(tmp_path, run, monkeypatch):
    monkeypatch.setenv("HYPERVOUCH_TEST_PASSWORD", "x")
    made = app.App(app.load_layout(tmp_path / "ci.yaml"))
    assert made.told_of_notices == ("told",)
    (tmp_path / "ci.yaml").write_text(CONFIG + HOOK)
    with pytest.raises(settings.ConfigError, match="secrets/hook cannot be read"):
        app.App(app.load_layout(tmp_path / "ci.yaml"))
