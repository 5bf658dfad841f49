# SPDX-License-Identifier: Apache-2.0
"""How long what builds left is kept: the tiers of the chore `retention`, in days."""

from itertools import pairwise
from typing import Self

from pydantic import Field, model_validator

from ci.layout_rules import Model

FLOOR_DAYS = 30
"""OpenStack asks third-party CIs to keep the logs of public builds for at least a month.

Source: https://docs.opendev.org/opendev/system-config/latest/third_party.html, "Requirements".
"""


class Retention(Model):
    """What is kept for how many days after a build ended; pinned builds stay whole."""

    logs_days: int = Field(default=30, description="Logs and artifacts")
    failed_logs_days: int = Field(default=90, description="... of builds that did not pass")
    results_days: int = Field(default=365, description="Attempts with their tests")
    rows_days: int = Field(default=730, description="Builds with their votes")
    events_days: int = Field(default=90, ge=7, description="Events that were acted on")
    notices_days: int = Field(default=90, ge=7, description="Notices that were delivered")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.logs_days < FLOOR_DAYS:
            raise ValueError(
                f"logs-days is {self.logs_days}: authors must be able to read the logs of a public "
                f"CI for at least {FLOOR_DAYS} days, so that is the least"
            )
        tiers = ("logs_days", "failed_logs_days", "results_days", "rows_days")
        for earlier, later in pairwise(tiers):
            if getattr(self, later) < getattr(self, earlier):
                names = [one.replace("_", "-") for one in (later, earlier)]
                raise ValueError(f"{names[0]} is less than {names[1]}: that would go before it")
        return self
