# SPDX-License-Identifier: Apache-2.0
"""Which waiting build starts next, and where: pure, over one look at nodes and running builds.

A build needs one node of its label with the tags it requires, and one of each label in its
`peers`: all of them or none. Nodes that running builds are still owed are kept for these. The
first build that waits for a whole set keeps what is free of it, so that builds of one node do
not pass it by for ever.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field


def next_turn(line: int, project: int) -> int:
    """The turn of a build that is queued now (start-time fair queueing).

    Args:
        line: Turn of the build that its line started last.
        project: Turn of the last build that its project queued there.

    Returns:
        A number; the smallest in a line starts first.
    """
    return max(line, project) + 1


@dataclass(frozen=True, kw_only=True)
class Closed:
    """Where nothing new may start, and why, in words: by name, of each kind."""

    pipelines: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict)

    def __or__(self, other: "Closed") -> "Closed":
        """Both together; where both close a thing, this one's word stands."""
        return Closed(
            pipelines={**other.pipelines, **self.pipelines},
            labels={**other.labels, **self.labels},
            nodes={**other.nodes, **self.nodes},
        )


OPEN = Closed()


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node as scheduling sees it.

    Attributes:
        name: Its name.
        label: What jobs ask for.
        tags: What jobs may require.
        worker: The one process that reaches it; None where any does.
        free: Whether nobody holds it.
        trouble: Why nothing may start there, in words; empty for a usable node.
    """

    name: str
    label: str
    tags: frozenset[str] = frozenset()
    worker: str | None = None
    free: bool = True
    trouble: str = ""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a build asks for: the shape of its set of nodes.

    Attributes:
        label: Label of its first node.
        peers: Labels of the further ones.
        requires: Tags of the first one.
    """

    label: str
    peers: tuple[str, ...] = ()
    requires: frozenset[str] = frozenset()

    @property
    def labels(self) -> tuple[str, ...]:
        """Label of every node of the set, the first one's first."""
        return (self.label, *self.peers)

    def demands(self, worker: str | None) -> "list[Demand]":
        """One demand a node, for a build that `worker` runs."""
        first = Demand(label=self.label, requires=self.requires, worker=worker)
        return [first, *(Demand(label=peer, worker=worker) for peer in self.peers)]


@dataclass(frozen=True, kw_only=True)
class Demand:
    """One node that a build needs; `worker` None: whichever worker comes."""

    label: str
    requires: frozenset[str] = frozenset()
    worker: str | None = None

    def fits(self, node: Node) -> bool:
        """Whether a node would do."""
        reached = node.worker is None or self.worker is None or node.worker == self.worker
        return reached and self.label == node.label and self.requires <= node.tags


@dataclass(frozen=True, kw_only=True)
class Running:
    """A build that runs, or was claimed and is about to.

    Attributes:
        build_id: Which one.
        worker: Process that runs it.
        needs: What it asked for.
        holds: Whether it has its nodes; else these are owed to it.
        stuck: It waits for its review server and takes no room.
    """

    build_id: str
    worker: str | None
    needs: Needs
    holds: bool
    stuck: bool = False


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A build that waits for nodes."""

    build_id: str
    needs: Needs


@dataclass(frozen=True, kw_only=True)
class Site:
    """One look at the installation.

    Attributes:
        nodes: All of them, the usable and the others.
        running: Builds that run anywhere.
        limits: Nodes of a label that may be in use at once, where that is limited.
        closed: Labels where nothing may start, and why.
    """

    nodes: Sequence[Node] = ()
    running: Sequence[Running] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    closed: Mapping[str, str] = field(default_factory=dict)

    def in_use(self) -> Counter[str]:
        """Nodes of each label that are held, or owed to a running build."""
        count = Counter(node.label for node in self.nodes if not node.free)
        for build in self.running:
            if not build.holds and not build.stuck:
                count.update(build.needs.labels)
        return count


class Seating:
    """Who gets which node: demands are moved to other nodes where that makes room for one more.

    Args:
        nodes: Those that may be given away, the first ones first.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._by_label: dict[str, list[Node]] = {}
        # A node that fewer could use otherwise goes first: bound to one process, with few tags.
        for node in sorted(nodes, key=lambda n: (n.worker is None, len(n.tags))):
            self._by_label.setdefault(node.label, []).append(node)
        self._seated: dict[str, Demand] = {}

    def seat(self, demands: Iterable[Demand]) -> list[Demand]:
        """Give a node to each demand that one can be found for; returns the others."""
        return [one for one in demands if not self._seat(one, set())]

    def seat_all(self, demands: Sequence[Demand]) -> bool:
        """Give a node to every demand, or to none."""
        before = dict(self._seated)
        if self.seat(demands):
            self._seated = before
            return False
        return True

    def of(self, demands: Sequence[Demand]) -> list[str]:
        """Names of the nodes that were given to demands, in their order."""
        seated = dict(self._seated)
        found = []
        for demand in demands:
            name = next(name for name, whose in seated.items() if whose == demand)
            del seated[name]
            found.append(name)
        return found

    def _seat(self, demand: Demand, tried: set[str]) -> bool:
        fitting = [node for node in self._by_label.get(demand.label, ()) if demand.fits(node)]
        for node in fitting:
            if node.name not in self._seated:
                self._seated[node.name] = demand
                return True
        for node in fitting:
            if node.name not in tried:
                tried.add(node.name)
                if self._seat(self._seated[node.name], tried):
                    self._seated[node.name] = demand
                    return True
        return False


class Chooser:
    """Says of one waiting build after the other, in order, whether a worker may start it.

    Args:
        site: The look.
        worker: Process that would run it; None: any.
    """

    def __init__(self, site: Site, worker: str | None) -> None:
        self._site = site
        self._worker = worker
        usable = [
            node
            for node in site.nodes
            if not node.trouble and (worker is None or node.worker in {None, worker})
        ]
        others = [n for n in site.nodes if not n.trouble and n.worker not in {None, worker}]
        self._usable = usable
        self._free = Seating(n for n in [*usable, *others] if n.free)
        for build in site.running:
            if not build.holds and not build.stuck:
                self._free.seat(build.needs.demands(build.worker))
        self._in_use = site.in_use()
        self._keeping: set[str] = set()

    def labels(self) -> tuple[str, ...]:
        """Labels where a build may start: those with a usable free node, not full or closed."""
        found = {node.label for node in self._usable if node.free}
        return tuple(sorted(label for label in found if not self._shut(label)))

    def _shut(self, label: str, more: int = 1) -> bool:
        limit = self._site.limits.get(label)
        full = limit is not None and self._in_use[label] + more > limit
        return full or label in self._site.closed

    def start(self, needs: Needs) -> bool:
        """Take the nodes of a set if it can start now; one that cannot may keep its share."""
        count = Counter(needs.labels)
        if any(label in self._site.closed for label in count):
            return False
        if any(self._in_use[label] + more > self._keep(label) for label, more in count.items()):
            self._keep_for(needs, count)
            return False
        if self._free.seat_all(needs.demands(self._worker)):
            self._in_use.update(count)
            return True
        self._keep_for(needs, count)
        return False

    def _keep(self, label: str) -> int:
        return self._site.limits.get(label, 1 << 30)

    def _keep_for(self, needs: Needs, count: Counter[str]) -> None:
        """Keep what is free of the first set in a line, if it can ever be whole here."""
        if not needs.peers or self._keeping & set(count):
            return
        if any(more > self._keep(label) for label, more in count.items()):
            return
        if not Seating(self._usable).seat_all(needs.demands(self._worker)):
            return
        self._keeping |= set(count)
        self._free.seat(needs.demands(self._worker))
        self._in_use.update(count)


def choose(site: Site, candidates: Iterable[Candidate], worker: str | None) -> Candidate | None:
    """The first candidate, in the order they are given, that a worker may start now."""
    chooser = Chooser(site, worker)
    return next((one for one in candidates if chooser.start(one.needs)), None)


def slots_left(running: Collection[Running], worker: str, slots: int) -> int:
    """How many more builds a worker may run; of those that are stuck, as many again may wait."""
    mine = [build for build in running if build.worker == worker]
    stuck = sum(1 for build in mine if build.stuck)
    return slots - (len(mine) - min(stuck, slots))
