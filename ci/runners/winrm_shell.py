# SPDX-License-Identifier: Apache-2.0
"""One node's remote shells over WinRM: opened, asked, signalled, deleted; every wait is bounded."""

import base64
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple
from xml.etree import ElementTree as ET

from pypsrp.exceptions import AuthenticationError, WinRMTransportError, WSManFaultError
from pypsrp.shell import CommandState, WinRS
from pypsrp.wsman import NAMESPACES, OptionSet, SelectorSet, WSMan, WSManAction
from requests.exceptions import ConnectionError as Unreachable
from requests.exceptions import SSLError, TooManyRedirects
from spnego.exceptions import SpnegoError

from ci.errors import HypervouchError, NodeUnavailable
from nodes.wsman import ON_THE_WAY

SHELLS = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
CMD = f"{SHELLS}/cmd"
ENUMERATION = "http://schemas.xmlsoap.org/ws/2004/09/enumeration"
UTF_8 = 65001
# A server ends a shell that nobody has asked for this long: what a dead holder left.
IDLE_S = 900
# How long one Receive may stand open on the server: so late we look at a cancel.
TURN_S = 0.5
OPERATION_S = 20.0
READ_S = 30.0
# Answers that come where nothing is wrong.
TIMED_OUT = 2150858793
NO_SHELL = {2150858843, 2150859113, 2150858842}
NAME = "hypervouch-"


class Said(NamedTuple):
    """What one Receive brought.

    Attributes:
        chunks: Output, in the order in which the server gives it.
        status: Exit status, once the command has ended.
    """

    chunks: tuple[tuple[str, bytes], ...]
    status: int | None


@dataclass(kw_only=True)
class Command:
    """A command that was started.

    Attributes:
        shell: The shell that it runs in.
        id: Its id there.
        status: Exit status, once it has ended.
        ended: Set then, or when it was given up.
    """

    shell: WinRS
    id: str
    status: int | None = None
    ended: threading.Event = field(default_factory=threading.Event)


class Link:
    """A node's WS-Management service. Thread-safe, but for `receive`: one thread listens.

    Args:
        control: Connection for all but Receive.
        ear: Connection for Receive, whose operations the server ends after TURN_S.
        where: The node, for messages.
    """

    def __init__(self, control: WSMan, ear: WSMan, where: str) -> None:
        self._control = control
        self._ear = ear
        self._lock = threading.RLock()
        self.where = where

    def open(self, name: str, directory: str | None, env: Mapping[str, str]) -> WinRS:
        """Open a shell.

        Raises:
            NodeUnavailable: The node refused it or went away.
        """
        shell = WinRS(
            self._control,
            codepage=UTF_8,
            environment=dict(env) or None,
            idle_time_out=IDLE_S,
            name=NAME + name,
            no_profile=False,
            working_directory=directory,
        )
        with self._asking("before a command could start"):
            shell.open()
        return shell

    def start(self, shell: WinRS, line: str) -> Command:
        """Start a command line in a shell.

        Raises:
            NodeUnavailable: The node refused it or went away.
        """
        with self._asking("before a command could start"):
            answer = shell.command(line, None)
        command = answer.findtext("rsp:CommandResponse/rsp:CommandId", namespaces=NAMESPACES)
        if not command:
            raise self.lost("before a command could start", "it gave the command no id")
        return Command(shell=shell, id=command)

    def send(self, command: Command, chunk: bytes, *, end: bool = False) -> bool:
        """Send a piece of standard input; False where the command takes none any more.

        It may have ended before it read all: its status says whether that was wrong.

        Raises:
            NodeUnavailable: The node went away.
        """
        with self._asking("while it was sent something"):
            try:
                command.shell.send("stdin", chunk, command_id=command.id, end=end)
            except WSManFaultError:
                return False
        return True

    @property
    def chunk_bytes(self) -> int:
        """What one Send may carry."""
        return self._control.max_payload_size

    def receive(self, command: Command) -> Said:
        """What the command said since; waits for at most TURN_S.

        Raises:
            NodeUnavailable: The node went away; its shell may have been deleted meanwhile.
        """
        wanted = ET.Element(f"{{{NAMESPACES['rsp']}}}Receive")
        streams = ET.SubElement(wanted, f"{{{NAMESPACES['rsp']}}}DesiredStream")
        streams.text = "stdout stderr"
        streams.set("CommandId", command.id)
        options = OptionSet()
        options.add_option("WSMAN_CMDSHELL_OPTION_KEEPALIVE", "TRUE")
        try:
            # Not WSMan.receive: that asks again after a silence, and loses what came between.
            envelope = self._ear.invoke(
                WSManAction.RECEIVE, CMD, wanted, options, _selectors(command.shell)
            )
        except WSManFaultError as error:
            if error.code == TIMED_OUT:
                return Said((), None)
            raise self.lost("while a command ran", error) from error
        except ON_THE_WAY as error:
            raise self.lost("while a command ran", error) from error
        said = _read(envelope)
        if said.status is not None:
            command.status = said.status
            command.ended.set()
        return said

    def signal(self, command: Command, code: str) -> None:
        """Send a signal to a command.

        Raises:
            NodeUnavailable: The node went away, or the command is not there any more.
        """
        with self._asking("while a command was ended"):
            command.shell.signal(code, command.id)

    def delete(self, shell: WinRS) -> None:
        """Delete a shell with all that runs in it; one that is gone is no error.

        Raises:
            NodeUnavailable: The node does not say that it is gone.
        """
        self._delete(shell._selector_set)  # noqa: SLF001 - whatever the server calls it
        shell.opened = False

    def delete_of(self, name: str) -> int:
        """Delete all shells whose names begin so; returns how many there were.

        Raises:
            NodeUnavailable: The node does not say that they are gone.
        """
        wanted = ET.Element(f"{{{ENUMERATION}}}Enumerate")
        ET.SubElement(wanted, f"{{{NAMESPACES['wsman']}}}OptimizeEnumeration")
        ET.SubElement(wanted, f"{{{NAMESPACES['wsman']}}}MaxElements").text = "32000"
        with self._asking("while its shells were listed"):
            answer = self._control.enumerate(SHELLS, wanted)
        found = 0
        for shell in answer.iter(f"{{{NAMESPACES['rsp']}}}Shell"):
            if (shell.findtext("rsp:Name", "", NAMESPACES) or "").startswith(NAME + name):
                selectors = SelectorSet()
                selectors.add_option("ShellId", shell.findtext("rsp:ShellId", "", NAMESPACES) or "")
                self._delete(selectors)
                found += 1
        return found

    def close(self) -> None:
        """Disconnect; repeatable."""
        self._control.close()
        self._ear.close()

    def lost(self, when: str, error: object) -> HypervouchError:
        """The error of a node that went away or refused us."""
        return lost(self.where, when, error)

    def _delete(self, selectors: SelectorSet | None) -> None:
        with self._lock:
            try:
                self._control.delete(CMD, selector_set=selectors)
            except WSManFaultError as error:
                if error.code not in NO_SHELL:
                    raise self.lost("while a shell was deleted", error) from error
            except ON_THE_WAY as error:
                raise self.lost("while a shell was deleted", error) from error

    @contextmanager
    def _asking(self, when: str) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except ON_THE_WAY as error:
                raise self.lost(when, error) from error


def lost(where: str, when: str, error: object) -> NodeUnavailable:
    """What is wrong with a node, by what the library says of it."""
    if isinstance(error, AuthenticationError):
        return NodeUnavailable(
            f"node {where} refuses our password",
            hint="check user, password and auth of its provider; a try costs a lock-out's count",
        )
    if isinstance(error, SSLError):
        return NodeUnavailable(
            f"node {where} shows a certificate that is not trusted: {error}",
            hint="check the node, then set ca-file or certificate on its provider",
        )
    if when == "at the login" and (why := _no_winrm(error)):
        return NodeUnavailable(
            f"node {where} cannot be logged in to: {why}",
            hint="check that its port is WinRM's, and auth of its provider",
        )
    if isinstance(error, Unreachable) and when == "at the login":
        return NodeUnavailable(
            f"node {where} does not answer: {error}",
            hint="check that it is up and that its HTTPS listener runs",
            retryable=True,
        )
    said = error.reason if isinstance(error, WSManFaultError) else str(error)
    return NodeUnavailable(
        f"the connection to node {where} broke {when}: {said or type(error).__name__}",
        hint="check that the node is up",
        retryable=True,
    )


def _no_winrm(error: object) -> str:
    """What is wrong with an answer that is none of WinRM's, or with the way to log in."""
    if isinstance(error, TooManyRedirects):
        return "it sends us elsewhere"
    if isinstance(error, WinRMTransportError):
        status = int(error.code)
        return "" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else f"it answers HTTP {status}"
    if isinstance(error, ImportError):
        return f"auth=kerberos takes pip install 'pyspnego[kerberos]': {error}"
    if isinstance(error, (SpnegoError, ET.ParseError, ValueError, LookupError, AttributeError)):
        return f"{type(error).__name__}: {error}"
    return ""


def _selectors(shell: WinRS) -> SelectorSet | None:
    found: SelectorSet | None = shell._selector_set  # noqa: SLF001 - whatever the server calls it
    return found


def _read(envelope: ET.Element) -> Said:
    answer = envelope.find("s:Body/rsp:ReceiveResponse", NAMESPACES)
    status: int | None = None
    if answer is None:
        return Said((), None)
    chunks = [
        (stream.get("Name", "stdout"), base64.b64decode(stream.text))
        for stream in answer.iterfind("rsp:Stream", NAMESPACES)
        if stream.text
    ]
    state = answer.find("rsp:CommandState", NAMESPACES)
    if state is not None and state.get("State") == CommandState.DONE:
        status = int(state.findtext("rsp:ExitCode", "0", NAMESPACES) or 0)
    return Said(tuple(chunks), status)
