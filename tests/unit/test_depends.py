# SPDX-License-Identifier: Apache-2.0
"""`Depends-On:` lines: how they are read, followed and refused; nothing hostile gets through."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci import depends
from ci.depends import LIMIT, Found, Reference, Root, Site, footers, read, resolve
from ci.errors import DependencyError, ReviewServerError
from ci.model.stack import Dependency, stack_from_json, stack_to_json
from tests.kit.core import PROJECT, found

ROOT = Root(project=PROJECT, branch="main", number=12)
SITE = Site(
    own=("https://review.example.org/r/", "https://ssh.example.org/"),
    others={"beta": ("https://beta.example.org/",)},
)
BASE = "https://review.example.org/r"
CHANGE_ID = "I" + "ab" * 20


def on(*numbers: int) -> str:
    """A message that depends on these changes."""
    return "A change\n\n" + "".join(f"Depends-On: {BASE}/{n}\n" for n in numbers)


class Server:
    """Changes by number, and by one Change-Id."""

    def __init__(self, *changes: Found, twins: Sequence[Found] = ()) -> None:
        self.changes = {one.patchset.number: one for one in changes}
        self.twins = twins
        self.asked = 0

    def by_number(self, number: int, project: str) -> Found | None:
        self.asked += 1
        return self.changes.get(number)

    def by_change_id(self, change_id: str) -> Sequence[Found]:
        self.asked += 1
        return self.twins if change_id == CHANGE_ID else ()


def numbers(message: str, server: Server, root: Root = ROOT) -> list[int]:
    return [one.number for one in resolve(root, message, server, SITE)]


class TestFooters:
    def test_one_a_line_anywhere_in_any_case(self):
        message = "Depends-On: a\n\ntext Depends-On: no\ndepends-ON:\tb \r\n  Depends-On: no\n"
        assert footers(message) == ("a", "b")

    def test_each_once_and_cut(self):
        assert footers("Depends-On: a\nDepends-On: b\nDepends-On: a") == ("a", "b")
        assert [len(v) for v in footers("Depends-On: " + "x" * 9999)] == [depends.VALUE_LIMIT]

    def test_none(self):
        assert footers("Fix it\n\nDepends on nothing.\nChange-Id: " + CHANGE_ID) == ()


class TestRead:
    @pytest.mark.parametrize(
        ("path", "project"),
        [
            ("/c/acme/virt/+/41", "acme/virt"),
            ("/c/acme%2Fvirt/+/41/3", "acme/virt"),
            ("/c/acme/virt/+/41/3/a/+/7.py", "acme/virt"),
            ("/c/41", ""),
            ("/41", ""),
            ("/41/", ""),
            ("/#/c/41/", ""),
            ("/#/c/41/2/file.py", ""),
            ("/#/c/acme/virt/+/41", "acme/virt"),
        ],
    )
    def test_addresses_of_changes(self, path, project):
        assert read(BASE + path, SITE) == Reference(number=41, project=project)

    @pytest.mark.parametrize(
        "value",
        [
            "http://review.example.org/r/41",
            "HTTPS://Review.Example.org:443/r/41",
            "https://ssh.example.org/41",
            "https://user:password@review.example.org/r/41",
        ],
    )
    def test_ways_to_write_our_server(self, value):
        assert read(value, SITE).number == 41

    def test_a_change_id_in_any_case(self):
        assert read(CHANGE_ID, SITE) == Reference(change_id=CHANGE_ID)
        assert read(CHANGE_ID.swapcase(), SITE) == Reference(change_id=CHANGE_ID)

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ("https://beta.example.org/41", "another server .connection beta."),
            ("https://github.com/acme/virt/pull/41", "a server that this CI does not know"),
            ("https://review.example.org:8443/r/41", "a server that this CI does not know"),
            ("https://review.example.org/41", "names no change"),
            (f"{BASE}/0", "names no change"),
            (f"{BASE}/99999999999", "names no change"),
            (f"{BASE}/9999999999", "names no change"),
            (f"{BASE}/c/../../etc/+/41", "names no change"),
            (f"{BASE}/c/-oProxyCommand=x/+/41", "names no change"),
            (f"{BASE}/q/topic:x", "names no change"),
            ("the kernel patch", "names no change"),
            ("", "Depends-On nothing names no change"),
            ("https://[::1", "names no change"),
            ("https://h:port/1", "names no change"),
            ("ssh://review.example.org/r/41", "names no change"),
            ("https://evil.example\u202e/1", "names no change"),
        ],
    )
    def test_everything_else_is_told_in_words(self, value, said):
        with pytest.raises(DependencyError, match=said) as error:
            read(value, SITE)
        assert error.value.message.isprintable()
        assert error.value.hint

    @given(st.text(max_size=600))
    def test_any_text_is_read_or_refused(self, value):
        wanted, trouble = Reference(), ""
        try:
            wanted = read(value[: depends.VALUE_LIMIT], SITE)
        except DependencyError as error:
            trouble = error.message
        assert bool(trouble) != bool(wanted.number or wanted.change_id)
        assert trouble.isprintable()
        assert len(trouble) < 300


class TestFollow:
    def test_nothing_is_asked_without_a_line(self):
        server = Server()
        assert numbers("A change", server) == []
        assert server.asked == 0

    def test_in_the_order_of_the_lines(self):
        assert numbers(on(41, 40), Server(found(40), found(41))) == [41, 40]

    def test_what_a_dependency_needs_comes_first_and_once(self):
        server = Server(found(40), found(41, message=on(40)), found(42, message=on(40, 41)))
        assert numbers(on(42, 41), server) == [40, 41, 42]

    def test_a_merged_one_asks_for_nothing_and_is_not_followed(self):
        merged = found(41, status="MERGED", message=on(99))
        assert numbers(on(41, 40), Server(merged, found(40))) == [40]

    @pytest.mark.parametrize(("status", "word"), [("ABANDONED", "abandoned"), ("ODD", "state ODD")])
    def test_one_that_is_given_up(self, status, word):
        with pytest.raises(DependencyError, match=f"change 12 depends on change 41, .* {word}"):
            numbers(on(41), Server(found(41, status=status)))

    def test_one_deeper_down(self):
        server = Server(found(41, message=on(40)), found(40, status="ABANDONED"))
        with pytest.raises(DependencyError, match="change 41 depends on change 40"):
            numbers(on(41), server)

    def test_one_that_is_not_there(self):
        with pytest.raises(DependencyError, match=r"change 12 depends on .*/41, which is not"):
            numbers(on(41), Server())

    @pytest.mark.parametrize(
        ("changes", "circle"),
        [
            ([], "12, 12"),
            ([found(41, message=on(12))], "12, 41, 12"),
            ([found(41, message=on(42)), found(42, message=on(41))], "41, 42, 41"),
        ],
    )
    def test_a_circle(self, changes, circle):
        first = changes[0].patchset.number if changes else 12
        server = Server(found(12, message=on(first)), *changes)
        with pytest.raises(DependencyError, match=rf"in a circle: {circle} \("):
            numbers(on(first), server)

    def test_as_many_as_allowed_and_no_more(self):
        chain = [found(100 + n, message=on(101 + n)) for n in range(LIMIT - 1)]
        last = found(100 + LIMIT - 1)
        assert len(numbers(on(100), Server(*chain, last))) == LIMIT
        longer = found(100 + LIMIT - 1, message=on(100 + LIMIT))
        with pytest.raises(DependencyError, match=f"more than {LIMIT} changes"):
            numbers(on(100), Server(*chain, longer, found(100 + LIMIT)))

    def test_too_many_lines_are_refused_before_anybody_is_asked(self):
        server = Server()
        with pytest.raises(DependencyError, match=f"{LIMIT + 1} Depends-On lines"):
            numbers(on(*range(100, 101 + LIMIT)), server)
        assert server.asked == 0

    def test_the_questions_are_bounded_for_any_web_of_changes(self):
        web = [found(n, message=on(*range(n + 1, min(n + 21, 140)))) for n in range(100, 140)]
        server = Server(*web)
        with pytest.raises(DependencyError, match="more than"):
            numbers(on(*range(100, 120)), server)
        assert server.asked <= LIMIT * (LIMIT + 1)

    def test_a_server_that_is_away_is_not_the_authors_fault(self):
        class Away(Server):
            def by_number(self, number: int, project: str) -> Found | None:
                raise ReviewServerError("away", retryable=True)

        with pytest.raises(ReviewServerError, match="away"):
            numbers(on(41), Away())


class TestChangeId:
    MESSAGE = f"A\n\nDepends-On: {CHANGE_ID}\n"

    def told(self, *twins: Found) -> list[int]:
        return numbers(self.MESSAGE, Server(twins=twins))

    def test_the_one_there_is(self):
        assert self.told(found(41, project="acme/os", branch="stable")) == [41]

    def test_of_several_those_of_our_branch(self):
        other = found(40, branch="stable")
        assert self.told(other, found(41), found(42, project="acme/os")) == [41, 42]

    def test_of_several_those_not_given_up(self):
        assert self.told(found(40, status="ABANDONED"), found(41)) == [41]
        assert self.told(found(40, status="ABANDONED"), found(41, status="MERGED")) == []
        with pytest.raises(DependencyError, match="abandoned"):
            self.told(found(40, status="ABANDONED"))

    def test_the_change_itself_where_another_project_has_the_same(self):
        assert self.told(found(12), found(41, project="acme/os")) == [41]
        with pytest.raises(DependencyError, match="circle"):
            self.told(found(12))

    def test_none(self):
        with pytest.raises(DependencyError, match="not there or hidden"):
            self.told()


class TestPlaces:
    def test_below_and_beside(self):
        changes = [found(40, project="acme/os"), found(41), found(42, branch="stable")]
        stack = resolve(ROOT, on(40, 41, 42), Server(*changes), SITE)
        assert [one.number for one in depends.below(stack, ROOT)] == [41]
        names = [(name, [d.number for d in some]) for name, some in depends.beside(stack, ROOT)]
        assert names == [("acme/os", [40]), (PROJECT, [42])]

    def test_two_branches_of_one_project_have_no_place(self):
        changes = [found(40, project="acme/os"), found(41, project="acme/os", branch="stable")]
        with pytest.raises(DependencyError, match="two branches of acme/os"):
            numbers(on(40, 41), Server(*changes))

    def test_a_project_inside_another_ones_folder_has_none(self):
        changes = [found(40, project="acme"), found(41, project="acme/os")]
        with pytest.raises(DependencyError, match="acme and on acme/os"):
            numbers(on(40, 41), Server(*changes))
        assert numbers(on(41), Server(*changes)) == [41]


def test_a_stack_survives_its_json():
    stack: tuple[Dependency, ...] = (found(40).patchset, found(41, tip="7" * 40).patchset)
    assert stack_from_json(stack_to_json(stack)) == stack


@given(st.dictionaries(st.integers(1, 30), st.lists(st.integers(1, 30), max_size=4), max_size=30))
def test_any_web_ends_in_order_or_in_words(web):
    server = Server(*[found(n, message=on(*below)) for n, below in web.items()])
    try:
        order = numbers(on(*web.get(12, ())), server)
    except DependencyError:
        return
    assert len(order) == len(set(order)) <= LIMIT
    for place, number in enumerate(order):
        assert set(web[number]) <= set(order[:place])
