# SPDX-License-Identifier: Apache-2.0
"""What happens in the demo: which patches are pushed, and which votes must come of it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ci.demo.scene import PROJECT, Scene
from ci.sandbox import demo_patches
from ci.sandbox.author import PushedChange, Pusher
from ci.sandbox.demo_patches import DemoPatch

STEP_S = 0.5
HALF_WAY_S = 4.0


@dataclass(frozen=True, kw_only=True)
class Act:
    """One change of the demo.

    Attributes:
        key: Short name.
        patch: What is pushed.
        expected: Votes that its comments must carry, in order.
        says: What it shows, for the screen.
    """

    key: str
    patch: DemoPatch
    expected: tuple[int, ...]
    says: str


def acts() -> tuple[Act, ...]:
    """The changes, in the order in which they are pushed."""
    return (
        Act(key="good", patch=demo_patches.good_patch(), expected=(1,), says="a good patch"),
        Act(
            key="breaks",
            patch=demo_patches.breaks_resume(),
            expected=(-1, -1),
            says="breaks resume; rechecked once",
        ),
        Act(key="docs", patch=demo_patches.docs_only(), expected=(), says="documentation only"),
        Act(
            key="node-dies",
            patch=demo_patches.slow_good_patch(),
            expected=(1,),
            says="its node is killed half-way",
        ),
    )


@dataclass
class Told:
    """What was pushed so far, by key; filled by the story's thread."""

    changes: dict[str, PushedChange] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    running_since_s: float | None = None
    killed: bool = False
    rechecked: bool = False

    @property
    def done(self) -> bool:
        """Whether nothing more will be pushed, killed or said."""
        return len(self.changes) == len(acts()) and self.killed and self.rechecked


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What the story can see and do besides pushing.

    Attributes:
        running_node: Node on which the suite of a change runs now, or None.
        kill_node: Kills the machine of a node.
        votes: Votes of our comments on a change so far, in order.
    """

    running_node: Callable[[PushedChange], str | None]
    kill_node: Callable[[str], None]
    votes: Callable[[PushedChange], tuple[int, ...]]


def play(scene: Scene, directory: Path, stage: Stage, told: Told, asked: threading.Event) -> None:
    """Push the patches, kill a node, ask for a recheck; ends early when `asked` is set."""
    author = Pusher(scene.author, PROJECT, directory / "work" / "author")
    for act in acts():
        if asked.wait(STEP_S):
            return
        told.changes[act.key] = author.push_change(
            act.patch.subject, act.patch.files, body=act.patch.body
        )
        told.notes.append(f"pushed {told.changes[act.key].number}: {act.patch.subject}")
    while not told.done and not asked.wait(STEP_S):
        if not told.killed:
            _kill_when_running(stage, told)
        if not told.rechecked:
            _recheck_when_voted(author, stage, told)


def _kill_when_running(stage: Stage, told: Told) -> None:
    change = told.changes["node-dies"]
    node = stage.running_node(change)
    if node is None and stage.votes(change):
        told.killed = True
        told.notes.append(f"change {change.number} was over before its node could be killed")
    if node is None:
        told.running_since_s = None
        return
    now = time.monotonic()
    told.running_since_s = told.running_since_s or now
    if now - told.running_since_s > HALF_WAY_S:
        stage.kill_node(node)
        told.killed = True
        told.notes.append(f"killed the machine of node {node} in the middle of its suite")


def _recheck_when_voted(author: Pusher, stage: Stage, told: Told) -> None:
    change = told.changes["breaks"]
    if stage.votes(change):
        author.comment(change, "recheck is it really my patch?")
        told.rechecked = True
        told.notes.append(f"{author.server.user} commented `recheck` on {change.number}")
