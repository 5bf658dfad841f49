# SPDX-License-Identifier: Apache-2.0
"""Every recorded event, and every hostile one we could think of."""

import json
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ci.gerrit.parse import MAX_LINE_BYTES, Ignored, MalformedEvent, parse_line
from ci.model.event import BranchMoved, Event, EventKind
from ci.model.event_json import event_from_json, event_to_json
from ci.model.event_key import TOLERANCE_S, same_fact

DATA = Path(__file__).parents[1] / "data" / "gerrit"
RECORDED = sorted(
    path for path in DATA.glob("*.json") if path.name not in {"detail-rest.json", "query-rest.json"}
)
STREAMS = sorted(DATA.glob("stream*.jsonl"))
KINDS = {kind.value for kind in EventKind}
READ_OTHERWISE: dict[str, tuple[type, ...]] = {
    "ref-updated": (BranchMoved,),
    "reviewer-deleted": (Ignored, Event),
}


def recorded(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return value


def parsed(value: object) -> Event:
    event = parse_line(json.dumps(value).encode(), "review")
    assert isinstance(event, Event)
    return event


def changed(name: str, path: str, value: object) -> dict[str, Any]:
    """A recorded event with one member replaced; `...` as the value deletes it."""
    source = recorded(name)
    place: Any = source
    *way, last = path.split(".")
    for step in way:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return source


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_event_is_read_or_ignored(path: Path) -> None:
    source = json.loads(path.read_text())
    event = parse_line(json.dumps(source).encode(), "review")
    if source["type"] in READ_OTHERWISE:
        assert isinstance(event, READ_OTHERWISE[source["type"]])
        return
    if source["type"] not in KINDS:
        assert event == Ignored(type=source["type"], reason="nobody acts on this type")
        return
    assert isinstance(event, Event)
    assert event.kind.value == source["type"]
    assert event.connection == "review"
    assert event.change.number == source["change"]["number"]
    assert event.change.project == source["change"]["project"]
    assert (event.patchset is None) == ("patchSet" not in source)
    if event.patchset is not None:
        assert event.patchset.revision == source["patchSet"]["revision"]
    assert event.change.message == source["change"]["commitMessage"]
    assert event.change.owner_email == "admin@example.com"
    assert event.author.username in {"admin", "hv-ci"}
    assert event.occurred_at == datetime.fromtimestamp(source["eventCreatedOn"], UTC)
    assert event_from_json(json.loads(json.dumps(event_to_json(event)))) == event


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_recorded_stream_is_read_whole_with_distinct_keys(path: Path) -> None:
    events = [parse_line(line, "review") for line in path.read_bytes().splitlines()]
    keys = [event.key for event in events if isinstance(event, Event)]
    assert len(events) == 60
    assert len(keys) == 25
    assert len(set(keys)) == len(keys)
    assert sum(isinstance(event, BranchMoved) for event in events) == 2
    ignored = [event for event in events if isinstance(event, Ignored)]
    assert sorted({one.type for one in ignored if not one.expected}) == [
        "project-created",
        "reviewer-added",
    ]


def test_patchset_created() -> None:
    event = parsed(recorded("patchset-created"))
    assert event.key == "patchset-created:1:1"
    assert event.author.username == "admin"
    assert event.patchset is not None
    assert (event.patchset.ref, event.patchset.kind) == ("refs/changes/01/1/1", "REWORK")
    assert event.change.topic == "xen"
    assert event.texts == ()


def test_work_in_progress_is_noted() -> None:
    assert parsed(recorded("patchset-created-wip")).change.wip


def test_comment_texts_lack_gerrits_own_paragraph() -> None:
    event = parsed(recorded("comment-added-recheck-with-vote"))
    assert event.texts == ("recheck xen\n\nbecause the node fell over",)
    assert event.key.startswith("comment-added:1:admin:1795361284:")


def test_text_on_the_patch_set_as_a_whole_counts_alike_in_all_three_shapes() -> None:
    inline = recorded("comment-added-recheck") | {"comment": "Patch Set 3:\n\nrecheck"}
    apart = inline | {
        "comment": "Patch Set 3:\n\n(1 comment)",
        "patchSetComments": {"/PATCHSET_LEVEL": [{"message": "recheck"}], "a.py": [{}]},
    }
    both = apart | {"comment": "Patch Set 3:\n\n(1 comment)\n\nrecheck"}
    events = [parsed(one) for one in (inline, apart, both)]
    assert {event.texts for event in events} == {("recheck",)}
    assert len({event.key for event in events}) == 1


def test_blanks_and_line_ends_do_not_change_the_key() -> None:
    plain = changed("comment-added-recheck", "comment", "Patch Set 3:\n\nrecheck xen\nnow")
    other = changed("comment-added-recheck", "comment", "Patch Set 3:\n\nrecheck  xen \r\n\nnow")
    assert parsed(plain).key == parsed(other).key


def test_same_fact_bridges_the_second_between_stream_and_query() -> None:
    at = 1795361284
    first, later, too_late = (
        parsed(changed("comment-added-recheck", "eventCreatedOn", at + gap)).key
        for gap in (0, TOLERANCE_S, TOLERANCE_S + 1)
    )
    other = parsed(changed("comment-added-recheck", "comment", "Patch Set 3:\n\nno")).key
    assert first != later
    assert same_fact(later, first), "the stream dates it later"
    assert not same_fact(first, later)
    assert not same_fact(too_late, first)
    assert not same_fact(first, other)
    assert same_fact("patchset-created:1:2", "patchset-created:1:2")
    assert not same_fact("patchset-created:1:2", "patchset-created:1:3")
    assert same_fact("change-merged:4:101", "change-merged:4:100")
    assert same_fact("change-merged:4:100", "change-merged:4:101"), "clocks round"
    assert not same_fact("change-merged:4:100", "change-merged:5:100")
    assert not same_fact("change-merged:4:100", "change-merged")


def votes(name: str, **more: Any) -> list[tuple[str, int, bool, str]]:
    event = parsed(recorded(name) | more)
    return [(one.label, one.value, one.changed, one.by.username) for one in event.approvals]


class TestNewKinds:
    """Votes, states and branches."""

    def test_votes_that_a_comment_gave(self) -> None:
        assert votes("comment-added-vote-verified-plus1-ssh") == [("Verified", 1, True, "hv-ci")]
        assert votes("comment-added-vote-verified-minus1-rest") == [("Verified", -1, True, "hv-ci")]
        event = parsed(recorded("comment-added-vote-verified-plus1-ssh"))
        assert event.approvals[0].granted_at == event.occurred_at

    def test_votes_that_stood_before_are_no_news(self) -> None:
        assert votes("comment-added-vote-removed") == [
            ("Verified", -1, False, "admin"),
            ("Code-Review", 0, True, "admin"),
        ]

    def test_votes_that_others_took(self) -> None:
        assert votes("vote-deleted") == [("Verified", 0, True, "hv-ci")]
        assert parsed(recorded("vote-deleted")).author.username == "admin"
        with_reviewer = parsed(recorded("reviewer-deleted-with-vote"))
        assert with_reviewer.kind is EventKind.VOTE_DELETED
        assert with_reviewer.key.startswith("vote-deleted:3:hypervouch-ci:")
        assert [one.label for one in with_reviewer.approvals] == ["Verified"]

    def test_a_reviewer_without_votes_is_known_and_left_out(self) -> None:
        told = parse_line(json.dumps(recorded("reviewer-deleted")).encode(), "review")
        assert isinstance(told, Ignored)
        assert told.expected

    @pytest.mark.parametrize(
        ("value", "read"), [("-2", -2), (" 0", 0), ("+1", 1), (2, 2)], ids=repr
    )
    def test_values_as_servers_write_them(self, value: object, read: int) -> None:
        one = {"type": "Code-Review", "value": value, "oldValue": "0"}
        assert votes("comment-added-recheck", approvals=[one])[0][1] == read

    @pytest.mark.parametrize("value", ["", "1.5", "9999", True, None, [], "\u0661"], ids=repr)
    def test_what_is_no_vote_is_malformed(self, value: object) -> None:
        with pytest.raises(MalformedEvent):
            votes("comment-added-recheck", approvals=[{"type": "V", "value": value}])

    def test_states_say_what_they_are_now(self) -> None:
        wip, ready = (
            parsed(recorded("wip-state-changed")),
            parsed(recorded("wip-state-changed-ready")),
        )
        assert (wip.change.wip, ready.change.wip) == (True, False)
        assert wip.key != ready.key
        assert parsed(recorded("private-state-changed")).change.private
        assert parsed(recorded("topic-changed")).change.topic == "hv-matrix"
        assert set(parsed(recorded("hashtags-changed")).change.hashtags) == {"xen", "ci"}
        other = changed("topic-changed", "change.topic", "another")
        assert parsed(other).key != parsed(recorded("topic-changed")).key

    def test_the_order_of_hashtags_is_no_news(self) -> None:
        turned = changed("hashtags-changed", "change.hashtags", ["xen", "ci"])
        assert parsed(turned).key == parsed(recorded("hashtags-changed")).key

    def test_a_change_is_deleted_once(self) -> None:
        event = parsed(recorded("change-deleted"))
        assert (event.key, event.patchset) == ("change-deleted:3", None)

    def branch(self, **more: object) -> BranchMoved | Ignored:
        source = recorded("ref-updated")
        told = source | {"refUpdate": source["refUpdate"] | more}
        found = parse_line(json.dumps(told, separators=(",", ":")).encode(), "review")
        assert isinstance(found, BranchMoved | Ignored)
        return found

    def test_a_branch_moved(self) -> None:
        moved = self.branch()
        assert isinstance(moved, BranchMoved)
        assert (moved.project, moved.branch) == ("hypervisor-drivers", "master")
        assert (moved.old[:4], moved.new[:4]) == ("7ab3", "54dd")
        made, gone = self.branch(oldRev="0" * 40), self.branch(newRev="0" * 40)
        assert isinstance(made, BranchMoved)
        assert isinstance(gone, BranchMoved)
        assert (made.old, gone.new) == ("", "")
        short = self.branch(refName="master")
        assert isinstance(short, BranchMoved)
        assert short.branch == "master"

    @pytest.mark.parametrize("name", ["refs/changes/01/1/1", "refs/meta/config", "refs/tags/v1"])
    def test_other_refs_are_known_and_left_out(self, name: str) -> None:
        told = self.branch(refName=name)
        assert isinstance(told, Ignored)
        assert told.expected

    def test_a_changes_own_ref_is_not_even_read(self) -> None:
        torn = b'{"refName":"refs/changes/01/1/1"... "type":"ref-updated","eventCreatedOn":1}'
        assert isinstance(parse_line(torn, "review"), Ignored)

    @pytest.mark.parametrize("name", ["refs/heads/../x", "refs/heads/", "a b"])
    def test_unsafe_branches_are_refused(self, name: str) -> None:
        with pytest.raises(MalformedEvent):
            self.branch(refName=name)


def test_numbers_as_strings_are_read_as_older_servers_send_them() -> None:
    source = changed("patchset-created", "change.number", "1")
    source["patchSet"]["number"] = "1"
    assert parsed(source).key == "patchset-created:1:1"


def test_hidden_account_and_absent_patchset_are_no_error() -> None:
    source = changed("change-abandoned", "abandoner", ...)
    del source["patchSet"]
    event = parsed(source)
    assert event.patchset is None
    assert event.author.username == ""
    assert event.key == "change-abandoned:1:1795361288"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"NaN",
        b'{"type":"patchset-created"',
        b"{}",
        b'{"type":7}',
        b'{"type":"patchset-created"}',
        b'{"type":"patchset-created\xff"}',
        b"\xfe\xff\x00{",
        b"[" * 100_000,
        b'{"type":' + b"9" * 5000 + b"}",
    ],
)
def test_not_an_event_at_all(line: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse_line(line, "review")


def test_every_cut_of_a_real_line_is_malformed_not_a_crash() -> None:
    line = json.dumps(recorded("comment-added-recheck")).encode()
    for length in range(0, len(line), 7):
        with pytest.raises(MalformedEvent):
            parse_line(line[:length], "review")


def test_too_long_a_line_is_refused_unread() -> None:
    source = changed("comment-added-recheck", "comment", "x" * MAX_LINE_BYTES)
    with pytest.raises(MalformedEvent, match="10000000 bytes"):
        parse_line(json.dumps(source).encode(), "review")


def test_a_line_just_short_of_the_limit_is_read_and_capped() -> None:
    source = changed("comment-added-recheck", "comment", "recheck " + "x" * 9_000_000)
    assert len(parsed(source).texts[0]) <= 16_384


HOSTILE = [
    "../etc/passwd",
    "a/../b",
    "x\ny",
    "x; rm -rf /",
    "$(id)",
    "`id`",
    "-oProxyCommand=id",
    "--upload-pack=id",
    "a b",
    "",
    "x\0y",
    "/abs",
    "x'y",
    'x"y',
    "a//b",
    ".git/config",
    "x" * 300,
    "\u202egnp",
    "\ud800",
]


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
@pytest.mark.parametrize(
    "path", ["change.project", "change.branch", "change.id", "patchSet.ref", "patchSet.revision"]
)
def test_unsafe_names_are_refused(path: str, value: str) -> None:
    with pytest.raises(MalformedEvent):
        parse_line(json.dumps(changed("patchset-created", path, value)).encode(), "review")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("change", []),
        ("change", ...),
        ("change.number", 0),
        ("change.number", -1),
        ("change.number", True),
        ("change.number", 1.5),
        ("change.number", 2**63),
        ("change.number", "1; id"),
        ("change.number", 2),
        ("change.subject", {}),
        ("change.owner", "admin"),
        ("patchSet", ...),
        ("patchSet", "1"),
        ("patchSet.number", 2),
        ("patchSet.ref", "refs/changes/01/1/2"),
        ("patchSet.ref", "refs/changes/02/1/1"),
        ("patchSet.ref", "refs/heads/master"),
        ("patchSet.revision", "2F2CBAC7D7FD6DC544EA2E57A2BD49F0624414EF"),
        ("eventCreatedOn", ...),
        ("eventCreatedOn", "1795361283"),
        ("eventCreatedOn", -1),
        ("eventCreatedOn", 10**15),
    ],
)
def test_wrong_types_and_contradictions_are_refused(path: str, value: object) -> None:
    with pytest.raises(MalformedEvent) as caught:
        parse_line(json.dumps(changed("patchset-created", path, value)).encode(), "review")
    assert path.rpartition(".")[2] in str(caught.value) or "ref" in str(caught.value)


@pytest.mark.parametrize("value", [[], {"/PATCHSET_LEVEL": {}}, {"/PATCHSET_LEVEL": ["x"]}])
def test_wrong_patchset_comments_are_refused(value: object) -> None:
    source = recorded("comment-added-recheck") | {"patchSetComments": value}
    with pytest.raises(MalformedEvent):
        parse_line(json.dumps(source).encode(), "review")


def test_text_is_cleaned_and_capped() -> None:
    source = changed("patchset-created", "change.subject", "a\x1b[31m\n\u202eb\ud800\u2028c" * 200)
    source["change"]["url"] = "javascript:alert(1)"
    source["change"]["topic"] = "t\x00\r\nx"
    event = parsed(source)
    assert len(event.change.subject) <= 500
    assert event.change.subject.isprintable()
    assert event.change.subject.startswith("a[31m b c")
    assert event.change.url == ""
    assert event.change.topic == "t x"
    json.dumps(event_to_json(event)).encode()


def test_comment_keeps_its_lines_but_no_controls() -> None:
    source = changed(
        "comment-added-recheck", "comment", "Patch Set 3:\r\n\r\nrecheck\x07\u2029two\ud83d"
    )
    assert parsed(source).texts == ("recheck\ntwo",)


def test_an_unknown_types_name_is_cleaned() -> None:
    assert parse_line(json.dumps({"type": "x\n\x1b" * 100}).encode(), "review") == Ignored(
        type=("x " * 40).strip(), reason="nobody acts on this type"
    )


def test_parsing_does_not_change_its_input() -> None:
    source = recorded("comment-added-recheck")
    before = deepcopy(source)
    parsed(source)
    assert source == before
