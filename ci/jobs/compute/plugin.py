# SPDX-License-Identifier: Apache-2.0
"""What the suite's tests are given by pytest, and what becomes of their outcomes.

| a test meets                        | it is                                                |
|-------------------------------------|------------------------------------------------------|
| Unsupported                         | skipped, `unsupported: reason`: evidence             |
| `bench.not_tried(why)`              | skipped, `not tried: why`: no evidence               |
| a failed assertion, a silent guest  | failed, once the hypervisor was seen to work: evidence |
| NodeUnavailable, or a dead hypervisor | the end of the run: the node's trouble, no evidence |
| CallerFault: we asked wrongly       | skipped, `not tried: our own call was refused`        |
| any other error of ours             | trouble of the harness: no evidence                  |
"""

import signal
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import pytest

from ci.errors import HypervouchBug, HypervouchError, NodeUnavailable
from ci.jobs.compute.bench import NEEDS_A_GUEST, Bench, Guest, not_tried
from ci.jobs.compute.record import NOT_TRIED, UNSUPPORTED, Record, Said
from ci.log import shown
from ci.model.feature import Feature
from nodes.hypervisors.faults import CallerFault, Unsupported

MARKER = "feature"
TOLD = "told"
_TOLD_ALONE = "test_told"
_BOOTS_A_TEST = 4
# What everything else rests on comes first; what the adapter only says comes last.
_FIRST = ("test_host", "test_lifecycle", "test_consoles", "test_power", "test_memory")
_LAST = ("test_migration", "test_declared")


def feature_of(item: pytest.Item) -> Feature:
    """The row of the matrix that a test tries.

    Raises:
        HypervouchBug: It is not marked with exactly one.
    """
    marks = list(item.iter_markers(MARKER))
    if len(marks) != 1 or not isinstance(marks[0].args[0], Feature):
        raise HypervouchBug(f"{item.nodeid} is not marked with one feature")
    return marks[0].args[0]


@dataclass
class Trouble:
    """What kept the suite from testing; the first one stands."""

    error: HypervouchError | None = None

    def note(self, error: HypervouchError) -> None:
        """Keep it, unless there is one already."""
        self.error = self.error or error


class ComputePlugin:
    """Registered by hand for one run; knows the bench and keeps the record."""

    def __init__(
        self,
        bench: Bench,
        record: Record,
        features: frozenset[Feature],
        tests: frozenset[str] | None = None,
    ) -> None:
        self.trouble = Trouble()
        self._tests = tests
        self._bench = bench
        self._record = record
        self._features = features
        self._shared: Guest | None = None

    # Fixtures ----------------------------------------------------------------------------

    @pytest.fixture(scope="session")
    def bench(self) -> Bench:
        """The hypervisor under test."""
        return self._bench

    @pytest.fixture
    def guest(self) -> Guest:
        """A guest that runs and answers, the same for many tests; leave it running."""
        if self._shared is None or not self._bench.knows(self._shared):
            self._shared = self._bench.launch()
        return self._shared

    @pytest.fixture(autouse=True)
    def _tidy(self, request: pytest.FixtureRequest) -> Iterator[None]:
        if not self._bench.asks_guests and request.node.get_closest_marker(TOLD) is None:
            self._bench.need(feature_of(request.node))
            not_tried(NEEDS_A_GUEST)
        yield
        self._bench.tidy(self._shared)

    @pytest.fixture(scope="session", autouse=True)
    def _properties(self, record_testsuite_property: Any) -> None:
        system = self._bench.system
        said = {"system": system.key, "title": system.title, "grade": system.grade.value}
        said |= {f"version.{name}": text for name, text in system.versions.items()}
        if self._bench.replay_of:
            said["replay-of"] = self._bench.replay_of
        for name, text in said.items():
            record_testsuite_property(f"hypervouch.{name}", text)

    # Which tests, and what they are ------------------------------------------------------

    @pytest.hookimpl
    def pytest_configure(self, config: pytest.Config) -> None:
        """Know the markers."""
        config.addinivalue_line("markers", f"{MARKER}(key): the row of the matrix that it tries")
        config.addinivalue_line("markers", f"{TOLD}: it asks the hypervisor alone, and no guest")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Everything is said by the record: pytest's own words stay away."""
        plugins = session.config.pluginmanager
        reporter = plugins.get_plugin("terminalreporter")
        if reporter is not None:
            plugins.unregister(reporter)

    @pytest.hookimpl
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module of ours that cannot be imported is our mistake."""
        if report.failed:
            self.trouble.note(HypervouchBug(f"{report.nodeid}: {report.longreprtext}"))

    @pytest.hookimpl
    def pytest_internalerror(self, excrepr: object) -> None:
        """So is this."""
        self.trouble.note(HypervouchBug(f"pytest broke: {excrepr}"))

    @pytest.hookimpl
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the features that were asked for, and note each test's own.

        Where guests can be asked, their tests look at what the hypervisor says as well.
        """
        if self._bench.asks_guests:
            items[:] = [item for item in items if item.path.stem != _TOLD_ALONE]
        for item in items:
            item.user_properties.append(("hypervouch.feature", feature_of(item).value))
        if self._features:
            items[:] = [item for item in items if feature_of(item) in self._features]
        if self._tests is not None:
            items[:] = [item for item in items if item.nodeid in self._tests]
        items.sort(key=_turn)
        self._record.expect(len(items))

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write down the one word on each test."""
        if report.when == "call" or report.outcome != "passed":
            self._record.add(said_of(report))

    # What becomes of errors --------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        """No test with what belongs to it takes longer than a few boots."""
        with ends_after(_BOOTS_A_TEST * self._bench.boot_s):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Sort what was raised by whose fault it is."""
        report = yield
        error = call.excinfo.value if call.excinfo is not None else None
        if error is None or report.outcome != "failed":
            return report
        if (text := report.longreprtext) != shown(text):
            report.longrepr = shown(text)
        if isinstance(error, Unsupported):
            _skip(report, item, UNSUPPORTED + _reason(error, feature_of(item)))
            return report
        if isinstance(error, CallerFault):
            _skip(report, item, f"{NOT_TRIED}our own call was refused: {error.message}")
            return report
        trouble = self._trouble_behind(error)
        if trouble is not None:
            self.trouble.note(trouble)
            _skip(report, item, f"{NOT_TRIED}{trouble.message}")
            if isinstance(trouble, NodeUnavailable):
                item.session.shouldstop = trouble.message
        return report

    @pytest.hookimpl
    def pytest_sessionfinish(self) -> None:
        """Leave nothing behind; what cannot be removed is trouble, too."""
        try:
            self._bench.tidy(None)
        except HypervouchError as error:
            self.trouble.note(error)

    def _trouble_behind(self, error: BaseException) -> HypervouchError | None:
        """Whether something else than the feature failed."""
        if isinstance(error, HypervouchError):
            return error
        try:
            self._bench.probe()
        except HypervouchError as found:
            return found
        return None


def _turn(item: pytest.Item) -> int:
    """The place of a test's module; within it, tests stay as they stand."""
    module = item.path.stem
    if module in _FIRST:
        return _FIRST.index(module)
    return len(_FIRST) + (_LAST.index(module) + 1 if module in _LAST else 0)


class Overdue(AssertionError):
    """A test took too long."""


@contextmanager
def ends_after(seconds: float) -> Iterator[None]:
    """Interrupt whatever waits, again and again; an alarm that ran already is left as it was."""

    def overdue(_number: int, _frame: FrameType | None) -> None:
        raise Overdue(f"it took more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, overdue)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    began = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            passed = time.monotonic() - began
            signal.setitimer(signal.ITIMER_REAL, max(0.01, left - passed))


def said_of(report: pytest.TestReport) -> Said:
    """A report in our words."""
    reason = ""
    if isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
    elif report.failed:
        reason = _crash(report)
    feature = str(dict(report.user_properties).get("hypervouch.feature", ""))
    return Said(
        test_id=report.nodeid,
        feature=Feature(feature),
        outcome=report.outcome,
        reason=reason,
        duration_s=report.duration,
        details=report.longreprtext if report.failed else "",
    )


def _crash(report: pytest.TestReport) -> str:
    """The last line of what went wrong."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message) if crash is not None else report.longreprtext
    lines = text.strip().splitlines()
    return lines[0].removeprefix("AssertionError: ") if lines else "it failed"


def _reason(error: Unsupported, tried: Feature) -> str:
    """Why; with the feature's name where it is another one that is missing."""
    if error.feature is tried:
        return error.reason
    return f"it takes {error.feature.value}: {error.reason}"


def _skip(report: pytest.TestReport, item: pytest.Item, why: str) -> None:
    report.outcome = "skipped"
    path, line, _ = item.location
    report.longrepr = (path, line or 0, f"Skipped: {why}")
