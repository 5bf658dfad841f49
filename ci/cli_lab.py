# SPDX-License-Identifier: Apache-2.0
"""`hypervouch lab`: real hypervisors on this machine, brought up by one command."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ci.errors import ConfigError
from ci.model.result import Grade

if TYPE_CHECKING:
    from nodes.lab.table import LabNode, Reach

NAMES = "[NAME]..."


def add_lab(main: click.Group, begin: Callable[[click.Context], None]) -> None:
    """Add the verbs to the program; `begin` is called before each."""

    @main.group()
    @click.pass_context
    def lab(ctx: click.Context) -> None:
        """Bring up real hypervisors on this machine, by name: libvirt, lxc, uml, xen, kvm, ..."""
        begin(ctx)

    lab.command("build")(_verb(build))
    lab.command("up")(_verb(up))
    lab.command("down")(_verb(down))
    status_verb = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(status)
    lab.command("status")(_verb(status_verb))


def _verb(function: Callable[..., None]) -> Callable[..., None]:
    """Names and state folder, the same for all verbs."""

    @click.argument("names", nargs=-1, metavar=NAMES)
    @click.option(
        "--state",
        type=click.Path(path_type=Path),
        help="Where the nodes are kept; the user's state folder by default.",
    )
    @wraps(function)
    def verb(names: tuple[str, ...], state: Path | None, **more: Any) -> None:
        from nodes.lab import table  # noqa: PLC0415

        folder = (state or table.default_state()).absolute()
        try:
            every = function in {status, down} and not names
            function(table.chosen(table.LAB if every else names), folder, **more)
        except OSError as error:
            raise ConfigError(
                f"{error.filename or folder} cannot be used: {error.strerror or error}",
                hint="name another folder with --state",
            ) from error

    return verb


def build(nodes: Sequence["LabNode"], folder: Path) -> None:
    """Make images before they are needed; what is in the cache is left as it is."""
    from nodes.lab import table  # noqa: PLC0415

    del folder
    table.require(nodes)
    for node in nodes:
        with _told(node.name) as say:
            node.build(say)


def up(nodes: Sequence["LabNode"], folder: Path) -> None:
    """Bring nodes up and print what their inventory says; those that are up are left alone."""
    from nodes.lab import table  # noqa: PLC0415

    table.require(nodes)
    for node in nodes:
        with _told(node.name) as say:
            node.build(say)
            with _whole(node, folder / node.name):
                node.up(folder / node.name, say)
    reached = [(node, node.reach(folder / node.name)) for node in nodes]
    click.echo("\n# for nodes.yaml")
    for node, reach in reached:
        if reach is not None:
            click.echo(inventory(node.name, reach))


@contextmanager
def _whole(node: "LabNode", home: Path) -> Iterator[None]:
    """What was cut short is taken down again, unless it was up before."""
    was_up = node.reach(home) is not None
    try:
        yield
    except BaseException:
        if not was_up:
            node.down(home)
        raise


def down(nodes: Sequence["LabNode"], folder: Path) -> None:
    """Take nodes down; ends only what `lab up` started, the cache stays."""
    for node in nodes:
        if node.reach(folder / node.name) is None and not (folder / node.name).is_dir():
            click.echo(f"{node.name}: not up", err=True)
            continue
        with _told(node.name) as say:
            say("taking it down")
            node.down(folder / node.name)


def status(nodes: Sequence["LabNode"], folder: Path, *, as_json: bool) -> None:
    """Show which nodes are up, how they are reached and how they are tested."""
    rows = [(node, node.reach(folder / node.name)) for node in nodes]
    if as_json:
        click.echo(json.dumps([_row(node, reach) for node, reach in rows], indent=1))
        return
    for node, reach in rows:
        if reach is None:
            lacks = node.lacks()
            why = f"needs {', '.join(lacks)}" if lacks else f"hypervouch lab up {node.name}"
            click.echo(f"{node.name:9} down      {node.title} ({why})")
            continue
        click.echo(f"{node.name:9} {reach.grade.value:9} {node.title}")
        for line in (*reach.urls, *map(" ".join, suites(reach))):
            click.echo(f"         {line}")


def suites(reach: "Reach") -> list[list[str]]:
    """The commands that put its hypervisors to the proof."""
    commands = []
    for at, url in enumerate(reach.urls):
        second = ["--second", f"'{reach.seconds[at]}'"] if reach.seconds else []
        commands.append(["hypervouch", "suite", "compute", *_access(url, reach), *second])
    return commands


def inventory(name: str, reach: "Reach") -> str:
    """The provider of nodes.yaml that adds a node as a machine that stays."""
    lines = [f"- provider:\n    name: lab-{name}\n    label: {name}"]
    if reach.port:
        lines.append(f"    driver: static\n    host: 127.0.0.1\n    port: {reach.port}")
        lines.append(f"    user: root\n    key-file: {reach.key_file}")
        lines.append(f"    known-hosts: {reach.known_hosts}")
    else:
        lines.append("    driver: local")
    if reach.urls:
        lines.append(f"    hypervisor: {reach.urls[0]}\n    grade: {reach.grade.value}")
    if reach.password_file and reach.ca_file:
        lines.append(f"    hypervisor-password: {{from-file: {reach.password_file}}}")
        lines.append(f"    hypervisor-ca-file: {reach.ca_file}")
        if reach.grade is Grade.EMULATOR:
            lines.append("    # our emulator is no hypervisor: it may vote only where you say so")
            lines.append("    # emulator-may-vote: true")
    return "\n".join(lines)


def _access(url: str, reach: "Reach") -> list[str]:
    words = ["--hypervisor", f"'{url}'", "--grade", reach.grade.value]
    if reach.password_file and reach.ca_file:
        words += ["--password-file", str(reach.password_file), "--ca-file", str(reach.ca_file)]
    if reach.real_guests:
        words.append("--real-guests")
    if reach.key_file and reach.known_hosts:
        words += ["--key-file", str(reach.key_file), "--known-hosts", str(reach.known_hosts)]
    return words


def _row(node: "LabNode", reach: "Reach | None") -> dict[str, Any]:
    row: dict[str, Any] = {"name": node.name, "title": node.title, "up": reach is not None}
    if reach is None:
        return {**row, "lacks": list(node.lacks())}
    return {
        **row,
        "hypervisors": list(reach.urls),
        "grade": reach.grade.value,
        "port": reach.port or None,
        "key-file": str(reach.key_file) if reach.key_file else None,
        "known-hosts": str(reach.known_hosts) if reach.known_hosts else None,
        "password-file": str(reach.password_file) if reach.password_file else None,
        "ca-file": str(reach.ca_file) if reach.ca_file else None,
        "facts": reach.facts,
        "suites": [" ".join(words) for words in suites(reach)],
    }


@contextmanager
def _told(name: str) -> Iterator[Callable[[str], None]]:
    """Show the stage that a node is in, and at the end how long all of them took."""
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True, markup=False, highlight=False)
    began = time.monotonic()
    with console.status(f"{name}: ...") as line:

        def say(sentence: str) -> None:
            line.update(f"{name}: {sentence} ...")
            if not console.is_terminal:
                console.print(f"{name}: {sentence}", soft_wrap=True)

        yield say
    console.print(f"{name}: done in {time.monotonic() - began:.0f} s")
