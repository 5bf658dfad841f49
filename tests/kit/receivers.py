# SPDX-License-Identifier: Apache-2.0
"""Receivers of notices on loopback: an HTTP server and an SMTP server that do as they are told."""

import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, kw_only=True)
class Post:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(kw_only=True)
class HttpReceiver:
    """Answers each request with the next of `answers`, then with 204.

    Attributes:
        port: Where it listens.
        answers: (status, headers, body), used up in order; a status of 0 closes without a
            word, -1 says nothing until `released` is set.
        posts: What came.
    """

    port: int
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    posts: list[Post] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def say(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        """Add an answer."""
        self.answers.append((status, headers or {}, body))


@contextmanager
def http_receiver(tls: ssl.SSLContext | None = None) -> Iterator[HttpReceiver]:
    """An HTTP server for the length of a block."""
    made = HttpReceiver(port=0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            post = Post(method=self.command, path=self.path, headers=dict(self.headers), body=body)
            if made.released.is_set():  # gone, but for a kept connection
                self.close_connection = True
                return
            made.posts.append(post)
            status, headers, content = made.answers.pop(0) if made.answers else (204, {}, b"")
            if status == -1:
                made.released.wait(20)
            if status <= 0:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_POST = do_HEAD = _answer  # noqa: N815 - the library's names

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A client that hangs up is part of the test."""

    server = Quiet(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.released.set()
        server.shutdown()
        server.server_close()
        thread.join(5)


@dataclass(kw_only=True)
class SmtpReceiver:
    """Keeps mails, and refuses what it is told to.

    Attributes:
        port: Where it listens.
        mails: What was accepted, parsed.
        envelopes: (sender, recipients) of each.
        logins: (user, password) of each try.
        password: The right one.
        data_answers: Said after the next mails instead of taking them, one each.
        refused_recipients: Answer by address.
    """

    port: int
    mails: list[EmailMessage] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    envelopes: list[tuple[str, list[str]]] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    password: str = "right"
    data_answers: list[str] = field(default_factory=list)
    refused_recipients: dict[str, str] = field(default_factory=dict)

    async def handle_RCPT(  # noqa: N802
        self, _server: Any, _session: Session, envelope: Envelope, address: str, _options: Any
    ) -> str:
        """Take a recipient unless told otherwise."""
        if address in self.refused_recipients:
            return self.refused_recipients[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Take a mail unless told otherwise."""
        if self.data_answers:
            return self.data_answers.pop(0)
        content = envelope.original_content or b""
        self.raw.append(content)
        parsed = message_from_bytes(content, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        self.mails.append(parsed)
        self.envelopes.append((str(envelope.mail_from), list(envelope.rcpt_tos)))
        return "250 OK"

    def authenticate(
        self, _server: Any, _session: Session, _envelope: Envelope, _kind: str, data: Any
    ) -> AuthResult:
        """Compare the password."""
        assert isinstance(data, LoginPassword)
        given = data.password.decode()
        self.logins.append((data.login.decode(), given))
        # Else the library hides which answer a refused login gets.
        return AuthResult(success=given == self.password, handled=False)


@contextmanager
def smtp_receiver(
    tls: ssl.SSLContext | None = None, *, implicit: bool = False, login: bool = False
) -> Iterator[SmtpReceiver]:
    """An SMTP server for the length of a block.

    Args:
        tls: Offers STARTTLS, and requires it.
        implicit: TLS from the first byte instead.
        login: Whether it has logins.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = SmtpReceiver(port=port)
    starttls = tls is not None and not implicit
    controller = Controller(
        made,
        hostname="127.0.0.1",
        port=port,
        ssl_context=tls if implicit else None,
        tls_context=None if implicit else tls,
        require_starttls=starttls,
        authenticator=made.authenticate if login else None,
        # The library warns where a login is required without STARTTLS; it is offered then.
        auth_required=login and starttls,
        auth_require_tls=starttls,
    )
    controller.start()
    try:
        yield made
    finally:
        controller.stop()


def certificate(folder: Path, host: str = "127.0.0.1") -> tuple[ssl.SSLContext, Path]:
    """A server's context with a fresh certificate signed by itself, and the file of that."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    return context, cert_file
