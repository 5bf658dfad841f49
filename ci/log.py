# SPDX-License-Identifier: Apache-2.0
"""structlog set-up: one canonical line per unit of work, on standard error."""

import logging
import sys

import structlog

from ci.errors import ConfigError


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
                renderer,
            ],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("paramiko", "httpx", "httpcore", "apscheduler", "gerrit", "dbos", "uvicorn"):
        logging.getLogger(noisy).setLevel("WARNING")
    # It logs a traceback for every server that does not answer; whoever called it says so.
    logging.getLogger("paramiko.transport").setLevel("CRITICAL")


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry `step=name`; bind what else identifies the work."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger().bind(step=name)
    return logger
