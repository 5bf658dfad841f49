# SPDX-License-Identifier: Apache-2.0
"""Gerrit's query language as the sandbox reads it."""

import pytest

from ci.sandbox.queries import BadQuery, parse, parse_time
from ci.sandbox.records import ApprovalRecord, ChangeRecord, PatchSetRecord

NOON = parse_time("2026-03-01 12:00:00")
VOTE = ApprovalRecord(patchset=2, username="ci", label="Verified", value=1, granted=NOON)


def _patchset(number: int) -> PatchSetRecord:
    return PatchSetRecord(
        number=number,
        revision=f"{number:040x}",
        parents=(),
        uploader="ada",
        author_name="Ada",
        author_email="ada@example.com",
        created=NOON,
        kind="REWORK",
        insertions=1,
        deletions=0,
        message="Resume guests\n\nWith one call.\n",
    )


def _change(**given: object) -> ChangeRecord:
    values = {
        "number": 7,
        "project": "acme/virt",
        "branch": "master",
        "change_id": "I" + "a" * 40,
        "owner": "ada",
        "created": NOON,
        "updated": NOON,
        "topic": "xen",
        "wip": True,
        "hashtags": ("CI", "xen"),
        "patchsets": (_patchset(1), _patchset(2)),
        "approvals": (VOTE,),
    }
    return ChangeRecord(**{**values, **given})


@pytest.mark.parametrize(
    "query",
    [
        "",
        "7",
        "change:7",
        "change:acme/virt~7",
        "Iaaaaaaa",
        "status:open",
        "is:open project:acme/virt",
        "p:acme/virt branch:refs/heads/master",
        'project:"acme/virt"',
        "projects:acme",
        'after:"2026-03-01 12:00:00"',
        "since:2026-03-01",
        "since:{2026-03-01 11:59:59.500}",
        'before:"2026-03-01 13:00:00 +0100"',
        "-status:merged",
        "NOT status:closed",
        "(project:other OR project:acme/virt) status:new",
        "status:merged OR (owner:ada AND topic:xen)",
        'status:open"',
        "limit:5",
        "hashtag:ci",
        "hashtag:#xen -hashtag:kvm",
        "message:resume",
        'message:"call one"',
        "is:wip -is:private",
        "label:Verified=1",
        "label:Verified+1",
        "label:Verified=+1,user=ci",
        "label:Verified=1,ci",
        "label:Verified=MAX",
        "label:Verified>=0 label:Verified<2",
        "label:Code-Review=0",
        "-label:Nope=1",
    ],
)
def test_what_matches(query: str):
    assert parse(query).matches(_change())


@pytest.mark.parametrize(
    "query",
    [
        "8",
        "change:other~7",
        "project:acme",
        "status:abandoned",
        "-is:open",
        'after:"2026-03-01 12:00:01"',
        "until:2026-02-28",
        "project:acme/virt branch:stable",
        "status:merged OR owner:bob",
        "- owner:ada",
        "hashtag:c",
        "message:resum",
        "is:private",
        "label:Verified=-1",
        "label:Verified=1,user=ada",
        "label:Verified<=MIN",
        "label:Verified>1",
        "label:Code-Review+2",
        "label:Nope=1",
    ],
)
def test_what_does_not_match(query: str):
    assert not parse(query).matches(_change())


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("bogus:1", "Unsupported operator bogus:1"),
        ("word", "Unsupported query: word"),
        ("status:odd", "Unrecognized value: odd"),
        ("after:yesterday", "Invalid timestamp: yesterday"),
        ("limit:0", "limit must be positive: 0"),
        ("(status:open", "bracket is not closed"),
        ("status:open )", "unexpected"),
        ("change:a~b", "Invalid change"),
        ("label:Verified", "Invalid label query"),
        ("is:bogus", "Unrecognized value: bogus"),
        ("(" * 60 + "7" + ")" * 60, "nested too deeply"),
    ],
)
def test_what_is_not_understood(query: str, complaint: str):
    with pytest.raises(BadQuery, match=complaint):
        parse(query)


def test_a_limit_is_read():
    assert parse("status:open limit:25").limit == 25
    assert parse("status:open").limit is None


def test_nothing_that_is_closed_is_open():
    for status in ("MERGED", "ABANDONED"):
        assert not parse("status:open").matches(_change(status=status))
        assert parse("status:closed").matches(_change(status=status))
