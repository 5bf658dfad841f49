# SPDX-License-Identifier: Apache-2.0
"""The command line of `gerrit review`, read."""

import pytest

from ci.sandbox.ssh_review import BadReview, ReviewLine, read_line


def test_a_command_line_is_read():
    words = ["--verified", "+1", "-m", "done", "--tag=t", "--label", "Code-Review=-1", "7,2"]
    assert read_line(words) == ReviewLine(
        message="done", tag="t", labels={"Verified": 1, "Code-Review": -1}, targets=["7,2"]
    )
    assert read_line(["--json", "7,2", "8,1"]) == ReviewLine(json=True, targets=["7,2", "8,1"])
    assert read_line(["--code-review=2", "--label=Verified=-1", "7,2"]).labels == {
        "Code-Review": 2,
        "Verified": -1,
    }


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--strict-labels", "7,2"], '"--strict-labels" is not a valid option'),
        (["--json", "-m", "x", "7,2"], "mutually exclusive"),
        (["--verified", "much", "7,2"], '"much" is not a valid vote'),
        (["--label", "Verified", "7,2"], '"" is not a valid vote'),
    ],
)
def test_a_command_line_that_is_not_understood(words: list[str], complaint: str):
    with pytest.raises(BadReview, match=complaint):
        read_line(words)
