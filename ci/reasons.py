# SPDX-License-Identifier: Apache-2.0
"""Why each queued build waits, in words, and when it will start by what is known; pure."""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ci.scheduling import Chooser, Closed, Needs, Node, Seating, Site, slots_left


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A queued build: what it needs, and what could be in its way."""

    build_id: str
    needs: Needs
    pipeline: str
    connection: str
    job: str


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All that a reason rests on.

    Attributes:
        site: Nodes, running builds, limits. A node of a process that is dead has trouble.
        closed: What is paused or in maintenance.
        away: Connections whose running builds wait for their server.
        workers: Slots of each live process that runs builds, by name.
    """

    site: Site
    closed: Closed = field(default_factory=Closed)
    away: frozenset[str] = frozenset()
    workers: Mapping[str, int] = field(default_factory=dict)

    def nodes(self, label: str) -> list[Node]:
        """All nodes of a label."""
        return [node for node in self.site.nodes if node.label == label]

    def usable(self, label: str) -> list[Node]:
        """The nodes of a label that are fit, reached and not closed."""
        return [node for node in self.nodes(label) if not node.trouble]

    @property
    def free_slots(self) -> dict[str, int]:
        """Builds that each worker may still take."""
        running = self.site.running
        return {name: slots_left(running, name, slots) for name, slots in self.workers.items()}


def without_dead(site: Site, workers: Mapping[str, int]) -> Site:
    """The site as it is while only some workers live: what the others alone reach is out."""
    nodes = [
        Node(
            name=node.name,
            label=node.label,
            tags=node.tags,
            worker=node.worker,
            free=node.free,
            trouble=node.trouble or _dead(node, workers),
        )
        for node in site.nodes
    ]
    return Site(nodes=nodes, running=site.running, limits=site.limits, closed=site.closed)


def _dead(node: Node, workers: Mapping[str, int]) -> str:
    if node.worker is None or node.worker in workers:
        return ""
    return f"{node.name} is reached by {node.worker} only, which does not run"


def obstacle(build: Waiting, scene: Scene) -> str:
    """Why a build could not start even if nothing else ran; empty when it could."""
    if build.connection in scene.away:
        return f"the review server of {build.connection} is away"
    if build.pipeline in scene.closed.pipelines:
        return scene.closed.pipelines[build.pipeline]
    for label, count in Counter(build.needs.labels).items():
        found = _label_obstacle(label, count, scene)
        if found:
            return found
    return _set_obstacle(build.needs, scene)


def _label_obstacle(label: str, count: int, scene: Scene) -> str:
    nodes = scene.nodes(label)
    if not nodes:
        return f"no provider offers a node with label {label}"
    if label in scene.closed.labels:
        return scene.closed.labels[label]
    if not scene.workers:
        return "no worker runs: start a process with the role work"
    if all(node.worker is not None and node.worker not in scene.workers for node in nodes):
        return f"no live worker reaches a {label} node"
    return _too_few(label, count, scene)


def _too_few(label: str, count: int, scene: Scene) -> str:
    nodes, usable = scene.nodes(label), scene.usable(label)
    limit = scene.site.limits.get(label)
    if not usable:
        return f"no {label} node is usable{_trouble(nodes)}"
    if count > len(usable):
        few = f"it needs {count} {label} nodes at once, and {len(usable)} are usable"
        return few + _trouble(nodes)
    if limit is not None and count > limit:
        return f"it needs {count} {label} nodes at once, and the label's slots are {limit}"
    return ""


def _set_obstacle(needs: Needs, scene: Scene) -> str:
    usable = scene.usable(needs.label)
    if not any(needs.requires <= node.tags for node in usable):
        tags = ", ".join(sorted(needs.requires))
        return f"no usable {needs.label} node has what it requires: {tags}"
    for worker in scene.workers:
        reached = [n for n in scene.site.nodes if not n.trouble and n.worker in {None, worker}]
        if Seating(reached).seat_all(needs.demands(worker)):
            return ""
    return "no single worker reaches all the nodes of its set"


def reason(build: Waiting, scene: Scene, chooser: Chooser, ahead: int) -> str:
    """Why a build waits that could start if others were done.

    Args:
        build: The build.
        scene: What is known.
        chooser: Has been asked for every build before it, and is asked for this one.
        ahead: Builds before it in its line.
    """
    note = f", {ahead} before it" if ahead else ", next in line"
    if chooser.start(build.needs):
        return _slots_reason(build.needs, scene, note)
    in_use = scene.site.in_use()
    for label, count in Counter(build.needs.labels).items():
        limit, usable = scene.site.limits.get(label), scene.usable(label)
        trouble = _trouble(scene.nodes(label))
        if limit is not None and in_use[label] + count > limit:
            return f"all {limit} slots of label {label} are taken{note}{trouble}"
        if in_use[label] + count > len(usable):
            return f"{_busy(label, len(usable), count)}{note}{trouble}"
    if build.needs.requires:
        tags = ", ".join(sorted(build.needs.requires))
        return f"every {build.needs.label} node with {tags} is busy or spoken for{note}"
    return f"the free nodes are spoken for by builds before it{note}"


def _busy(label: str, usable: int, count: int) -> str:
    if count > 1:
        return f"it needs {count} {label} nodes at once and too many of {usable} are busy"
    return f"all {usable} {label} nodes are busy" if usable > 1 else f"the {label} node is busy"


def _slots_reason(needs: Needs, scene: Scene, note: str) -> str:
    """There are nodes; what is lacking is a worker that takes it."""
    free = [name for name, left in scene.free_slots.items() if left > 0]
    if not free:
        return f"all {sum(scene.workers.values())} slots of this installation are busy{note}"
    for worker in free:
        if Chooser(scene.site, worker).start(needs):
            return f"it is about to start{note}"
    return f"no worker with a free slot reaches a free {needs.label} node{note}"


def _trouble(nodes: Sequence[Node]) -> str:
    found = "; ".join(node.trouble for node in nodes if node.trouble)
    return f" ({found})" if found else ""


@dataclass(frozen=True, kw_only=True)
class Busy:
    """A running build: nodes of a label that it occupies, and when it ends by its history."""

    count: int
    ends_at: datetime | None


def starts_at(
    waiting: Sequence[tuple[int, timedelta | None]],
    busy: Sequence[Busy],
    *,
    nodes: int,
    now: datetime,
) -> list[datetime | None]:
    """When each build of a line will start, if each takes as long as such builds did.

    Args:
        waiting: In order: (nodes of this label that it needs, how long such builds took; None:
            not known).
        busy: What runs on the nodes of the line.
        nodes: How many nodes the line has.
        now: The time.

    Returns:
        List of times, None where it is not known: behind a build of unknown length, or in a
        line without nodes.
    """
    free: list[datetime] = []
    for one in busy:
        if one.ends_at is None:
            return [None] * len(waiting)
        free.extend([max(now, one.ends_at)] * one.count)
    free = sorted(free)[: max(nodes, 0)]
    free.extend([now] * (nodes - len(free)))
    heapq.heapify(free)
    found: list[datetime | None] = []
    for count, takes in waiting:
        if count > len(free):
            found.append(None)
            continue
        taken = [heapq.heappop(free) for _ in range(count)]
        found.append(max(taken))
        if takes is None:
            return found + [None] * (len(waiting) - len(found))
        for _ in taken:
            heapq.heappush(free, max(taken) + takes)
    return found
