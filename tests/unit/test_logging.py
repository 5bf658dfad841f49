# SPDX-License-Identifier: Apache-2.0
"""Log lines: their fields, and that none shows a secret."""

import ast
import io
import json
import logging
import sys
from pathlib import Path

import pytest
import structlog

from ci import log
from ci.layout import SecretRef
from ci.settings import resolve_secret

ROOT = Path(__file__).parents[2]
CALLS = {"debug", "info", "warning", "error", "exception"}


@pytest.fixture
def stream(monkeypatch):
    """What stands on standard error."""
    made = io.StringIO()
    monkeypatch.setattr(sys, "stderr", made)
    return made


@pytest.fixture
def lines(stream, monkeypatch):
    """What was logged, as JSON; logging is as it was afterwards."""
    root, before = logging.getLogger(), structlog.get_config()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(log._Hidden, "forms", frozenset())
    monkeypatch.setattr(log._Hidden, "pattern", None)
    monkeypatch.setattr(log._Who, "fields", {})
    log.configure(json_lines=True)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


def test_every_line_says_when_how_bad_where_and_who(lines):
    log.identify("ci1", ("listen", "work"))
    log.get("vote").info("review settled", action="delivered", change=7)
    [line] = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "review settled",
        "level": "info",
        "step": "vote",
        "action": "delivered",
        "process": "ci1",
        "role": "listen,work",
        "change": 7,
    }


def test_a_library_has_the_same_fields(lines):
    logging.getLogger("sqlalchemy.pool").warning("connection %s is gone", 3)
    [line] = lines()
    assert (line["step"], line["action"], line["logger"]) == ("library", "log", "sqlalchemy.pool")
    assert line["event"] == "connection 3 is gone"


@pytest.mark.parametrize(("level", "count"), [("DEBUG", 1), ("WARNING", 1), ("ERROR", 0)])
def test_a_chatty_library_says_no_more_than_was_asked_for(lines, stream, monkeypatch, level, count):
    monkeypatch.setattr(sys, "stderr", stream)
    log.configure(level=level, json_lines=True)
    logging.getLogger("apscheduler.scheduler").warning("skipped")
    logging.getLogger("apscheduler.scheduler").info("added")
    assert len(lines()) == count


def test_an_outage_is_told_by_the_engines_library_without_a_traceback(lines):
    dbos = logging.getLogger("dbos")
    outage = OSError("connection refused\nIs the server running?")
    dbos.warning("no system database:", exc_info=outage)
    dbos.error("polling failed: %s", "Traceback (most recent call last):\n  x\nOSError: gone\n")
    first, second = lines()
    assert (first["event"], first["reason"]) == ("no system database", "connection refused")
    assert (second["event"], second["reason"]) == ("polling failed", "OSError: gone")
    assert "Traceback" not in str(first) + str(second)


def test_what_is_bound_to_an_attempt_stands_in_each_of_its_lines(lines):
    with structlog.contextvars.bound_contextvars(build="b1", attempt="a1"):
        log.get("run").info("one", action="x")
    log.get("run").info("two", action="x")
    one, two = lines()
    assert (one["build"], one["attempt"]) == ("b1", "a1")
    assert "build" not in two


def test_a_secret_that_was_resolved_is_in_no_line(lines, monkeypatch):
    secret = 'hun"ter\\2/päss'
    monkeypatch.setenv("A_PASSWORD", secret)
    assert resolve_secret(SecretRef(from_env="A_PASSWORD")) == secret
    logger = log.get("event")
    logger.error("refused", action="x", said=secret, reason={"url": f"http://u:{secret}@h"})
    logging.getLogger("httpx").warning("GET https://h/?p=%s", "hun%22ter%5C2%2Fp%C3%A4ss")
    try:
        int(secret)
    except ValueError:
        logger.exception("a bug", action="bug")
    text = json.dumps(lines(), ensure_ascii=False)
    assert "hun" not in text
    assert text.count(log.MARK) >= 4


def test_a_secret_is_in_no_line_for_people_either(lines, stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    log.hide('hun"ter2')
    log.configure(json_lines=False)
    log.get("event").error("refused", action="x", reason=["a", 'hun"ter2'], word='hun"ter2')
    text = stream.getvalue()
    assert "ter2" not in text
    assert log.MARK in text


def test_a_short_word_is_no_secret(lines):
    log.hide("ci")
    log.get("event").info("ci", action="x")
    assert lines()[0]["event"] == "ci"


def test_every_line_of_ours_names_its_action():
    """Who filters by `action` must find every line."""
    without = []
    for folder in ("ci", "nodes", "webui"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if {"acme_virt", "sandbox"} & set(path.parts):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                    continue
                of = node.func.value
                name = getattr(of, "attr", getattr(of, "id", ""))
                ours = node.func.attr in CALLS and name.strip("_") in {"log", "LOG"}
                if ours and not any(k.arg in {"action", None} for k in node.keywords):
                    without.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not without
