# SPDX-License-Identifier: Apache-2.0
"""Recorder and player of a Hyper-V host's cmdlets: what stands for `hyperv_session.Session`.

Under it are PowerShell Remoting's messages, which are base64 inside XML, numbered anew each time
and sealed over plain HTTP: nobody could say that no secret is in them, or that two ask the same.
So pipelines are kept as structure. They are asked in one order, by one thread, and must be asked in
that order again: a pipeline that is not the next of the recording is a difference.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import PureWindowsPath
from tempfile import SpooledTemporaryFile
from typing import Any
from unittest import mock
from zipfile import BadZipFile, ZipFile

from ci.errors import HypervouchBug, HypervouchError
from nodes.hypervisors import faults, hyperv_errors, hyperv_session
from nodes.hypervisors.base import Access
from nodes.hypervisors.hyperv_errors import CmdletFailed
from nodes.hypervisors.hyperv_link import Address
from nodes.hypervisors.hyperv_session import Session, Step
from nodes.recording import cmdlets, tape
from nodes.recording.clock import TapeClock
from nodes.recording.cmdlets import Failed, Fault, Pipeline, Ran
from nodes.recording.draws import Draws
from nodes.recording.redaction import Redaction
from nodes.recording.tape import NotRecorded
from nodes.wsman import ON_THE_WAY

_IN_MEMORY = 8 << 20
_LOGIN = "log in"


class Uploads:
    """Files that were sent, by their digests: each disk that is made anew is another file.

    Attributes:
        digests: SHA-256 of what was unpacked on the host, by its path.
    """

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        self._packed: dict[str, SpooledTemporaryFile[bytes]] = {}

    @property
    def paths(self) -> dict[str, str]:
        """The other way round."""
        return {digest: path for path, digest in self.digests.items()}

    def saw(self, steps: Sequence[Step]) -> None:
        """Follow an archive that grows, and is unpacked."""
        for one in steps:
            given = one.parameters
            if one.name == "Add-Content" and isinstance(given.get("Value"), bytes):
                path = str(given.get("LiteralPath"))
                if path not in self._packed:
                    # It stays open until it is unpacked.
                    made = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
                    self._packed[path] = made
                self._packed[path].write(given["Value"])
            elif one.name == "Expand-Archive":
                folder = PureWindowsPath(str(given.get("DestinationPath")))
                self._unpack(str(given.get("LiteralPath")), folder)
            elif one.name == "Remove-Item":
                self._forget(str(given.get("LiteralPath")))

    def close(self) -> None:
        """Forget what was not unpacked."""
        for path in tuple(self._packed):
            self._forget(path)

    def _unpack(self, packed: str, folder: PureWindowsPath) -> None:
        if packed not in self._packed:
            return
        with suppress(BadZipFile), ZipFile(self._packed[packed]) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    digest = hashlib.sha256()
                    while chunk := file.read(1 << 20):
                        digest.update(chunk)
                self.digests[str(folder / name)] = digest.hexdigest()

    def _forget(self, path: str) -> None:
        if path in self._packed:
            self._packed.pop(path).close()


def asked(where: Address, steps: Sequence[Step]) -> Pipeline:
    """What is asked, as it is kept."""
    made = [cmdlets.Cmdlet(name=one.name, parameters=cmdlets.sent(one.parameters)) for one in steps]
    return Pipeline(host=f"{where.host}:{where.port}", cmdlets=tuple(made))


class Recorder:
    """Lets everything through, and keeps it.

    Args:
        secrets: What must not be kept.
    """

    def __init__(self, secrets: Redaction) -> None:
        self._secrets = secrets
        self._began = time.monotonic()
        self.exchanges: list[Ran] = []

    @contextmanager
    def inserted(self) -> Iterator[None]:
        """Stand between the adapter and its sessions until the block ends."""
        with mock.patch.object(hyperv_session, "Session", self._session), Draws().ruling():
            yield

    def keep(self, doing: str, question: Pipeline, **came: Any) -> None:
        """Keep a pipeline and what came of it."""
        at = round(time.monotonic() - self._began, 3)
        made = Ran(at=at, doing=doing, asked=question, **came)
        self._secrets.learn({}, question.model_dump_json(), {}, made.model_dump_json())
        self.exchanges.append(made)

    def _session(self, where: Address, access: Access) -> "_Recorded":
        # The class itself has another name as long as we stand in its place.
        return _Recorded(self, where, Session(where, access))


class _Recorded:
    """A session that is listened to."""

    def __init__(self, recorder: Recorder, where: Address, session: Session) -> None:
        self._recorder = recorder
        self._where = where
        self._session = session
        self._uploads = Uploads()

    def open(self) -> None:
        """Log in, and keep that it was done; a run that cannot is not kept anyway."""
        self._session.open()
        self._recorder.keep(_LOGIN, asked(self._where, ()))

    def close(self) -> None:
        """End it."""
        self._uploads.close()
        self._session.close()

    def run(self, doing: str, steps: Sequence[Step]) -> list[Any]:
        """Run a pipeline, and keep it."""
        question = asked(self._where, steps)
        self._uploads.saw(steps)
        try:
            told = self._session.run(doing, steps)
        except CmdletFailed as error:
            failed = Failed(words=str(error), identity=error.identity, category=error.category)
            self._recorder.keep(doing, question, failed=failed)
            raise
        except (HypervouchError, *ON_THE_WAY) as error:
            self._recorder.keep(doing, question, fault=_kept(error, doing))
            raise
        paths = self._uploads.paths
        self._recorder.keep(doing, question, told=[cmdlets.answered(one, paths) for one in told])
        return told


class Player:
    """Answers from a recording, and lets nothing through.

    Args:
        recorded: The recording.

    Attributes:
        difference: The first pipeline that it did not know.
        played: How many it did.
    """

    def __init__(self, recorded: tape.Tape) -> None:
        self.clock = TapeClock()
        self.difference: NotRecorded | None = None
        self.played = 0
        self._lines = recorded.pipelines

    @property
    def rest(self) -> list[Pipeline]:
        """What was recorded and nobody asked, in its order."""
        return [one.asked for one in self._lines[self.played :]]

    @contextmanager
    def inserted(self) -> Iterator[None]:
        """Stand in for all sessions, in the recording's time, until the block ends."""
        with ExitStack() as inside:
            inside.enter_context(mock.patch.object(hyperv_session, "Session", self._session))
            inside.enter_context(self.clock.ruling())
            inside.enter_context(Draws().ruling())
            yield

    def next(self, doing: str, question: Pipeline) -> Ran:
        """The recording's next line, if that is what was asked.

        Raises:
            NotRecorded: It is not, or it was not before.
        """
        if self.difference is not None:
            raise self.difference
        found = self._lines[self.played] if self.played < len(self._lines) else None
        if found is None or found.asked.likeness != question.likeness:
            self.difference = self._unknown(doing, question, found)
            raise self.difference
        self.played += 1
        self.clock.reached(found.at)
        return found

    def _session(self, where: Address, access: Access) -> "_Played":
        del access
        return _Played(self, where)

    def _unknown(self, doing: str, question: Pipeline, found: Ran | None) -> NotRecorded:
        place = f"line {self.played + 2} of the recording"  # the first says what was run
        later = [one.likeness for one in self.rest]
        if found is None:
            text = f"the recording ends before {place}, where the adapter asks {question.name}"
        elif question.likeness in later:
            skipped = later.index(question.likeness)
            text = f"{place} is not asked any more: {found.asked.name}; the adapter asks what comes"
            text += f" {skipped} later: {question.name}"
        else:
            text = f"{place}: {cmdlets.difference(found.asked, question)}"
            text += f"; it was to {found.doing or 'do something'}"
        if found is None or found.doing != doing:
            text += f", and is now to {doing}"
        return NotRecorded(
            text, hint="the adapter asks otherwise than it did; if it is meant to, record anew"
        )


class _Played:
    """A session with nobody."""

    def __init__(self, player: Player, where: Address) -> None:
        self._player = player
        self._where = where
        self._uploads = Uploads()

    def open(self) -> None:
        """The login that was recorded."""
        self._player.next(_LOGIN, asked(self._where, ()))

    def close(self) -> None:
        """Nothing is open but files."""
        self._uploads.close()

    def run(self, doing: str, steps: Sequence[Step]) -> list[Any]:
        """What came of it.

        Raises:
            CmdletFailed: As it did.
            NotRecorded: The recording does not know it. Else the fault of ours that it was.
        """
        found = self._player.next(doing, asked(self._where, steps))
        self._uploads.saw(steps)
        if found.failed is not None:
            raise CmdletFailed(found.failed.words, found.failed.identity, found.failed.category)
        if found.fault is not None:
            raise _again(found.fault)
        return [cmdlets.again(one, self._uploads.digests) for one in found.told]


def _kept(error: Exception, doing: str) -> Fault:
    ours = error if isinstance(error, HypervouchError) else hyperv_errors.fault(error, doing)
    if not isinstance(ours, HypervouchError):  # only cmdlets are unsupported
        raise HypervouchBug(f"an error on the way would be no fault: {ours}")
    return Fault(kind=type(ours).__name__, message=ours.message, hint=ours.hint)


def _again(kept: Fault) -> HypervouchError:
    kind = getattr(faults, kept.kind, None)
    if not isinstance(kind, type) or not issubclass(kind, HypervouchError):
        kind = faults.NodeFault
    is_retryable = issubclass(kind, faults.TransientFault)
    return kind(kept.message, hint=kept.hint, retryable=is_retryable)
