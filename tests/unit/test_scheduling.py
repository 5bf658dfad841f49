# SPDX-License-Identifier: Apache-2.0
"""Which waiting build starts next: whole sets, tags, limits, and a fair turn for each project."""

from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.scheduling import (
    Candidate,
    Chooser,
    Closed,
    Needs,
    Node,
    Running,
    Seating,
    Site,
    choose,
    next_turn,
    slots_left,
)


def nodes(*names: str, **fields) -> list[Node]:
    """Nodes; the label is what stands before the dash."""
    return [Node(name=name, label=name.split("-")[0], **fields) for name in names]


def waits(*needs: Needs) -> list[Candidate]:
    return [Candidate(build_id=str(index), needs=one) for index, one in enumerate(needs)]


def first(site: Site, *needs: Needs, worker: str = "w1") -> str | None:
    found = choose(site, waits(*needs), worker)
    return found and found.build_id


LAB, XEN = Needs(label="lab"), Needs(label="xen")
PAIR = Needs(label="lab", peers=("lab",))


class TestRoom:
    def test_the_first_that_fits(self):
        assert first(Site(nodes=nodes("xen-1")), LAB, XEN) == "1"

    def test_what_is_held_bad_or_paused_is_no_room(self):
        held = nodes("lab-1", free=False)
        bad = nodes("lab-2", trouble="lab-2 is Bad")
        assert first(Site(nodes=[*held, *bad]), LAB) is None

    def test_a_build_that_was_claimed_is_owed_its_node(self):
        owed = Running(build_id="r", worker="w2", needs=LAB, holds=False)
        assert first(Site(nodes=nodes("lab-1"), running=[owed]), LAB) is None
        assert first(Site(nodes=nodes("lab-1", "lab-2"), running=[owed]), LAB) == "0"

    def test_one_that_waits_for_its_server_is_owed_nothing(self):
        stuck = Running(build_id="r", worker="w2", needs=LAB, holds=False, stuck=True)
        assert first(Site(nodes=nodes("lab-1"), running=[stuck]), LAB) == "0"

    def test_only_its_own_machines_nodes(self):
        site = Site(nodes=nodes("lab-1", worker="w2"))
        assert (first(site, LAB), first(site, LAB, worker="w2")) == (None, "0")

    def test_what_is_owed_elsewhere_sits_on_that_machine_first(self):
        owed = Running(build_id="r", worker="w2", needs=LAB, holds=False)
        site = Site(nodes=[*nodes("lab-1", worker="w2"), *nodes("lab-2")], running=[owed])
        assert first(site, LAB) == "0"

    def test_a_closed_label_and_a_full_one(self):
        some = nodes("lab-1", "lab-2", "lab-3")
        assert first(Site(nodes=some, closed={"lab": "paused"}), LAB) is None
        held = nodes("lab-4", free=False)
        assert first(Site(nodes=[*some, *held], limits={"lab": 1}), LAB) is None
        assert first(Site(nodes=[*some, *held], limits={"lab": 2}), LAB) == "0"

    def test_stuck_builds_take_slots_only_beyond_as_many_again(self):
        stuck = [
            Running(build_id=str(n), worker="w1", needs=LAB, holds=False, stuck=True)
            for n in range(3)
        ]
        assert slots_left(stuck[:2], "w1", 2) == 2
        assert slots_left(stuck, "w1", 2) == 1
        assert slots_left(stuck, "w2", 2) == 2


class TestTags:
    BIG = Needs(label="lab", requires=frozenset({"big"}))

    def test_only_a_node_that_has_them(self):
        assert first(Site(nodes=nodes("lab-1")), self.BIG) is None
        assert first(Site(nodes=nodes("lab-1", tags=frozenset({"big"}))), self.BIG) == "0"

    def test_who_needs_none_leaves_the_tagged_node_alone(self):
        seating = Seating([*nodes("lab-1", tags=frozenset({"big"})), *nodes("lab-2")])
        plain = LAB.demands("w1")
        assert seating.seat_all(plain)
        assert seating.of(plain) == ["lab-2"]

    def test_a_demand_moves_where_that_makes_room(self):
        tags = [{"a"}, {"b"}, {"a", "b"}]
        some = [Node(name=f"n{i}", label="lab", tags=frozenset(tag)) for i, tag in enumerate(tags)]
        seating = Seating(some)
        for tag in ("a", "a", "b"):
            assert seating.seat_all(Needs(label="lab", requires=frozenset(tag)).demands("w1"))


class TestSets:
    def test_all_or_none(self):
        assert first(Site(nodes=nodes("lab-1")), PAIR) is None
        assert first(Site(nodes=nodes("lab-1", "lab-2")), PAIR) == "0"

    def test_the_first_set_keeps_what_is_free_of_it(self):
        site = Site(nodes=[*nodes("lab-1"), *nodes("lab-2", free=False)])
        assert first(site, PAIR, LAB, LAB) is None
        assert first(site, LAB, PAIR) == "0"

    def test_what_it_does_not_need_goes_to_others(self):
        mixed = Needs(label="lab", peers=("xen",))
        site = Site(nodes=[*nodes("lab-1", "lab-2"), *nodes("xen-1", free=False)])
        assert first(site, mixed, LAB) == "1"
        assert first(Site(nodes=site.nodes[1:]), mixed, LAB) is None

    @pytest.mark.parametrize(
        "site",
        [
            Site(nodes=nodes("lab-1")),
            Site(nodes=[*nodes("lab-1"), *nodes("lab-2", worker="w2")]),
            Site(nodes=nodes("lab-1", "lab-2"), limits={"lab": 1}),
        ],
        ids=["too few nodes", "no single worker reaches them", "more than its label may use"],
    )
    def test_one_that_can_never_start_keeps_nothing(self, site):
        assert first(site, PAIR, LAB) == "1"

    def test_one_whose_peers_are_closed_keeps_nothing(self):
        mixed = Needs(label="lab", peers=("xen",))
        site = Site(nodes=nodes("lab-1", "xen-1"), closed={"xen": "paused"})
        assert first(site, mixed, LAB) == "1"

    def test_only_the_first_set_of_a_line_keeps_nodes(self):
        triple = Needs(label="lab", peers=("lab", "lab"))
        site = Site(nodes=[*nodes("lab-1", "lab-2", "lab-3"), *nodes("lab-4", free=False)])
        held = Running(build_id="r", worker="w1", needs=LAB, holds=False)
        assert first(Site(nodes=site.nodes, running=[held]), triple, PAIR, LAB) is None


def test_what_is_closed_adds_up():
    both = Closed(nodes={"a": "mine"}) | Closed(nodes={"a": "other", "b": "other"})
    assert both.nodes == {"a": "mine", "b": "other"}


SHAPES = st.builds(
    Needs,
    label=st.sampled_from(["lab", "xen"]),
    peers=st.lists(st.sampled_from(["lab", "xen"]), max_size=2).map(tuple),
    requires=st.sets(st.sampled_from(["big", "fast"]), max_size=2).map(frozenset),
)
NODES = st.lists(
    st.builds(
        dict,
        label=st.sampled_from(["lab", "xen"]),
        tags=st.sets(st.sampled_from(["big", "fast"])).map(frozenset),
        free=st.booleans(),
        worker=st.sampled_from([None, "w1", "w2"]),
    ),
    max_size=8,
).map(lambda found: [Node(name=f"n{i}", **fields) for i, fields in enumerate(found)])


@given(some=NODES, needs=st.lists(SHAPES, max_size=6), limit=st.integers(1, 4))
def test_what_starts_has_room_at_once(some, needs, limit):
    """Whatever is started together: each has nodes of its own, within every limit."""
    site = Site(nodes=some, limits={"lab": limit})
    chooser = Chooser(site, "w1")
    started = [one for one in needs if chooser.start(one)]
    reached = [n for n in some if n.free and n.worker in {None, "w1"}]
    assert Seating(reached).seat_all([d for one in started for d in one.demands("w1")])
    used = Counter(label for one in started for label in one.labels)
    held = sum(1 for n in some if n.label == "lab" and not n.free)
    assert not used["lab"] or held + used["lab"] <= limit


@given(some=NODES, needs=SHAPES)
def test_a_set_that_has_its_nodes_free_starts(some, needs):
    reached = [n for n in some if n.free and n.worker in {None, "w1"}]
    fits = Seating(reached).seat_all(needs.demands("w1"))
    assert Chooser(Site(nodes=some), "w1").start(needs) == fits


class Line:
    """The turns of one line, as the database keeps them."""

    def __init__(self) -> None:
        self.clock = 0
        self.last: dict[str, int] = {}
        self.waiting: list[tuple[int, int, str]] = []
        self.drawn = 0

    def queue(self, project: str) -> None:
        turn = self.last[project] = next_turn(self.clock, self.last.get(project, 0))
        self.drawn += 1
        self.waiting.append((turn, self.drawn, project))

    def start(self) -> str:
        self.waiting.sort()
        turn, _, project = self.waiting.pop(0)
        self.clock = max(self.clock, turn)
        return project


def test_a_project_with_a_thousand_builds_delays_another_by_one_turn():
    line = Line()
    for _ in range(1000):
        line.queue("big")
    for _ in range(300):
        line.start()
    line.queue("small")
    assert "small" in {line.start(), line.start()}


MOVES = st.lists(st.sampled_from(["a", "b", "c", "start", "start"]), max_size=80)


@given(moves=MOVES)
def test_nobody_is_passed_by_twice(moves: Iterable[str]):
    """While a project waits, no other one starts more than two builds."""
    line = Line()
    passed: dict[str, Counter[str]] = {}
    for move in moves:
        waiting = {project for _, _, project in line.waiting}
        if move != "start":
            line.queue(move)
            if move not in waiting:
                passed[move] = Counter()
        elif waiting:
            started = line.start()
            for project in waiting - {started}:
                passed[project][started] += 1
                assert passed[project][started] <= 2
            passed[started] = Counter()
