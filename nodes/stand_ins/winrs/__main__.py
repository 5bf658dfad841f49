# SPDX-License-Identifier: Apache-2.0
"""The service in front of the shells: MS-WSMV over TLS on loopback, with Basic authentication.

`POST /faults` with `{"action": "Receive", "status": 503, "times": 1}` lets answers fail;
`{"delay_s": 2}` instead of a status makes them slow, `{"drop": true}` closes the connection. It
takes the password in `X-Password`.
"""

import argparse
import base64
import binascii
import hmac
import json
import os
import re
import signal
import ssl
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from xml.etree import ElementTree as ET

from ci.errors import HypervouchError
from nodes.stand_ins.winrs.shells import Shell
from nodes.wsman import EMULATOR

NS = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "a": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "w": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
    "rsp": "http://schemas.microsoft.com/wbem/wsman/1/windows/shell",
    "t": "http://schemas.xmlsoap.org/ws/2004/09/transfer",
    "n": "http://schemas.xmlsoap.org/ws/2004/09/enumeration",
    "f": "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault",
}
SHELLS, CMD = NS["rsp"], f"{NS['rsp']}/cmd"
TIMED_OUT, NO_SHELL, NO_COMMAND = 2150858793, 2150858843, 2150859113
NO_URI, NO_ACTION, NO_FOLDER, BROKEN = 2150858811, 2150858752, 2147942667, 2150858770


class Fault(Exception):
    """A fault of WS-Man: its code in WSManFault, and its text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Service:
    """What an operation does to the shells."""

    def __init__(self, user: str, password: str) -> None:
        self.user, self.password = user, password
        self.faults: list[dict[str, Any]] = []
        self.shells: dict[str, Shell] = {}
        self._lock = threading.Lock()

    def answer(self, envelope: ET.Element) -> ET.Element:
        """Answer one message.

        Raises:
            Fault: As the service tells it.
        """
        head, body = envelope.find("s:Header", NS), envelope.find("s:Body", NS)
        if head is None or body is None:
            raise Fault(BROKEN, "The message has no header or no body.")
        action = head.findtext("a:Action", "", NS).rpartition("/")[2]
        uri = head.findtext("w:ResourceURI", "", NS)
        if uri not in {SHELLS, CMD}:
            raise Fault(NO_URI, f"The emulator serves shells of cmd.exe only, not {uri}.")
        if action == "Create":
            return self._create(body)
        if action == "Enumerate":
            return self._enumerate()
        selectors = {s.get("Name"): s.text for s in head.iterfind("w:SelectorSet/w:Selector", NS)}
        shell = self.shells.get(selectors.get("ShellId") or "")
        if shell is None:
            raise Fault(NO_SHELL, "The shell was not found on the server.")
        shell.asked_at = time.monotonic()
        if action == "Receive":
            return _receive(shell, body, head)
        if action == "Delete":
            shell.delete()
            with self._lock:
                self.shells.pop(shell.id, None)
            return ET.Element("none")
        try:
            return _on_command(shell, action, body)
        except KeyError as error:
            raise Fault(NO_COMMAND, f"There is no command {error}.") from error

    def end(self) -> None:
        """End all shells."""
        for shell in list(self.shells.values()):
            shell.delete()

    def _create(self, body: ET.Element) -> ET.Element:
        asked = body.find("rsp:Shell", NS)
        if asked is None:
            raise Fault(BROKEN, "There is no shell in the message.")
        env = {
            str(v.get("Name")): v.text or ""
            for v in asked.iterfind("rsp:Environment/rsp:Variable", NS)
        }
        folder = asked.findtext("rsp:WorkingDirectory", "", NS) or "/"
        shell = Shell(asked.findtext("rsp:Name", "", NS), folder, env)
        with self._lock:
            self.shells[shell.id] = shell
        answer = ET.Element("none")
        made = ET.SubElement(answer, _tag("t", "ResourceCreated"))
        where = ET.SubElement(made, _tag("a", "ReferenceParameters"))
        selectors = ET.SubElement(where, _tag("w", "SelectorSet"))
        ET.SubElement(selectors, _tag("w", "Selector"), Name="ShellId").text = shell.id
        answer.append(_told(shell))
        return answer

    def _enumerate(self) -> ET.Element:
        answer = ET.Element("none")
        listed = ET.SubElement(answer, _tag("n", "EnumerateResponse"))
        items = ET.SubElement(listed, _tag("w", "Items"))
        with self._lock:
            items.extend(_told(shell) for shell in self.shells.values())
        ET.SubElement(listed, _tag("w", "EndOfSequence"))
        return answer


def _told(shell: Shell) -> ET.Element:
    told = ET.Element(_tag("rsp", "Shell"))
    for name, text in (
        ("ShellId", shell.id),
        ("Name", shell.name),
        ("ResourceUri", CMD),
        ("Owner", EMULATOR),
        ("InputStreams", "stdin"),
        ("OutputStreams", "stdout stderr"),
    ):
        ET.SubElement(told, _tag("rsp", name)).text = text
    return told


def _on_command(shell: Shell, action: str, body: ET.Element) -> ET.Element:
    answer = ET.Element("none")
    if action == "Command":
        asked = body.find("rsp:CommandLine", NS)
        words = [] if asked is None else [part.text or "" for part in asked]
        try:
            number = shell.start(" ".join(words))
        except (OSError, HypervouchError) as error:
            raise Fault(NO_FOLDER, f"The directory name is invalid: {error}") from error
        made = ET.SubElement(answer, _tag("rsp", "CommandResponse"))
        ET.SubElement(made, _tag("rsp", "CommandId")).text = number
    elif action == "Send":
        stream = body.find("rsp:Send/rsp:Stream", NS)
        if stream is None:
            raise Fault(BROKEN, "There is no stream in the message.")
        chunk = base64.b64decode(stream.text or "")
        end = str(stream.get("End")).lower() == "true"
        shell.send(stream.get("CommandId", ""), chunk, end=end)
        ET.SubElement(answer, _tag("rsp", "SendResponse"))
    elif action == "Signal":
        asked = body.find("rsp:Signal", NS)
        if asked is None:
            raise Fault(BROKEN, "There is no signal in the message.")
        shell.signal(asked.get("CommandId", ""), asked.findtext("rsp:Code", "", NS))
        ET.SubElement(answer, _tag("rsp", "SignalResponse"))
    else:
        raise Fault(NO_ACTION, f"The action {action} is not supported.")
    return answer


def _receive(shell: Shell, body: ET.Element, head: ET.Element) -> ET.Element:
    desired = body.find("rsp:Receive/rsp:DesiredStream", NS)
    number = "" if desired is None else desired.get("CommandId", "")
    digits = re.sub(r"[^0-9.]", "", head.findtext("w:OperationTimeout", "", NS))
    limit = int(head.findtext("w:MaxEnvelopeSize", "153600", NS)) // 4 * 3 - 4096
    try:
        got = shell.receive(number, limit, float(digits or 20))
    except KeyError as error:
        raise Fault(NO_COMMAND, f"There is no command {error}.") from error
    if got is None:
        raise Fault(TIMED_OUT, "The operation did not complete within OperationTimeout.")
    chunks, status = got
    answer = ET.Element("none")
    told = ET.SubElement(answer, _tag("rsp", "ReceiveResponse"))
    for name, chunk in chunks:
        part = ET.SubElement(told, _tag("rsp", "Stream"), Name=name, CommandId=number)
        part.text = base64.b64encode(chunk).decode()
    word = "Running" if status is None else "Done"
    state = ET.SubElement(
        told, _tag("rsp", "CommandState"), CommandId=number, State=f"{SHELLS}/CommandState/{word}"
    )
    if status is not None:
        ET.SubElement(state, _tag("rsp", "ExitCode")).text = str(status)
    return answer


def _tag(prefix: str, name: str) -> str:
    return f"{{{NS[prefix]}}}{name}"


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    service: Service

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Nothing is logged for each call."""

    def do_POST(self) -> None:
        """A message, or a rule for faults."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/faults":
            self._rule(body)
        elif not self._authenticated():
            self._answer(401, b"")
        else:
            self._serve(body)

    def _rule(self, body: bytes) -> None:
        if self.headers.get("X-Password") != self.service.password:
            self._answer(403, b"")
            return
        rule = json.loads(body)
        self.service.faults = [*self.service.faults, rule] if rule else []
        self._answer(200, b"{}")

    def _authenticated(self) -> bool:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        try:
            shown = base64.b64decode(token, validate=True)
        except binascii.Error:
            return False
        wanted = f"{self.service.user}:{self.service.password}".encode()
        return kind.lower() == "basic" and hmac.compare_digest(shown, wanted)

    def _serve(self, body: bytes) -> None:
        number = ""
        try:
            envelope = ET.fromstring(body)  # noqa: S314 - of tests, on loopback
            number = envelope.findtext("s:Header/a:MessageID", "", NS)
            if self._misbehaved(envelope.findtext("s:Header/a:Action", "", NS)):
                return
            status, told = 200, self.service.answer(envelope)
        except Fault as fault:
            status, told = 500, _fault(fault)
        except (ET.ParseError, ValueError) as error:
            status, told = 500, _fault(Fault(BROKEN, f"The message is broken: {error}"))
        self._answer(status, _envelope(number, told))

    def _misbehaved(self, action: str) -> bool:
        for rule in list(self.service.faults):
            if rule.get("action", "") not in action:
                continue
            rule["times"] = int(rule.get("times", 1)) - 1
            if rule["times"] <= 0:
                self.service.faults.remove(rule)
            time.sleep(float(rule.get("delay_s", 0)))
            if rule.get("drop"):
                self.close_connection = True
                return True
            if rule.get("status"):
                self._answer(int(rule["status"]), b"")
                return True
        return False

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status == 401:  # noqa: PLR2004
            self.send_header("WWW-Authenticate", 'Basic realm="WSMAN"')
        self.send_header("Content-Type", "application/soap+xml;charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _envelope(relates_to: str, told: ET.Element) -> bytes:
    envelope = ET.Element(_tag("s", "Envelope"))
    head = ET.SubElement(envelope, _tag("s", "Header"))
    ET.SubElement(head, _tag("a", "RelatesTo")).text = relates_to
    ET.SubElement(head, _tag("a", "MessageID")).text = f"uuid:{uuid.uuid4()}"
    ET.SubElement(envelope, _tag("s", "Body")).extend(list(told))
    return bytes(ET.tostring(envelope, encoding="utf-8"))


def _fault(fault: Fault) -> ET.Element:
    told = ET.Element("none")
    outer = ET.SubElement(told, _tag("s", "Fault"))
    code = ET.SubElement(outer, _tag("s", "Code"))
    ET.SubElement(code, _tag("s", "Value")).text = "s:Sender"
    reason = ET.SubElement(outer, _tag("s", "Reason"))
    ET.SubElement(reason, _tag("s", "Text")).text = str(fault)
    detail = ET.SubElement(outer, _tag("s", "Detail"))
    own = ET.SubElement(detail, _tag("f", "WSManFault"), Code=str(fault.code), Machine="emulator")
    ET.SubElement(own, _tag("f", "Message")).text = str(fault)
    return told


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m nodes.stand_ins.winrs", description=__doc__)
    parser.add_argument("--user", default="hypervouch")
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    service = Service(given.user, os.environ.pop("STAND_IN_PASSWORD"))
    server = ThreadingHTTPServer(
        ("127.0.0.1", given.port), type("Served", (Handler,), {"service": service})
    )
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(given.certificate, given.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    port = server.server_address[1]
    print(json.dumps({"url": f"https://127.0.0.1:{port}", "pid": os.getpid()}), flush=True)  # noqa: T201
    try:
        server.serve_forever()
    finally:
        service.end()


if __name__ == "__main__":
    main()
