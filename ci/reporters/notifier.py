# SPDX-License-Identifier: Apache-2.0
"""The seam to whoever else wants to be told: deliver notices, harmlessly when repeated.

Lifecycle: made once from its options (a secret that cannot be read refuses the start), then
any number of `deliver` and `probe`, then `close`. One call at a time, from one thread.
Delivery is at least once: the same notice comes again when the answer was lost or this
program died before it wrote it down. A notifier therefore marks each notice with an identity
that stays the same over repeats. No call waits without a bound for a receiver.
"""

from collections.abc import Sequence
from typing import Protocol

from ci.model.notice import Notice


class Notifier(Protocol):
    """Tells one receiver."""

    @property
    def most(self) -> int:
        """How many notices one `deliver` takes at most; 1 or more."""
        ...

    def deliver(self, notices: Sequence[Notice]) -> str:
        """Tell these notices, oldest first: all of them, or none.

        Args:
            notices: 1 to `most` of them, texts printable.

        Returns:
            One sentence for the operator, which may hold what the receiver said.

        Raises:
            NoticeRefused: The receiver works and does not take these.
            ReporterError: It is away (`retryable`), or somebody has to act first.
            ConfigError: The secret cannot be read any more.
        """
        ...

    def probe(self) -> str:
        """Try whether the receiver can be reached and knows us; tells nobody anything.

        Returns:
            One sentence for the operator.

        Raises:
            ReporterError: It does not answer, or refuses us.
            ConfigError: The secret cannot be read any more.
        """
        ...

    def close(self) -> None:
        """Give back what is kept open. Repeatable."""
        ...
