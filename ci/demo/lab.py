# SPDX-License-Identifier: Apache-2.0
"""`hypervouch demo --lab`: real hypervisors of this machine under the compute suite.

One after the other is brought up as `hypervouch lab up` does it, put to the proof by `hypervouch
suite compute`, and taken down again; what the suite showed goes into the demo's matrix. Both
are child processes, so that Ctrl-C ends whatever is under way.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table

from ci.demo.lab_screen import Lines
from ci.demo.lab_turn import SHOWN, Outcome, Place, Turn
from ci.errors import ConfigError
from ci.model.evidence import Shown
from nodes.lab import table
from nodes.lab.table import LabNode

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `--lab` comes to on this machine.

    Attributes:
        nodes: To be brought up, in this order.
        left_out: Names that `all` leaves out, each with the reason.
    """

    nodes: tuple[LabNode, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


def chosen(names: str) -> Plan:
    """What `--lab` names, checked before anything is started.

    Raises:
        ConfigError: A name is unknown or has no hypervisor, or a package is missing.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        return Plan()
    if ALL in wanted:
        return _everything()
    nodes = table.chosen(wanted)
    for node in nodes:
        if why := _unfit(node):
            able = ", ".join(one.name for one in table.LAB.values() if not _unfit(one))
            raise ConfigError(f"{node.name} cannot be put to the proof: {why}", hint=f"use {able}")
    table.require(nodes)
    return Plan(nodes=nodes)


def _everything() -> Plan:
    left_out = {name: why for name, node in table.LAB.items() if (why := _lacks(node))}
    nodes = tuple(node for name, node in table.LAB.items() if name not in left_out)
    return Plan(nodes=nodes, left_out=left_out)


def _lacks(node: LabNode) -> str:
    """Why a node is left out here unless it is named; empty where it is not."""
    if why := _unfit(node):
        return why
    if node.stands_in:
        return "it only stands in for a hypervisor: name it"
    if lacks := node.lacks():
        return f"needs {', '.join(lacks)}"
    return "needs root" if node.root and os.geteuid() != 0 else ""


def _unfit(node: LabNode) -> str:
    """Why a node is no column of its own anywhere; empty where it is."""
    if node.second_of:
        return f"it only stands beside {node.second_of}"
    return "" if node.hypervisor else "it has no hypervisor"


def ready() -> tuple[str, ...]:
    """Names that `--lab all` would take on this machine."""
    return tuple(node.name for node in _everything().nodes)


def show(plan: Plan, place: Place) -> bool:
    """Run the compute suite on each lab node in turn and file what it showed.

    Returns:
        Whether every suite came to its end.
    """
    place.kept.mkdir(parents=True, exist_ok=True)
    names = ", ".join(node.name for node in plan.nodes)
    place.console.print(f"\nThe lab, one after the other: {names or 'nothing'}.", highlight=False)
    for name, why in plan.left_out.items():
        place.console.print(f"Left out: {name}, {why}.", highlight=False, markup=False)
    done: list[Outcome] = []
    for number, node in enumerate(plan.nodes, start=1):
        if place.asked.is_set():
            break
        with Lines(place.console, node.name, place.kept / f"{node.name}.log") as lines:
            lines.say(f"{node.title} ({number} of {len(plan.nodes)})")
            done += Turn(node, place, lines).run()
    left_out = [
        Outcome(name=name, title=table.LAB[name].title, why=why, left_out=True)
        for name, why in plan.left_out.items()
    ]
    place.console.print()
    place.console.print(summary([*done, *left_out]))
    tried = {one.name for one in done if not one.why}
    return len(tried) == len(plan.nodes) and not any(one.why for one in done)


def summary(found: Sequence[Outcome]) -> Table:
    """The table at the end."""
    shown = Table(title="What the suite showed (tests)", title_justify="left", title_style="bold")
    shown.add_column("hypervisor", overflow="fold")
    for _, word in SHOWN:
        shown.add_column(word, justify="right")
    shown.add_column("evidence")
    shown.add_column("time", justify="right")
    for one in found:
        numbers = [str(one.counts.get(key, 0)) if one.grade else "" for key, _ in SHOWN]
        if one.counts.get(Shown.FAILS):
            numbers[-1] = f"[red]{numbers[-1]}[/red]"
        word = "left out" if one.left_out else "none"
        last = f"{one.took_s:.0f} s" if one.took_s else ""
        title = f"{one.title}: {one.why}" if one.why else one.title
        shown.add_row(title.replace("[", r"\["), *numbers, one.grade or word, last)
    return shown
