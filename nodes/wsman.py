# SPDX-License-Identifier: Apache-2.0
"""Windows Remote Management: how a connection to it is made, for runners and for adapters.

pypsrp speaks the protocol. What it would leave open is closed here: the environment's proxies and
authorities count for nothing, the certificate is checked by `nodes.hypervisors.certificates` on
each connection before a byte is sent, nobody sends us elsewhere, and no answer is awaited for ever.
"""

from typing import Any
from xml.etree import ElementTree as ET

import requests
from pypsrp.exceptions import WinRMError
from pypsrp.wsman import NAMESPACES, WSMan, WSManAction
from spnego.exceptions import SpnegoError

from nodes.hypervisors import certificates, requests_tls
from nodes.hypervisors.base import Access

EMULATOR = "EMULATOR\\hypervouch"
"""Whose the shells of our own emulator are: nobody takes it for a Windows."""

CONNECT_S = 15
AUTHS = ("basic", "negotiate", "ntlm", "kerberos")
ENVELOPE_BYTES = 153_600
"""What Windows Server 2008 takes in one message, and whatever came after it."""

ON_THE_WAY = (
    WinRMError,
    SpnegoError,
    requests.RequestException,
    ET.ParseError,
    OSError,
    ValueError,  # by pypsrp, for ways to log in that the host does not offer
    LookupError,  # and for answers that lack what WinRM's have
    AttributeError,
    ImportError,  # of Kerberos' own library
)
"""What pypsrp lets through where something is wrong with the host or the way there."""


class _WSMan(WSMan):
    """pypsrp's, which would ask six times for an answer that does not come."""

    def receive(self, resource_uri: str, resource: Any, *args: Any, **named: Any) -> Any:
        """Ask once."""
        told = self.invoke(WSManAction.RECEIVE, resource_uri, resource, *args, **named)
        return told.find("s:Body", namespaces=NAMESPACES)


def connect(
    host: str,
    port: int,
    user: str,
    access: Access,
    *,
    auth: str = "negotiate",
    operation_s: float = 20,
    connect_s: float = CONNECT_S,
    read_s: float = 30,
    envelope_bytes: int = ENVELOPE_BYTES,
    is_tls: bool = True,
) -> WSMan:
    """A connection; nothing is sent yet.

    Args:
        host: Name or address of the machine.
        port: Of its listener, 5986 for HTTPS as a rule.
        user: Who logs in.
        access: The password, and how the certificate is checked.
        auth: One of AUTHS.
        operation_s: Seconds that the server may take for one operation before it says so.
        connect_s: Seconds that we wait for a connection.
        read_s: Seconds that we wait for any answer; more than `operation_s`.
        envelope_bytes: The largest message.
        is_tls: Whether it is HTTPS; else each message is sealed by the login.

    Raises:
        CallerFault: The digest is none, or the certificates cannot be read.
    """
    context = certificates.context(access) if is_tls else None
    made = _WSMan(
        host,
        port=port,
        username=user,
        password=access.password,
        ssl=is_tls,
        auth=auth,
        encryption="auto" if is_tls else "always",
        connection_timeout=connect_s,  # type: ignore[arg-type]
        read_timeout=read_s,  # type: ignore[arg-type]
        operation_timeout=operation_s,  # type: ignore[arg-type]
        max_envelope_size=envelope_bytes,
        no_proxy=True,
    )
    session = made.transport._build_session()  # noqa: SLF001 - there is no other way in
    session.trust_env = False
    session.proxies = {}
    session.verify = True  # not a bundle that the environment names; our context checks
    session.max_redirects = 0
    if context is not None:
        place = f"[{host}]" if ":" in host else host
        requests_tls.secure(session, f"https://{place}:{port}", context)
    made.transport.session = session
    return made
