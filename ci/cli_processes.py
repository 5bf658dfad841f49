# SPDX-License-Identifier: Apache-2.0
"""The verbs that run until they are told to stop: `serve`, and one for each role."""

import gc
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ci.errors import HypervouchError

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
VERBS = {
    "serve": "Run every role in this process until it is told to stop.",
    "listen": "Hear the review servers and queue builds; one process of all does it at a time.",
    "work": "Take queued builds and run them; as many processes as there is work for.",
    "relay": "Give reviews and notices; one process of all does it at a time.",
    "web": "Serve the pages.",
}


def stop_signal() -> threading.Event:
    """An event that SIGINT and SIGTERM set."""
    asked = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: asked.set())
    return asked


def asked_to_end_is_ctrl_c(ctx: click.Context) -> None:
    """While a verb runs, SIGTERM ends it as Ctrl-C does: it tidies up."""
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        ctx.call_on_close(lambda: signal.signal(signal.SIGTERM, before))


def add_processes(group: click.Group, config_option: Decorator) -> None:
    """Give a group a verb for each kind of process."""
    for verb, text in VERBS.items():
        group.add_command(_process(verb, text, config_option))


def _process(verb: str, text: str, config_option: Decorator) -> click.Command:
    @click.command(verb, help=text)
    @config_option
    @click.option(
        "--name", default="", help="Of this process; several on one state-dir need one each."
    )
    @click.option(
        "--health",
        default="",
        metavar="HOST:PORT",
        help="Serve /healthz, /readyz and /metrics there; by default the key health-listen.",
    )
    def run(config: Path, name: str, health: str) -> None:
        run_process(verb, config, name=name, health=health)

    return run


@contextmanager
def _for_good() -> Iterator[None]:
    """Load in the block what stays to the end, out of the garbage collector's sight.

    It looks through some 140,000 objects otherwise: while they are loaded, now and then in the
    service's life, and once more when it stops.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    gc.freeze()


def run_process(verb: str, config: Path, *, name: str, health: str) -> None:
    """Run one process until a signal, or until it must not go on.

    Raises:
        HypervouchError: It could not start, or had to end.
    """
    asked = stop_signal()
    with _for_good():
        from ci.app import ALL, App, load_layout  # noqa: PLC0415 - heavy, not needed by listings

        roles = ALL if verb == "serve" else (verb,)
        app = App(load_layout(config), roles=roles, name=name, health=health)
    app.core.on_failure = asked.set
    app.start()
    pages = f", pages at {app.url}" if app.url else ""
    click.echo(f"hypervouch runs {', '.join(app.roles)} as {app.core.name}{pages}", err=True)
    while not asked.wait(1.0) and not app.drained:
        pass
    app.stop()
    if app.failure:
        raise HypervouchError(app.failure, hint="give each process a name or state-dir of its own")
