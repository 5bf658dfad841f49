# SPDX-License-Identifier: Apache-2.0
"""A notifier that remembers, steered by inputs: for tests, and to try a configuration.

It objects when its caller breaks the contract of `ci.reporters.notifier`.
"""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from ci.errors import HypervouchBug, NoticeRefused, ReporterError
from ci.layout import Model
from ci.model.notice import Notice


class DummyNotifierOptions(Model):
    """What steers a `dummy` reporter.

    Attributes:
        name: Name of the reporter.
        most: Notices that one call takes.
        fail_first: The first so many calls find the receiver away.
        refuse: Notices whose subject holds this are refused; nothing by default.
    """

    name: str = "dummy"
    most: int = Field(default=1, ge=1, le=1000)
    fail_first: int = Field(default=0, ge=0)
    refuse: str = ""


class DummyNotifier:
    """Tells a list.

    Attributes:
        told: What each call that worked was given, in order.
        errors: Raised by the next calls, one each, before anything else.
    """

    Options: ClassVar[type[DummyNotifierOptions]] = DummyNotifierOptions

    def __init__(self, options: DummyNotifierOptions) -> None:
        """Nothing is contacted."""
        self._options = options
        self._failures = options.fail_first
        self._closed = False
        self.told: list[tuple[Notice, ...]] = []
        self.errors: list[Exception] = []

    @property
    def most(self) -> int:
        """As the options say."""
        return self._options.most

    def deliver(self, notices: Sequence[Notice]) -> str:
        """Tell these notices.

        Raises:
            HypervouchBug: The caller broke the rules of the seam.
            NoticeRefused: The options say so.
            ReporterError: Likewise.
        """
        self._check(notices)
        self._fail()
        if any(self._options.refuse and self._options.refuse in n.subject for n in notices):
            raise NoticeRefused("the dummy refuses it, as it was told to")
        self.told.append(tuple(notices))
        return "told to the dummy"

    def probe(self) -> str:
        """Answer, unless it is to fail.

        Raises:
            ReporterError: The options say so.
        """
        self._fail()
        return "the dummy answers"

    def close(self) -> None:
        """Take nothing more."""
        self._closed = True

    def _fail(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        if self._failures > 0:
            self._failures -= 1
            raise ReporterError("the dummy is away, as it was told to be", retryable=True)

    def _check(self, notices: Sequence[Notice]) -> None:
        complaints = {
            "no notice": not notices,
            "more notices than it takes": len(notices) > self.most,
            "the same notice twice": len({n.key for n in notices}) < len(notices),
            "a call after close": self._closed,
            "a subject of several lines": any("\n" in n.subject for n in notices),
            "a notice without a time zone": any(n.occurred_at.tzinfo is None for n in notices),
        }
        for complaint, applies in complaints.items():
            if applies:
                raise HypervouchBug(f"dummy notifier: {complaint}")
