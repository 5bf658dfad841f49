# SPDX-License-Identifier: Apache-2.0
"""What makes a node unfit, from what its probe printed."""

import pytest

from ci.model.node import Endpoint, Transport
from nodes.health import complaints, parse, preflight

NOW = 1_700_000_000.5
FIT = (
    "clock 1700000000\nkernel 6.1.0-cloud\nmemory 400000\npython3 present\n"
    "workdir writable\ndisk 800000\n"
)


def test_a_fit_node_has_nothing_to_complain_of():
    answers = parse(FIT, now=NOW)
    assert complaints(answers, "/tmp/hypervouch") == []
    assert answers.kernel == "6.1.0-cloud"
    assert (answers.free_memory_mib, answers.free_disk_mib) == (390, 781)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("clock 1700000000", "clock 1700000100", "clock is +100 s off"),
        ("clock 1700000000", "clock 1600000000", "clock is -100000000 s off"),
        ("clock 1700000000", "clock yesterday", "clock cannot be read"),
        ("memory 400000", "memory 1000", "memory has 0 of 64 MiB free"),
        ("memory 400000\n", "", "memory has an unknown part of 64 MiB free"),
        ("disk 800000", "disk 30000", "disk has 29 of 64 MiB free"),
        ("disk 800000\n", "", "disk has an unknown part of 64 MiB free"),
        ("python3 present\n", "", "python3 is not installed"),
        ("workdir writable\n", "", "workdir /tmp/hypervouch is not writable"),
    ],
)
def test_the_failing_check_is_named(old: str, new: str, said: str):
    assert complaints(parse(FIT.replace(old, new), now=NOW), "/tmp/hypervouch") == [said]


def test_silence_fails_every_check():
    assert len(complaints(parse("", now=NOW), "/tmp/x")) == 5


def test_a_dummy_has_nothing_to_look_at():
    assert preflight(Endpoint(transport=Transport.DUMMY)) == {}
