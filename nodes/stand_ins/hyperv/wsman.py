# SPDX-License-Identifier: Apache-2.0
"""WS-Management as Windows hosts speak it: envelopes, faults, and the way to runspace pools."""

import base64
import re
import uuid
import xml.etree.ElementTree as ET

from nodes.stand_ins.hyperv.host import Host
from nodes.stand_ins.hyperv.shell import Conduct, Shell

SPACES = {
    "s": "http://www.w3.org/2003/05/soap-envelope",
    "wsa": "http://schemas.xmlsoap.org/ws/2004/08/addressing",
    "wsman": "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd",
    "rsp": "http://schemas.microsoft.com/wbem/wsman/1/windows/shell",
    "wst": "http://schemas.xmlsoap.org/ws/2004/09/transfer",
    "f": "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault",
}
for _prefix, _space in SPACES.items():
    ET.register_namespace(_prefix, _space)
_SHELL, _TRANSFER = SPACES["rsp"] + "/", SPACES["wst"] + "/"
_POWERSHELL = "http://schemas.microsoft.com/powershell/"
_DONE, _RUNNING = f"{_SHELL}CommandState/Done", f"{_SHELL}CommandState/Running"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_TIMEOUT = re.compile(r"[^\d.]")
TIMED_OUT, NO_SHELL, NO_RESOURCE, NO_ACTION = 2150858793, 2150858843, 2150858811, 2150858752
BROKEN = 2150858770


class Fault(Exception):
    """A fault of WS-Management: Windows' number, its name, its words."""

    def __init__(self, code: int, name: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.name = name


def tag(prefix: str, name: str) -> str:
    """A name with its space."""
    return f"{{{SPACES[prefix]}}}{name}"


class Service:
    """All runspace pools of one host.

    Attributes:
        shells: By their ids.
    """

    def __init__(self, host: Host, conduct: Conduct) -> None:
        self.host = host
        self.conduct = conduct
        self.shells: dict[str, Shell] = {}

    def answer(self, message: bytes) -> tuple[int, bytes]:
        """HTTP's status and an envelope for an envelope."""
        asked = ""
        try:
            envelope = ET.fromstring(message)  # noqa: S314 - our own tests' messages
            asked = envelope.findtext(f".//{tag('wsa', 'MessageID')}") or ""
            action, *children = self._dispatch(envelope)
        except Fault as fault:
            return 500, self._fault(fault, asked)
        except Exception as error:  # noqa: BLE001 - as Windows does: said, and lived on
            text = f"The server could not process the message: {error!r}"
            return 500, self._fault(Fault(BROKEN, "wsman:InternalError", text), asked)
        return 200, _envelope(str(action), asked, *children)

    def _dispatch(self, envelope: ET.Element) -> tuple[str | ET.Element, ...]:
        head, body = envelope.find(tag("s", "Header")), envelope.find(tag("s", "Body"))
        if head is None or body is None:
            raise ValueError("an envelope has a header and a body")
        action = head.findtext(tag("wsa", "Action")) or ""
        resource = head.findtext(tag("wsman", "ResourceURI")) or ""
        if not resource.startswith(_POWERSHELL):
            text = f"The stand-in serves PowerShell runspaces only, not {resource}."
            raise Fault(NO_RESOURCE, "w:InvalidResourceURI", text)
        if action == f"{_TRANSFER}Create":
            return self._create(body, resource)
        selectors = {one.get("Name"): one.text for one in head.iter(tag("wsman", "Selector"))}
        shell = self.shells.get(selectors.get("ShellId") or "")
        if shell is None:
            text = (
                f"The request for the Windows Remote Shell with ShellId {selectors.get('ShellId')}"
                " failed because the shell was not found on the server."
            )
            raise Fault(NO_SHELL, "w:InvalidSelectors", text)
        if action == f"{_TRANSFER}Delete":
            del self.shells[shell.name]
            return (f"{_TRANSFER}DeleteResponse",)
        verbs = {"Command": _command, "Send": _send, "Signal": _signal}
        verb = action.removeprefix(_SHELL)
        if verb in verbs:
            return f"{action}Response", verbs[verb](shell, body)
        if verb == "Receive":
            wait = head.findtext(tag("wsman", "OperationTimeout")) or "20"
            return f"{action}Response", _receive(shell, body, float(_TIMEOUT.sub("", wait)))
        raise Fault(NO_ACTION, "wsa:ActionNotSupported", f"The action {action} is not supported.")

    def _create(self, body: ET.Element, resource: str) -> tuple[str | ET.Element, ...]:
        asked = _first(body, tag("rsp", "Shell"))
        name = asked.get("ShellId") or str(uuid.uuid4()).upper()
        shell = Shell(self.host, self.conduct, name)
        content = _first(asked, "{http://schemas.microsoft.com/powershell}creationXml").text
        shell.feed(base64.b64decode(content or ""))
        self.shells[name] = shell
        made = ET.Element(tag("wst", "ResourceCreated"))
        about = ET.SubElement(made, tag("wsa", "ReferenceParameters"))
        ET.SubElement(about, tag("wsman", "ResourceURI")).text = resource
        selectors = ET.SubElement(about, tag("wsman", "SelectorSet"))
        ET.SubElement(selectors, tag("wsman", "Selector"), Name="ShellId").text = name
        told = ET.Element(tag("rsp", "Shell"))
        values = {"ShellId": name, "ResourceUri": resource, "OutputStreams": "stdout"}
        for key, value in (values | {"InputStreams": "stdin pr"}).items():
            ET.SubElement(told, tag("rsp", key)).text = value
        return f"{_TRANSFER}CreateResponse", made, told

    def _fault(self, fault: Fault, asked: str) -> bytes:
        made = ET.Element(tag("s", "Fault"))
        code = ET.SubElement(made, tag("s", "Code"))
        ET.SubElement(code, tag("s", "Value")).text = "s:Sender"
        below = ET.SubElement(code, tag("s", "Subcode"))
        ET.SubElement(below, tag("s", "Value")).text = fault.name
        reason = ET.SubElement(made, tag("s", "Reason"))
        ET.SubElement(reason, tag("s", "Text"), {_LANG: "en-US"}).text = str(fault)
        detail = ET.SubElement(made, tag("s", "Detail"))
        where = {"Code": str(fault.code), "Machine": self.host.name}
        told = ET.SubElement(detail, tag("f", "WSManFault"), where)
        ET.SubElement(told, tag("f", "Message")).text = str(fault)
        return _envelope(f"{SPACES['wsman']}/fault", asked, made)


def _first(element: ET.Element, name: str) -> ET.Element:
    found = element.find(name)
    if found is None:
        raise ValueError(f"{name} is missing")
    return found


def _envelope(action: str, asked: str, *children: str | ET.Element) -> bytes:
    made = ET.Element(tag("s", "Envelope"))
    head = ET.SubElement(made, tag("s", "Header"))
    values = {
        "Action": action,
        "MessageID": f"uuid:{uuid.uuid4()}".upper(),
        "To": f"{SPACES['wsa']}/role/anonymous",
        "RelatesTo": asked,
    }
    for key, value in values.items():
        ET.SubElement(head, tag("wsa", key)).text = value
    body = ET.SubElement(made, tag("s", "Body"))
    body.extend(one for one in children if isinstance(one, ET.Element))
    return bytes(ET.tostring(made, encoding="utf-8"))


def _command(shell: Shell, body: ET.Element) -> ET.Element:
    line = _first(body, tag("rsp", "CommandLine"))
    name = (line.get("CommandId") or str(uuid.uuid4())).upper()
    parts = "".join(one.text or "" for one in line.findall(tag("rsp", "Arguments")))
    shell.feed(base64.b64decode(parts), command=name)
    made = ET.Element(tag("rsp", "CommandResponse"))
    ET.SubElement(made, tag("rsp", "CommandId")).text = name
    return made


def _send(shell: Shell, body: ET.Element) -> ET.Element:
    stream = _first(_first(body, tag("rsp", "Send")), tag("rsp", "Stream"))
    shell.feed(base64.b64decode(stream.text or ""), is_prompt=stream.get("Name") == "pr")
    return ET.Element(tag("rsp", "SendResponse"))


def _signal(shell: Shell, body: ET.Element) -> ET.Element:
    shell.forget((_first(body, tag("rsp", "Signal")).get("CommandId") or "").upper())
    return ET.Element(tag("rsp", "SignalResponse"))


def _receive(shell: Shell, body: ET.Element, timeout_s: float) -> ET.Element:
    wanted = _first(_first(body, tag("rsp", "Receive")), tag("rsp", "DesiredStream"))
    command = (wanted.get("CommandId") or "").upper() or None
    taken = shell.take(command, timeout_s)
    if taken is None:
        text = "The operation cannot complete within the time specified in OperationTimeout."
        raise Fault(TIMED_OUT, "w:TimedOut", text)
    messages, is_done = taken
    made = ET.Element(tag("rsp", "ReceiveResponse"))
    named = {"CommandId": command} if command else {}
    for one in messages:
        stream = ET.SubElement(made, tag("rsp", "Stream"), {"Name": "stdout", **named})
        stream.text = base64.b64encode(one).decode()
    if command:
        state = {"CommandId": command, "State": _DONE if is_done else _RUNNING}
        ET.SubElement(made, tag("rsp", "CommandState"), state)
    return made
