# SPDX-License-Identifier: Apache-2.0
"""Any bytes at all, and real events with anything in them: clean values or MalformedEvent."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ci.gerrit.events_log import plain
from ci.gerrit.parse import Ignored, MalformedEvent, parse_line
from ci.model.change import valid_branch, valid_project
from ci.model.event import Approval, BranchMoved, Event
from ci.model.event_json import event_from_json, event_to_json

DATA = Path(__file__).parents[1] / "data" / "gerrit"
RECORDED = [
    json.loads(path.read_text())
    for path in sorted(DATA.glob("*.json"))
    if path.name not in {"detail-rest.json", "query-rest.json"}
]
NASTY = [
    "<script>alert(1)</script>",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe",
    "\u2066a\u2069",
    "nul\x00byte",
    "\ud800\udfff",
    "a\r\nb\u2028c\x85d",
    "../../etc/passwd",
    "'; DROP TABLE ci_event; --",
    "$(reboot)`id`",
    "-oProxyCommand=id",
    "{{ 7*7 }}",
    "recheck " * 3000,
    "\N{COMBINING ACUTE ACCENT}" * 5000,
    '"type":"ref-updated","eventCreatedOn":1}',
    '"refName":"refs/changes/',
]
LONGEST = {"subject": 500, "topic": 500, "url": 500, "owner": 500, "message": 8_000}

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=30)
    | st.sampled_from(NASTY),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=8,
)
slow = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def places(value: object, way: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Every place in a JSON value, as the keys that lead there."""
    if way:
        yield way
    inner: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        inner = enumerate(value)
    for key, one in inner:
        yield from places(one, (*way, key))


def changed(source: Any, way: tuple[Any, ...], value: object) -> Any:
    copy = json.loads(json.dumps(source))
    place = copy
    for key in way[:-1]:
        place = place[key]
    place[way[-1]] = value
    return copy


def check(line: bytes) -> Event | BranchMoved | Ignored | None:
    """Parse, and look at whatever came out; None where it was refused."""
    found, said = None, ""
    try:
        found = parse_line(line, "review")
    except MalformedEvent as error:
        said = error.message
    assert len(said) < 1000
    if found is None:
        return None
    if isinstance(found, Ignored):
        assert is_clean(found.type, lines=False)
        assert len(found.type) <= 80
    elif isinstance(found, BranchMoved):
        assert valid_project(found.project)
        assert valid_branch(found.branch)
        assert {*found.old, *found.new} <= set("0123456789abcdef")
    else:
        check_event(found)
    return found


def check_event(event: Event) -> None:
    change = event.change
    assert valid_project(change.project)
    assert valid_branch(change.branch)
    assert len(event.key) <= 200
    assert event.key.isascii()
    assert event.key.isprintable()
    for name, limit in LONGEST.items():
        text = getattr(change, name)
        assert len(text) <= limit
        assert is_clean(text, lines=name == "message")
    accounts = [event.author, *(one.by for one in event.approvals)]
    lines = [
        *(text for one in accounts for text in (one.username, one.name, one.email)),
        *change.hashtags,
        *(one.label for one in event.approvals),
    ]
    assert all(is_clean(text, lines=False) and len(text) <= 500 for text in lines)
    assert all(is_clean(text, lines=True) and len(text) <= 16_384 for text in event.texts)
    assert len(change.hashtags) <= 100
    assert len(event.approvals) <= 100
    assert all(-100 <= one.value <= 100 for one in event.approvals)
    stored = json.dumps(event_to_json(event))
    stored.encode()
    assert event_from_json(json.loads(stored)) == event


def is_clean(text: str, *, lines: bool) -> bool:
    """No controls, no marks that reorder, no half characters; line ends only where wanted."""
    allowed = {"\n", "\t"} if lines else set()
    bad = {
        *map(chr, range(32)),
        *map(chr, range(0x7F, 0xA0)),
        *map(chr, range(0x202A, 0x202F)),
        *map(chr, range(0x2066, 0x206A)),
        "\u2028",
        "\u2029",
    } - allowed
    return not (set(text) & bad) and not any("\ud800" <= one <= "\udfff" for one in text)


@slow
@given(st.binary(max_size=400))
def test_any_bytes(line: bytes) -> None:
    check(line)


@slow
@given(anything)
def test_any_json(value: object) -> None:
    check(json.dumps(value).encode())


@slow
@given(st.data())
def test_a_real_event_with_anything_in_one_place(data: st.DataObject) -> None:
    source = data.draw(st.sampled_from(RECORDED))
    way = data.draw(st.sampled_from(list(places(source))))
    check(json.dumps(changed(source, way, data.draw(anything))).encode())


@slow
@given(st.data())
def test_a_real_event_with_some_bytes_changed(data: st.DataObject) -> None:
    line = bytearray(
        json.dumps(data.draw(st.sampled_from(RECORDED)), separators=(",", ":")), "utf-8"
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(line) - 1))
        line[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        if not line:
            break
    check(bytes(line))


@pytest.mark.parametrize("nasty", NASTY, ids=range(len(NASTY)))
def test_every_text_of_every_event_may_be_hostile(nasty: str) -> None:
    read = 0
    for source in RECORDED:
        for way in places(source):
            line = json.dumps(changed(source, way, nasty)).encode()
            read += isinstance(check(line), Event)
    assert read > 100, "most texts are only shown: what is in them is no reason to lose an event"


@pytest.mark.parametrize("filling", ["x", "\x00", "\u202e", "a\n", "<b>"])
@pytest.mark.parametrize("name", ["commitMessage", "subject", "topic", "url", "owner"])
def test_a_megabyte_is_cut(name: str, filling: str) -> None:
    source = next(one for one in RECORDED if one["type"] == "patchset-created")
    huge: Any = filling * (1_000_000 // len(json.dumps(filling)))
    value = {"name": huge, "email": huge} if name == "owner" else huge
    assert isinstance(check(json.dumps(changed(source, ("change", name), value)).encode()), Event)


def test_what_looks_like_a_line_end_inside_of_a_text_does_not_hide_an_event() -> None:
    forged = '"refName":"refs/changes/01/1/1"},"type":"ref-updated","eventCreatedOn":1}'
    for source in RECORDED:
        if source["type"] == "comment-added":
            for text in (forged, forged + "\n", forged + '"'):
                line = json.dumps(source | {"comment": f"recheck {text}"}, separators=(",", ":"))
                assert isinstance(parse_line(line.encode(), "review"), Event)
                reordered = json.dumps(
                    {"eventCreatedOn": 1795361285} | source | {"x": text}, separators=(",", ":")
                )
                assert isinstance(parse_line(reordered.encode(), "review"), Event)


def test_the_events_log_may_write_projects_as_objects() -> None:
    for source in RECORDED:
        line = json.dumps(source).encode()
        told = parse_line(line, "review")
        for name in ("change", "refUpdate"):
            if name in source:
                place = source[name] | {"project": {"name": source[name]["project"]}}
                line = json.dumps(source | {name: place}).encode()
        assert parse_line(plain(line), "review") == told


@slow
@given(st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode()))
def test_plain_never_raises(line: bytes) -> None:
    assert isinstance(plain(line), bytes)


def test_a_stored_event_is_what_a_general_walk_would_write() -> None:
    for source in RECORDED:
        event = parse_line(json.dumps(source).encode(), "review")
        if isinstance(event, Event):
            slowly = asdict(event)
            quickly = event_to_json(event)
            assert set(quickly) == set(slowly)
            assert set(quickly["change"]) == set(slowly["change"])
            assert quickly["author"] == slowly["author"]
            assert quickly["patchset"] == slowly["patchset"]
            assert all(isinstance(one, Approval) for one in event.approvals)
