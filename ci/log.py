# SPDX-License-Identifier: Apache-2.0
"""structlog set-up: one canonical line per unit of work, on standard error.

Every line says when, how bad, which step of the flow and which action, and who: the fields
stand in docs/reference/logs.md. No line shows a secret that was resolved in this process.
"""

import json
import logging
import re
import sys
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import structlog

from ci import plain
from ci.errors import ConfigError

MARK = "[redacted]"
MIN_SECRET = 6
"""Shorter ones occur by chance, and marks all over a log would give them away."""

LIBRARIES = (
    "alembic",
    "paramiko",
    "httpx",
    "httpcore",
    "apscheduler",
    "gerrit",
    "dbos",
    "uvicorn",
)
"""Loggers of others, of which only warnings are told."""


class _Who:
    """This process, as it is named in every line."""

    fields: dict[str, str] = {}  # noqa: RUF012 - replaced, never changed


class _Hidden:
    """What no line may show; grows only."""

    lock = threading.Lock()
    forms: frozenset[str] = frozenset()
    pattern: re.Pattern[str] | None = None


def configure(*, level: str = "INFO", json_lines: bool | None = None) -> None:
    """Send our own and every library's log lines through structlog.

    Args:
        level: Least level that is shown.
        json_lines: JSON lines; by default where standard error is not a terminal.

    Raises:
        ConfigError: There is no such level.
    """
    if level not in logging.getLevelNamesMapping():
        raise ConfigError(
            f"there is no log level {level}", hint="use DEBUG, INFO, WARNING or ERROR"
        )
    as_json = not sys.stderr.isatty() if json_lines is None else json_lines
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _name_process,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _redact_values,
                *([] if as_json else [_plain_values]),
                renderer,
                _redact,
            ],
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name, _of_library],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in LIBRARIES:
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    # They log a traceback for every server that does not answer; whoever called them says so.
    for noisy in ("paramiko.transport", "pypsrp"):
        logging.getLogger(noisy).setLevel("CRITICAL")


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry `step=name`; bind what else identifies the work."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger().bind(step=name)
    return logger


def identify(process: str, roles: Sequence[str]) -> None:
    """Name this process in every line from now on.

    Args:
        process: Its name.
        roles: What it does.
    """
    _Who.fields = {"process": process, "role": ",".join(roles)}


def hide(*secrets: str) -> None:
    """Show these in no line from now on, also as they look in a URL or inside quotes."""
    found = {
        form
        for text in secrets
        if len(text) >= MIN_SECRET
        for form in (text, quote(text, safe=""), json.dumps(text)[1:-1], repr(text)[1:-1])
    }
    if found <= _Hidden.forms:
        return
    with _Hidden.lock:
        _Hidden.forms |= found
        # The longest first: a secret inside another one must not leave the rest of it behind.
        ordered = sorted(_Hidden.forms, key=len, reverse=True)
        _Hidden.pattern = re.compile("|".join(map(re.escape, ordered)))


def shown(text: str) -> str:
    """A text without the secrets that `hide` was told of."""
    return _Hidden.pattern.sub(MARK, text) if _Hidden.pattern else text


def _redact_values(
    _logger: Any, _method: str, event_dict: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Before texts are quoted: a traceback that quotes a secret is quoted once more."""
    return {k: shown(v) if isinstance(v, str) else v for k, v in event_dict.items()}


def _plain_values(
    _logger: Any, _method: str, event_dict: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """What a terminal would obey is shown to it, and not done; JSON escapes it anyway."""
    return {k: plain.text(v) if isinstance(v, str) else v for k, v in event_dict.items()}


def _redact(_logger: Any, _method: str, line: Any) -> Any:
    """The last processor: what comes here is the finished line."""
    return shown(line) if isinstance(line, str) else line


def _name_process(
    _logger: Any, _method: str, event_dict: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    for name, value in _Who.fields.items():
        event_dict.setdefault(name, value)
    return event_dict


def _of_library(
    _logger: Any, _method: str, event_dict: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """A library's line has no step of the flow; `logger` says whose it is."""
    event_dict.setdefault("step", "library")
    event_dict.setdefault("action", "log")
    if str(event_dict.get("logger", "")).startswith("dbos"):
        return _in_one_line(event_dict)
    return event_dict


def _in_one_line(event_dict: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """The engine's library tells each outage of the database with tracebacks of its own inside.

    What fails in our own steps is told by us; of these the last line says enough.
    """
    trouble = event_dict.pop("exc_info", None)
    if isinstance(trouble, tuple):
        trouble = trouble[1]
    text, _, rest = str(event_dict["event"]).partition("Traceback (most recent call last)")
    event_dict["event"] = text.strip(" :\n")
    said = str(trouble) if isinstance(trouble, BaseException) else rest
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if lines:
        event_dict["reason"] = lines[0] if isinstance(trouble, BaseException) else lines[-1]
    return event_dict
