# SPDX-License-Identifier: Apache-2.0
"""Runs the demo: stage, configuration, the CI itself, the story, and the table of it."""

import contextlib
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live

from ci.app import App, load_layout
from ci.demo.config import NodeChoice, write_config
from ci.demo.guard import guarded
from ci.demo.lab import Plan, chosen, ready
from ci.demo.lab import show as show_lab
from ci.demo.lab_turn import Place
from ci.demo.scene import Scene, open_scene
from ci.demo.story import Stage, Told, acts, play
from ci.demo.watch import Row, rows, table, vote_text, votes_on
from ci.errors import HypervouchError
from ci.sandbox.author import PushedChange
from ci.store.reads import change_detail
from nodes.providers.qemu import QemuOptions, QemuProvider

LIMIT_S = 1500.0
LOOK_EVERY_S = 0.5


def run_demo(
    *,
    gerrit: str,
    hypervisor: str,
    port: int,
    keep: Path | None,
    once: bool,
    asked: threading.Event,
    lab: str = "",
) -> int:
    """Run the demo.

    Args:
        gerrit: `sandbox` or `real`.
        hypervisor: `auto`, `qemu` or `emulator`.
        port: Of the page; 0 for any free one.
        keep: Directory to keep everything in; a temporary one otherwise.
        once: End as soon as nothing more will come.
        asked: Set when the user wants an end.
        lab: Names of hypervisors that run the compute suite after the votes, or `all`.

    Returns:
        0 when exactly the expected votes are in and every suite of the lab ended, 1 otherwise.

    Raises:
        HypervouchError: Something this machine lacks, with its fix.
    """
    console = Console()
    plan = chosen(lab)
    with (
        _directory(keep) as directory,
        _made("hv-lab-") as folder,
        guarded(directory, folder, keep=keep is not None),
    ):
        choice = _choose(hypervisor, directory, console)
        console.print(f"Starting a review server ({gerrit}) ...")
        scene = open_scene(gerrit, directory)
        try:
            config = write_config(directory, scene, choice, port=port or _free_port())
            return _with_ci(
                scene,
                config,
                choice,
                directory,
                console,
                once=once,
                asked=asked,
                lab=(plan, folder),
            )
        finally:
            scene.stop()


@contextlib.contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise HypervouchError(f"{keep} is not empty", hint="name a new directory")
        yield keep.resolve()
        return
    with _made("hypervouch-demo-") as made:
        yield made


@contextlib.contextmanager
def _made(prefix: str) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def _choose(wanted: str, directory: Path, console: Console) -> NodeChoice:
    """QEMU where it can be had; otherwise say why not and use the stand-in."""
    if wanted == "emulator":
        return NodeChoice(emulator=True, why="asked for")
    provider = QemuProvider(
        QemuOptions(),
        directory / "probe",
        lambda text: console.print(f"  node image: {text}", highlight=False),
    )
    console.print("Preparing the node image (built once, then cached) ...")
    try:
        provider.prepare()
    except HypervouchError as error:
        if wanted == "qemu":
            raise
        console.print(f"[yellow]QEMU cannot be had here: {error}[/yellow]")
        console.print("[yellow]The demo runs on the emulator: it proves no hypervisor.[/yellow]")
        return NodeChoice(emulator=True, why=str(error))
    return NodeChoice(emulator=False)


def _with_ci(
    scene: Scene,
    config: Path,
    choice: NodeChoice,
    directory: Path,
    console: Console,
    *,
    once: bool,
    asked: threading.Event,
    lab: tuple[Plan, Path],
) -> int:
    plan, folder = lab
    notice = f"Demo on a {scene.kind}." + (
        " Hypervisor: EMULATOR, our own stand-in: it proves no hypervisor."
        if choice.emulator
        else " Hypervisor: QEMU (TCG) inside a disposable QEMU guest: evidence is nested."
    )
    app = App(load_layout(config), notice=notice)
    app.start()
    try:
        console.print(f"{notice}\nConfiguration: {config}\nPage: {app.url}\n", highlight=False)
        good = _show(app, scene, directory, console, choice, asked=asked)
        place = Place(
            folder=folder,
            kept=directory / "lab",
            database=app.database,
            console=console,
            asked=asked,
        )
        good = _lab(plan, place, app.url) and good
        if not once and not asked.is_set():
            console.print(f"\nThe page stays up at {app.url} until Ctrl-C.")
            asked.wait()
        return 0 if good else 1
    finally:
        app.stop()


def _lab(plan: Plan, place: Place, url: str) -> bool:
    """The lab's hypervisors; without any, which there could be."""
    if place.asked.is_set():
        return True
    if not plan.nodes and not plan.left_out:
        if names := ready():
            place.console.print(f"Real hypervisors for {url}matrix: --lab {','.join(names)}")
        return True
    good = show_lab(plan, place)
    if not place.asked.is_set():
        place.console.print(f"The matrix: {url}matrix", highlight=False)
    return good


def _show(
    app: App,
    scene: Scene,
    directory: Path,
    console: Console,
    choice: NodeChoice,
    *,
    asked: threading.Event,
) -> bool:
    """Play the story and show it; True when exactly the expected votes came."""
    told = Told()
    failed: list[HypervouchError] = []
    over = threading.Event()

    def tell() -> None:
        try:
            play(scene, directory, _stage(app, scene), told, over)
        except HypervouchError as error:
            failed.append(error)

    threading.Thread(target=tell, name="story", daemon=True).start()
    deadline = time.monotonic() + LIMIT_S
    title = f"hypervouch demo ({'EMULATOR' if choice.emulator else 'QEMU, evidence: nested'})"
    shown: list[Row] = []
    with _screen(console, title) as show:
        while not asked.wait(LOOK_EVERY_S) and time.monotonic() < deadline and not failed:
            shown = rows(app.database, scene.author, acts(), told)
            show(shown, told.notes)
            if told.done and all(row.settled and _enough(row) for row in shown):
                break
    over.set()
    if failed:
        raise failed[0]
    return _verdict(console, shown)


def _enough(row: Row) -> bool:
    return len(row.votes) >= len(row.expected)


def _stage(app: App, scene: Scene) -> Stage:
    def running_node(change: PushedChange) -> str | None:
        detail = change_detail(app.database, change.number)
        for patchset in detail.patchsets if detail else ():
            for buildset in patchset.buildsets:
                for build in buildset.builds:
                    if build.state == "running" and build.phase == "run" and build.node:
                        return build.node
        return None

    return Stage(
        running_node=running_node,
        kill_node=app.kill_machine,
        votes=lambda change: votes_on(scene.author, change),
    )


@contextlib.contextmanager
def _screen(console: Console, title: str) -> Iterator[Callable[[list[Row], list[str]], None]]:
    """A live table on a terminal; elsewhere a line whenever something changed."""
    said: list[str] = []

    def lines(found: list[Row], notes: list[str]) -> None:
        for note in notes[len(said) :]:
            said.append(note)
            console.print(f"* {note}", highlight=False, markup=False)
        for row in found:
            line = (
                f"{row.number} {row.says}: {row.where} [{row.evidence or 'no evidence yet'}] "
                f"{row.result} vote {vote_text(row.votes)}"
            )
            if row.number and last.get(row.number) != line:
                last[row.number] = line
                console.print(line, highlight=False, markup=False, soft_wrap=True)

    last: dict[int, str] = {}
    if not console.is_terminal:
        yield lines
        return
    with Live(console=console, refresh_per_second=4) as live:

        def draw(found: list[Row], notes: list[str]) -> None:
            drawn = table(found, title=title)
            drawn.caption = "\n".join(notes[-4:])
            live.update(drawn)

        yield draw


def _verdict(console: Console, found: list[Row]) -> bool:
    wrong = [row for row in found if row.votes != row.expected]
    for row in wrong:
        console.print(
            f"[red]change {row.number} ({row.says}): votes {vote_text(row.votes)}, "
            f"expected {vote_text(row.expected)}[/red]"
        )
    if found and not wrong:
        count = sum(len(row.votes) for row in found)
        console.print(f"[green]Exactly the expected {count} votes are in.[/green]")
        return True
    return False
