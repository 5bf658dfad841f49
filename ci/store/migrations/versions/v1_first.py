# SPDX-License-Identifier: Apache-2.0
"""Version 1: where the steps begin. Nothing leads to it."""

revision = "1"
down_revision = None


def upgrade() -> None:
    """Do nothing: version 1 was made by the program of its time."""
