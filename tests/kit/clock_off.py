# SPDX-License-Identifier: Apache-2.0
"""The command line with a clock that is wrong: `python -m tests.kit.clock_off SECONDS VERB ...`.

Only our own clock is moved, as on a machine whose time is wrong: neither the review server nor
the monotonic clock is. (libfaketime cannot be used: Python's sleeps fail or hang under it.)
"""

import sys
from datetime import datetime, timedelta

from ci.cli import main
from ci.clock import SystemClock


def set_off(seconds: int) -> None:
    """Move every reading of the wall clock in this process."""
    true_now = SystemClock.now

    def now(self: SystemClock) -> datetime:
        return true_now(self) + timedelta(seconds=seconds)

    SystemClock.now = now  # type: ignore[method-assign]


if __name__ == "__main__":
    set_off(int(sys.argv.pop(1)))
    main()
