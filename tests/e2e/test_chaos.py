# SPDX-License-Identifier: Apache-2.0
"""A whole installation under faults, in short: `make chaos` is the long form."""

from pathlib import Path

import pytest

from tests.chaos import __main__ as chaos
from tests.chaos.seeds import SEEDS, Seed
from tests.chaos.site import POSTGRESQL
from tests.kit.postgres import PostgresMissing, program
from tests.kit.require import require

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.mark.parametrize("seed", SEEDS, ids=str)
def test_whatever_breaks_every_change_gets_the_one_vote_it_deserves(seed: Seed, tmp_path: Path):
    if seed.database == POSTGRESQL:
        _require_postgresql()
    asked = chaos.parse(
        [
            *("--seed", str(seed.number), "--database", seed.database),
            *("--minutes", "0.35", "--changes", "25", "--pause", "3.5", "--settle", "120"),
        ]
    )
    said: list[str] = []
    outcome = chaos.chaos(asked, tmp_path, said.append)
    assert outcome.well, "\n".join(said)


def _require_postgresql() -> None:
    try:
        program("initdb")
    except PostgresMissing as missing:
        require("postgresql", present=False, why=str(missing))
