# SPDX-License-Identifier: Apache-2.0
"""JUnit files, honest and hostile, as Outcomes."""

import pytest

from ci.errors import CollectError
from ci.model.result import Outcome, Status
from ci.results import junit

PYTEST = b"""<?xml version="1.0" encoding="utf-8"?>
<testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="1" tests="5">
<testcase classname="tests.test_power.TestPower" name="test_pause" time="0.250" />
<testcase classname="tests.test_power" name="test_resume[qemu]" time="1.5">
<failure message="AssertionError: still paused&#10;assert 1">def test():
&gt; assert vm.running</failure></testcase>
<testcase classname="tests.test_power" name="test_reboot" time="0.0">
<error message="failed on setup">boom</error></testcase>
<testcase classname="tests.test_power" name="test_snap" time="0">
<skipped type="pytest.skip" message="needs a guest">where</skipped></testcase>
<testcase classname="tests.test_power" name="test_xfail"><skipped type="pytest.xfail"/></testcase>
</testsuite></testsuites>"""


def suite(cases: str) -> bytes:
    return f'<testsuite name="s">{cases}</testsuite>'.encode()


def ids(data: bytes) -> list[str]:
    return [outcome.test_id for outcome in junit.parse(data)]


def test_what_pytest_writes():
    assert junit.parse(PYTEST) == (
        Outcome(
            test_id="tests.test_power.TestPower::test_pause", status=Status.PASS, duration_s=0.25
        ),
        Outcome(
            test_id="tests.test_power::test_resume[qemu]",
            status=Status.FAIL,
            duration_s=1.5,
            message="AssertionError: still paused",
            details="def test():\n> assert vm.running",
        ),
        Outcome(
            test_id="tests.test_power::test_reboot",
            status=Status.ERROR,
            message="failed on setup",
            details="boom",
        ),
        Outcome(
            test_id="tests.test_power::test_snap",
            status=Status.SKIP,
            message="needs a guest",
            details="where",
        ),
        Outcome(test_id="tests.test_power::test_xfail", status=Status.SKIP),
    )


def test_a_name_that_occurs_again_is_numbered():
    same = '<testcase classname="c" name="n"/>'
    assert ids(suite(same * 3)) == ["c::n", "c::n#2", "c::n#3"]


def test_numbers_go_on_from_file_to_file():
    seen: dict[str, int] = {}
    data = suite('<testcase classname="c" name="n"/>')
    assert junit.parse(data, "a.xml", seen)[0].test_id == "c::n"
    assert junit.parse(data, "b.xml", seen)[0].test_id == "c::n#2"


def test_an_error_outweighs_a_failure_and_a_skip():
    data = suite(
        '<testcase name="n"><skipped/><failure message="f"/><error message="e"/></testcase>'
    )
    assert [(o.status, o.message) for o in junit.parse(data)] == [(Status.ERROR, "e")]


def test_nested_suites_and_missing_names():
    data = suite(
        '<testsuite name="inner"><testcase name="n"/></testsuite><testcase classname="c"/>'
    )
    assert sorted(ids(data)) == ["c::unnamed", "inner::n"]


def test_namespaces_do_not_matter():
    assert ids(b'<testsuite xmlns="urn:x" name="s"><testcase name="n"/></testsuite>') == ["s::n"]


def test_an_id_is_one_printable_line():
    data = suite('<testcase classname="c" name="a&#10;b&#x202e;c"/>')
    assert ids(data) == ["c::a b c"]
    assert len(ids(suite(f'<testcase name="{"n" * 9999}"/>'))[0]) == junit.MAX_ID


@pytest.mark.parametrize("time", ["x", "-1", "nan", "inf", "", "1e999"])
def test_a_duration_that_is_none(time: str):
    assert junit.parse(suite(f'<testcase name="n" time="{time}"/>'))[0].duration_s == 0.0


def test_no_test_at_all():
    assert junit.parse(b"<testsuites/>") == ()


def test_texts_are_capped(monkeypatch: pytest.MonkeyPatch):
    case = f'<testcase name="n"><failure message="{"m" * 5000}">{"d" * 50_000}</failure></testcase>'
    outcome = junit.parse(suite(case))[0]
    assert (len(outcome.message), len(outcome.details)) == (junit.MAX_MESSAGE, junit.MAX_DETAILS)
    monkeypatch.setattr(junit, "MAX_ALL_DETAILS", 20_000)
    assert sum(len(o.details) for o in junit.parse(suite(case * 5))) == 20_000


LAUGHS = b"""<!DOCTYPE s [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<testsuite name="s"><testcase name="&b;"/></testsuite>"""
EXTERNAL = b"""<!DOCTYPE s [<!ENTITY e SYSTEM "file:///etc/passwd">]>
<testsuite name="s"><testcase name="n"><failure>&e;</failure></testcase></testsuite>"""
REMOTE = b'<!DOCTYPE s SYSTEM "http://127.0.0.1/x.dtd"><testsuite name="s"/>'


@pytest.mark.parametrize("data", [LAUGHS, EXTERNAL, REMOTE, b"<!DOCTYPE testsuite><testsuite/>"])
def test_document_types_are_refused(data: bytes):
    with pytest.raises(CollectError, match="document type, which is refused"):
        junit.parse(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no xml",
        PYTEST[:300],
        b"\xff\xfe\x00",
        b"\0" * 100,
        b'<?xml version="1.0" encoding="nonsense"?><testsuite/>',
        b"<testsuite>&unknown;</testsuite>",
        b'<testsuite a="1" a="2"/>',
    ],
)
def test_what_is_not_xml(data: bytes):
    with pytest.raises(CollectError, match=r"r\.xml is not well-formed") as error:
        junit.parse(data, "r.xml")
    assert "--junitxml" in error.value.hint


def test_xml_that_is_not_junit():
    with pytest.raises(CollectError, match=r"r\.xml is not JUnit"):
        junit.parse(b"<html/>", "r.xml")


def test_deep_nesting_is_refused():
    with pytest.raises(CollectError, match="levels"):
        junit.parse(b"<testsuite>" * 10_000)


def test_size_and_number_are_limited(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(CollectError, match="more than the 33554432"):
        junit.parse(b" " * (junit.MAX_FILE_BYTES + 1))
    monkeypatch.setattr(junit, "MAX_CASES", 10)
    with pytest.raises(CollectError, match="more than 10 tests"):
        junit.parse(suite('<testcase name="n"/>' * 11))
    monkeypatch.setattr(junit, "MAX_ELEMENTS", 10)
    with pytest.raises(CollectError, match="more than 10 elements"):
        junit.parse(suite("<a/>" * 11))
