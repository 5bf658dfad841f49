# SPDX-License-Identifier: Apache-2.0
"""`hypervouch explain`: what an event would start, without starting anything."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ci import triggers
from ci.app import load_layout
from ci.errors import ConfigError
from ci.gerrit.parse import Ignored, MalformedEvent, parse_line


def explain_file(config: Path, event_file: Path, files: Sequence[str]) -> Iterator[str]:
    """One line per connection and pipeline.

    Args:
        config: The configuration.
        event_file: One event as `stream-events` sends it, on one line or several.
        files: The patch set's changed files; without any, file filters hold nothing back.

    Raises:
        ConfigError: The configuration has mistakes, or the file holds no event.
    """
    layout = load_layout(config)
    try:
        line = b" ".join(event_file.read_bytes().split(b"\n"))
    except OSError as error:
        raise ConfigError(f"{event_file} cannot be read: {error.strerror}") from error
    for connection in layout.connections:
        try:
            event = parse_line(line, connection.name)
        except MalformedEvent as error:
            raise ConfigError(
                f"{event_file} holds no event: {error.message}",
                hint="give one event, as `gerrit stream-events` prints it",
            ) from error
        if isinstance(event, Ignored):
            yield f"{connection.name}: nothing starts: {event.reason}"
            continue
        decisions = triggers.match(event, layout, list(files) or None)
        for sentence in triggers.explain(decisions):
            yield f"{connection.name}: {sentence}"
