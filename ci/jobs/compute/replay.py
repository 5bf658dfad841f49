# SPDX-License-Identifier: Apache-2.0
"""A run that is kept in a file, and a run that asks the file: the adapter's regression test.

No guest is asked in either: what a guest says on its console is not the adapter's, and a disk that
nothing boots is the same on every machine. So a recording is made apart from evidence, and a replay
is never any.
"""

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ci import plugins
from ci.errors import ConfigError, HypervouchError
from ci.jobs.compute.bench import Manner
from ci.jobs.compute.record import Record
from ci.model.feature import Feature
from nodes.hypervisors.table import BUILT_IN, GROUP
from nodes.recording import tape
from nodes.recording.redaction import PASSWORD, Redaction

if TYPE_CHECKING:
    from ci.jobs.compute.run import Order

SAME, DIFFERS = 0, 1
KINDS: dict[str, tape.Kind] = {
    **dict.fromkeys(("vcenter", "xenserver", "ironic", "redfish", "zvm"), "http"),
    "hyperv": "cmdlets",
}
"""What is kept of a hypervisor, by the scheme of its URL: requests, or cmdlets."""

_SHOWN = 3
Say = Callable[[str], None]
Tested = Callable[["Order", Record, Manner, Say], int]


@dataclass(frozen=True, kw_only=True)
class _Difference:
    """A test whose word is another one."""

    test_id: str
    before: str
    now: str


def check(order: "Order") -> None:
    """What does not go together.

    Raises:
        ConfigError: It does not.
    """
    if bool(order.hypervisor) == bool(order.replay):
        raise ConfigError(
            "it takes either a hypervisor or a recording",
            hint="--hypervisor URL, or --replay FILE, which knows what was asked",
        )
    if order.record and order.replay:
        raise ConfigError("a replay has nothing to record", hint="leave one of them out")
    if order.record and (order.report or order.html or order.junit):
        raise ConfigError(
            "a run that is recorded asks no guest and shows too little for a report",
            hint="run it again without --record for evidence",
        )
    if order.replay and order.second:
        raise ConfigError("a recording knows its second host", hint="leave --second out")
    if order.replay and order.features:
        raise ConfigError(
            "a recording is replayed as a whole", hint="record with --features for less"
        )


def recorded(order: "Order", say: Say, tested: Tested) -> int:
    """Run the suite and keep what was said; a run that broke off is not kept.

    Raises:
        ConfigError: That hypervisor's cannot be kept, or a library is missing.
        HypervouchError: Nothing could be tried.
    """
    path = _named(order.record)
    kind = _prepare(order.hypervisor, order.second)
    known = Redaction(order.password(), order.hypervisor, order.second)
    recorder = _cassettes(kind).Recorder(known)
    record = Record(say, lambda: datetime.now(UTC))
    manner = Manner(mark=secrets.token_hex(2), is_told_alone=True)
    began = datetime.now(UTC)
    with recorder.inserted():
        status = tested(order, record, manner, say)
    head = tape.Head.model_validate(
        {
            "hypervouch-recording": 1,
            "hypervisor": order.hypervisor,
            "second": order.second,
            "mark": manner.mark,
            "timeout_s": order.timeout_s,
            "features": sorted(feature.value for feature in order.features),
            "made": began.isoformat(timespec="seconds"),
            "program": version("hypervouch"),
            "kind": kind,
            "grade": order.grade,
        }
    )
    lines = tuple(recorder.exchanges)
    words = {said.test_id: said.word for said in record.words}
    foot = tape.Foot(exchanges=len(lines), words=words)
    what = {"http": "exchanges", "cmdlets": "pipelines"}[kind]
    tape.write(path, tape.Tape(head=head, foot=foot, **{what: lines}), known)
    say(f"{path}: {len(lines)} {what} of {len(words)} tests, {path.stat().st_size} bytes")
    say("no secret that we know of is in it; names and addresses are: read it before you share it")
    return status


def replayed(order: "Order", say: Say, tested: Tested) -> int:
    """Run the same tests against a recording.

    Returns:
        SAME when each test has the word it had, DIFFERS when one has not, or when the adapter
        asked what the recording does not know, or no longer asked for a change that it did.

    Raises:
        ConfigError: The file is no recording.
        HypervouchError: Nothing could be tried.
    """
    path = _named(order.replay)
    found = tape.read(path)
    head = found.head
    say(f"a replay of {path}, recorded at {head.made} by hypervouch {head.program}: no evidence")
    kind = _prepare(head.hypervisor, head.second)
    if kind != head.kind:
        raise ConfigError(
            f"{path} is no recording of {head.hypervisor}: it has {head.kind}, and not {kind}",
            hint="make it with `hypervouch suite compute --record FILE`",
        )
    player = _cassettes(kind).Player(found)
    record = Record(say, lambda: datetime.now(UTC))
    manner = Manner(
        mark=head.mark,
        is_told_alone=True,
        tests=frozenset(found.foot.words),
        replay_of=path.name,
    )
    as_it_was = replace(
        order,
        hypervisor=head.hypervisor,
        second=head.second,
        # Notes on what is ours on a real machine are neither read nor written.
        work=None,
        marks=None,
        password=lambda: PASSWORD,
        ca_file=None,
        certificate="",
        grade=head.grade,  # to the adapter alone: a replay has none
        timeout_s=head.timeout_s,
        features=_features(path, head.features),
    )
    try:
        with player.inserted():
            tested(as_it_was, record, manner, say)
    except HypervouchError:
        if player.difference is None:
            raise
    return _judged(player, record, found, say)


def _judged(player: Any, record: Record, found: tape.Tape, say: Say) -> int:
    if player.difference is not None:
        say(f"differs: {player.difference.message}")
        say(f"  fix: {player.difference.hint}")
        return DIFFERS
    now = {said.test_id: said.word for said in record.words}
    different = [
        _Difference(test_id=test, before=word, now=now.get(test, "not run"))
        for test, word in found.foot.words.items()
        if now.get(test) != word
    ]
    for one in different:
        say(f"differs: {one.test_id} says {one.now}, and said {one.before}")
    omitted = [one for one in player.rest if not one.only_reads]
    if omitted:
        say(f"differs: {len(omitted)} requests are not made any more: {_names(omitted)}")
    if different or omitted:
        return DIFFERS
    if fewer := player.rest:
        say(f"{len(fewer)} requests that only read are not made any more: {_names(fewer)}")
    say(f"same: {len(now)} tests say what they said, {player.played} exchanges")
    return SAME


def _names(requests: Sequence[tape.Asked]) -> str:
    """The first few, each once."""
    names = list(dict.fromkeys(one.name for one in requests))
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _features(path: Path, names: Iterable[str]) -> frozenset[Feature]:
    try:
        return frozenset(Feature(name) for name in names)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}", hint="was it made by a newer version?") from error


def _prepare(hypervisor: str, second: str) -> tape.Kind:
    """Load the adapters, and see how what they ask can be kept.

    Raises:
        ConfigError: It cannot, or a library is missing.
    """
    kinds = [_kind(url) for url in (hypervisor, second or hypervisor)]
    if kinds[0] != kinds[1]:
        raise ConfigError(
            "hosts that are reached in two ways cannot be in one recording",
            hint="name a second host of the first one's kind, or none",
        )
    return kinds[0]


def _kind(url: str) -> tape.Kind:
    scheme = urlsplit(url).scheme.partition("+")[0]
    if scheme not in KINDS:
        raise ConfigError(
            f"runs of {scheme or 'such a URL'} cannot be recorded: it is not reached over HTTP",
            hint=f"it works for {', '.join(KINDS)}",
        )
    plugins.load("hypervisor", scheme, BUILT_IN, GROUP)
    return KINDS[scheme]


def _cassettes(kind: tape.Kind) -> Any:
    """The recorder's and player's module; the library of the one for HTTP is an extra."""
    if kind == "cmdlets":
        from nodes.recording import pipelines  # noqa: PLC0415 - it loads pypsrp

        return pipelines
    plugins.need("vcr", extra="replay", what="a recording")
    from nodes.recording import cassette  # noqa: PLC0415 - as said

    return cassette


def _named(path: Path | None) -> Path:
    if path is None:
        raise ConfigError("no file is named for the recording", hint="--record or --replay FILE")
    return path
