# SPDX-License-Identifier: Apache-2.0
"""A failing row's link in a comment leads to a place that is on the page."""

import re

import pytest

from ci.comment import CommentRow, problems, row_line
from ci.comment_rules import SUMMARY_ROW
from ci.model.anchor import test_anchor as anchor_of
from ci.model.result import Result
from tests.kit.lab import client_of, make_lab


@pytest.fixture
def lab(tmp_path):
    made = make_lab(tmp_path)
    yield made
    made.database.close()


def test_the_link_opens_at_the_first_failing_test(lab):
    build = lab.story.regression
    with client_of(lab.app) as client:
        document = client.get(f"/builds/{build}.json").json()
        page = client.get(f"/builds/{build}/")
    findings = document["detail"]["judgement"]["findings"]
    broken = next(one for one in findings if one["failure_class"] == "regression")["test_id"]
    anchors = re.findall(r'<article class="finding" id="([^"]+)"', page.text)
    assert anchor_of(broken) in anchors
    assert len(set(anchors)) == len(anchors)
    link = f"https://ci.example.org/builds/{build}/#{anchor_of(broken)}"
    line = row_line(CommentRow(name="unit", url=link, result=Result.FAILURE))
    found = SUMMARY_ROW.match(line)
    assert found is not None
    assert found["link"] == link
    assert problems(f"Build failed (check pipeline).\n{line}") == ()
