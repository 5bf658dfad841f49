# SPDX-License-Identifier: Apache-2.0
"""How a long-running process loads itself."""

import gc

import pytest

from ci.cli_processes import _for_good


@pytest.fixture(autouse=True)
def _thawed():
    yield
    gc.unfreeze()


def test_what_is_loaded_for_good_is_not_looked_through_again():
    with _for_good():
        assert not gc.isenabled()
        loaded = [[]]
    assert gc.isenabled()
    assert gc.get_freeze_count() > 1000
    assert not any(one is loaded for one in gc.get_objects())


def test_after_a_failed_start_garbage_is_collected_as_ever():
    with pytest.raises(ValueError, match="no such key"), _for_good():
        raise ValueError("no such key")
    assert gc.isenabled()
