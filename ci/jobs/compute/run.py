# SPDX-License-Identifier: Apache-2.0
"""One run of the suite: connect, test, tell. The same for a CI job and on a team's own host."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from ci import log, plain
from ci.errors import ConfigError, HarnessBroken, HypervouchBug, HypervouchError
from ci.jobs import trouble
from ci.jobs.compute import involved, page, replay
from ci.jobs.compute.bench import Bench, Manner
from ci.jobs.compute.patient import patient
from ci.jobs.compute.plugin import ComputePlugin
from ci.jobs.compute.record import Record
from ci.matrix import report
from ci.model.feature import Feature
from ci.model.result import Grade
from nodes.hypervisors.base import Access
from nodes.hypervisors.table import connect

WORKS, FAILS, NOT_TRIED = 0, 1, 2
TESTS = Path(__file__).parent / "tests"
_FOREIGN = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")
_APART = "/var/lib/libvirt/hypervouch-apart"
_NO_PLUGINS = "PYTEST_DISABLE_PLUGIN_AUTOLOAD"


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to test and where to write it down.

    Attributes:
        hypervisor: Its URL.
        second: URL of another host of the same kind, or nothing.
        work: For files of guests; None takes a directory that goes afterwards.
        marks: Directory that stays: what is ours is noted there where the hypervisor cannot.
        grade: How real it is.
        key_file: Private key, where the URL leads over SSH.
        known_hosts: File with the pinned host key.
        timeout_s: Seconds for one call, or one boot.
        password: Gives the password for the hypervisor's own API; empty where there is none.
        ca_file: Certificates that sign that API's own.
        certificate: SHA-256 of it, which pins it.
        real_guests: Whether guests run although the hypervisor is a stand-in.
        features: Only these; all when empty.
        report: Evidence for `hypervouch matrix add`.
        html: A page that can be signed off.
        junit: JUnit XML.
        trouble: Where to say what kept us from testing, for the CI.
        record: Where to keep what the hypervisor's API says.
        replay: A recording that answers instead; then there is no `hypervisor`.
    """

    hypervisor: str = ""
    second: str = ""
    work: Path | None = None
    marks: Path | None = None
    grade: Grade = Grade.NONE
    key_file: Path | None = None
    known_hosts: Path | None = None
    password: Callable[[], str] = str
    ca_file: Path | None = None
    certificate: str = ""
    real_guests: bool = False
    timeout_s: float = 180.0
    features: frozenset[Feature] = field(default_factory=frozenset)
    report: Path | None = None
    html: Path | None = None
    junit: Path | None = None
    trouble: Path | None = None
    record: Path | None = None
    replay: Path | None = None


def run(order: Order, say: Callable[[str], None]) -> int:
    """Run the suite.

    Args:
        order: What to test.
        say: Takes each line for people, at once.

    Returns:
        WORKS when every feature that was tried works or is unsupported, FAILS when one does
        not, NOT_TRIED when nothing could be tried. Of a replay: WORKS when each test says what
        it said, FAILS when one does not or the adapter asks for something else. With
        `order.trouble`, NOT_TRIED becomes the status that `ci.jobs.trouble` gives it.
    """

    def told(line: str) -> None:
        # A table of all rows is long, and no line of it is.
        say("\n".join(plain.line(one) for one in log.shown(line).split("\n")))

    try:
        return _outcome(order, told)
    except HypervouchError as error:
        told(f"not tried: {error.message}")
        if error.hint:
            told(f"  fix: {error.hint}")
        return trouble.tell(order.trouble, error) if order.trouble else NOT_TRIED


def _outcome(order: Order, say: Callable[[str], None]) -> int:
    """Refuse what cannot come to an end; an error nobody foresaw is no feature that fails.

    Raises:
        HypervouchError: Nothing could be tried.
    """
    _check(order)
    try:
        return _run(order, say)
    except HypervouchError:
        raise
    except Exception as error:
        raise HypervouchBug(
            f"the suite met {type(error).__name__}: {error}", hint="report it to us, please"
        ) from error


def _check(order: Order) -> None:
    """What would only be noticed after the last test, noticed before the first.

    Raises:
        ConfigError: The second host is the first, a file cannot be written, or options do not
            go together.
    """
    replay.check(order)
    if order.second and order.second.rstrip("/") == order.hypervisor.rstrip("/"):
        raise ConfigError(
            "the second host is the first one", hint="name another one, or leave --second out"
        )
    for path in (order.report, order.html, order.junit, order.record):
        if path is not None:
            _writable(path)


def _writable(path: Path) -> None:
    """See that a file can be written there.

    Raises:
        ConfigError: It cannot.
    """
    folder = path.absolute().parent
    why = ""
    if path.is_dir():
        why = "it is a directory"
    elif not folder.is_dir():
        why = f"there is no directory {folder}"
    elif not os.access(folder, os.W_OK):
        why = f"{folder} is not writable"
    if why:
        raise ConfigError(f"{path} cannot be written: {why}", hint="name another file")


def _made(work: Path) -> None:
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{work} cannot be a working directory: {error.strerror}", hint="name another one"
        ) from error


def _run(order: Order, say: Callable[[str], None]) -> int:
    if order.replay is not None:
        return replay.replayed(order, say, _tested)
    if order.record is not None:
        return replay.recorded(order, say, _tested)
    tells = order.report is not None or order.html is not None
    if tells and order.grade is Grade.NONE and not _is_dummy(order):
        raise ConfigError(
            "a report has to say how real the hypervisor is",
            hint="give --grade bare, or nested where it runs inside a virtual machine",
        )
    return _tested(order, Record(say, lambda: datetime.now(UTC)), Manner(), say)


def _tested(order: Order, record: Record, manner: Manner, say: Callable[[str], None]) -> int:
    """The run itself; a recording stands before it, or not."""
    began = datetime.now(UTC)
    with ExitStack() as keeping:
        work = order.work or Path(keeping.enter_context(tempfile.TemporaryDirectory(prefix="hv-")))
        _made(work)
        access = Access(
            work=work,
            grade=order.grade,
            key_file=order.key_file,
            known_hosts=order.known_hosts,
            password=order.password(),
            ca_file=order.ca_file,
            certificate=order.certificate,
            timeout_s=order.timeout_s,
            marks=order.marks,
        )
        first = connect(order.hypervisor, access)
        keeping.callback(first.close)
        second = apart = None
        if order.second:
            second = connect(order.second, access)
            keeping.callback(second.close)
            apart = connect(apart_of(order.second), replace(access, work=work / "apart"))
            keeping.callback(apart.close)
        bench = Bench(
            patient(first),
            patient(second) if second else None,
            patient(apart) if apart else None,
            work=work,
            boot_s=order.timeout_s,
            progress=say,
            real_guests=order.real_guests,
            manner=manner,
        )
        known = {name: text for name, text in bench.system.versions.items() if name != "cpu-flags"}
        versions = ", ".join(f"{name} {text}" for name, text in known.items())
        say(f"{bench.system.title}, evidence {bench.system.grade.value}: {versions}")
        if not bench.asks_guests:
            say("no guest can be asked: each row rests on what the hypervisor alone tells")
        if "+ssh" in urlsplit(order.hypervisor).scheme:
            keeping.callback(_forget_images, bench, say)
            bench.keep_images()
        plugin = ComputePlugin(bench, record, order.features, manner.tests)
        status = _tests(order, plugin)
        say("")
        say(record.table())
        _write_down(order, record, bench, began, involved.adapter(first))
    if plugin.trouble.error is not None:
        raise plugin.trouble.error
    if status == pytest.ExitCode.INTERRUPTED:
        kept = "the report has what was shown until then" if order.report else "run it again"
        raise HarnessBroken("the suite was interrupted", hint=kept)
    if status not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED} or not record.tried():
        raise HarnessBroken(
            f"no test showed anything (pytest ended with status {int(status)})",
            hint="see what was not tried and why; --features may name nothing that can be tried",
        )
    return FAILS if record.failed() else WORKS


def _write_down(order: Order, record: Record, bench: Bench, began: datetime, adapter: str) -> None:
    if order.report is not None:
        evidence = record.evidence(bench.system)
        name = f"compute on {order.hypervisor}"
        report.write(order.report, name=name, evidence=evidence, replay_of=bench.replay_of)
    if order.html is not None:
        run = page.Run(
            hypervisor=order.hypervisor,
            second=order.second,
            system=bench.system,
            asks_guests=bench.asks_guests,
            began=began,
            ended=datetime.now(UTC),
            words=record.words,
            replay_of=bench.replay_of,
            adapter=adapter,
            guest=involved.guest(bench.image) if bench.asks_guests else "",
            evidence=(order.report.name, involved.digest(order.report)) if order.report else None,
            only=order.features,
        )
        page.write(order.html, run)


def _forget_images(bench: Bench, say: Callable[[str], None]) -> None:
    """What the suite found counts, even where the host does not answer any more."""
    try:
        bench.forget_images()
    except HypervouchError as error:
        say(f"our images may still be on the host: {error.message}")


def apart_of(url: str) -> str:
    """The same host with disks that no other host has, once its working directory is another.

    Over SSH, or where the URL names the disks' directory, that alone would not do.
    """
    parts = urlsplit(url)
    driver, _, transport = parts.scheme.partition("+")
    words = parse_qsl(parts.query, keep_blank_values=True)
    others = [(key, value) for key, value in words if key != "disks"]
    if driver != "qemu" or (words == others and not transport):
        return url
    if words == others:
        others.append(("disks", _APART))
    path = url.partition("?")[0]
    return f"{path}?{urlencode(others, safe='/')}" if others else path


def _tests(order: Order, plugin: ComputePlugin) -> int:
    """Pytest with our tests, our plugin and nothing of the user's."""
    arguments = [
        *("-c", str(TESTS / "pytest.ini"), f"--rootdir={TESTS}", str(TESTS)),
        *("-p", "no:cacheprovider", "--import-mode=importlib", "--strict-markers", "--tb=short"),
        *("--capture=no", "--no-header", "-qq"),
    ]
    if order.junit is not None:
        arguments.append(f"--junitxml={order.junit.absolute()}")
    with _alone():
        try:
            return int(pytest.main(arguments, plugins=[plugin]))
        except HypervouchError as error:  # by what tidies up behind a test that was interrupted
            plugin.trouble.note(error)
            return int(pytest.ExitCode.INTERRUPTED)


@contextmanager
def _alone() -> Iterator[None]:
    """An environment without what the user tells his own pytest."""
    before = dict(os.environ)
    for name in _FOREIGN:
        os.environ.pop(name, None)
    os.environ[_NO_PLUGINS] = "1"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _is_dummy(order: Order) -> bool:
    return order.hypervisor.startswith("dummy:")
