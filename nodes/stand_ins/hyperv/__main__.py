# SPDX-License-Identifier: Apache-2.0
"""Hosts behind WinRM on loopback: HTTPS, or HTTP with sealed messages; one port for each.

`POST /faults` with `{"cmdlet": "Start-VM", "error_id": "OperationFailed", "category":
"ResourceUnavailable", "message": "...", "times": 1}` lets a cmdlet fail; `{"delay_s": 2}` makes it
slow, `{"die": true}` ends the process in it; `{"forget": "shells"}` ends all sessions, `{}` takes
every rule back. `POST /told` gives what was asked so far. Both take the password in X-Password.
"""

import argparse
import base64
import binascii
import hmac
import json
import os
import re
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import spnego
from pypsrp.encryption import WinRMEncryption
from spnego.exceptions import SpnegoError

from nodes.stand_ins.hyperv import devices, machines
from nodes.stand_ins.hyperv.host import Host, Machine
from nodes.stand_ins.hyperv.shell import Conduct
from nodes.stand_ins.hyperv.wsman import Service

CMDLETS_OF = (devices, machines)
_OFFERED = ("Negotiate", "NTLM", 'Basic realm="WSMAN"')
_SOAP = "application/soap+xml;charset=UTF-8"
_BOUNDARY = re.compile(r'boundary="([^"]+)"')
_PROTOCOL = re.compile(r'protocol="([^"]+)"')


class Handler(BaseHTTPRequestHandler):
    """One connection, which is logged in once."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    service: Service
    login: tuple[str, str]

    def setup(self) -> None:
        """Nobody has logged in yet."""
        super().setup()
        self._context: Any = None
        self._is_known = False
        self._token = ""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Nothing is logged for each call."""

    def do_POST(self) -> None:
        """A message, or a rule for faults."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path in {"/faults", "/told"}:
            self._aside(body)
            return
        conduct = self.service.conduct
        conduct.requests += 1
        conduct.logins += "Authorization" in self.headers
        if not self._is_let_in():
            return
        kind = self.headers.get("Content-Type", "")
        if not body:  # a request that only logs in
            self._answer(200, b"")
        elif kind.startswith("multipart/"):
            self._sealed(kind, body)
        else:
            self._answer(*self.service.answer(body))

    def _sealed(self, kind: str, body: bytes) -> None:
        protocol, boundary = _PROTOCOL.search(kind), _BOUNDARY.search(kind)
        if not protocol or not boundary:
            self._answer(400, b"")
            return
        seal = WinRMEncryption(self._context, protocol[1])
        status, answer = self.service.answer(seal.unwrap_message(body, boundary[1]))
        wrapped, sealed = seal.wrap_message(answer)
        end = f'{wrapped};protocol="{protocol[1]}";boundary="Encrypted Boundary"'
        self._answer(status, sealed, end)

    def _is_let_in(self) -> bool:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        self._token = ""
        try:
            given = base64.b64decode(token)
        except binascii.Error:
            given = b""
        if scheme.lower() == "basic":
            self._is_known = hmac.compare_digest(given, ":".join(self.login).encode())
        elif scheme.lower() in {"negotiate", "ntlm"}:
            return self._step(scheme, given)
        if not self._is_known:
            self._answer(401, b"", offers=_OFFERED)
        return self._is_known

    def _step(self, scheme: str, given: bytes) -> bool:
        """One step of NTLM; the connection is known after the last."""
        try:
            if self._context is None or self._context.complete:
                ways = spnego.NegotiateOptions
                options = ways.use_ntlm if scheme.lower() == "ntlm" else ways.none
                self._context = spnego.server(protocol=scheme.lower(), options=options)
            out = self._context.step(given)
        except (SpnegoError, ValueError):
            self._context, self._is_known = None, False
            self._answer(401, b"", offers=_OFFERED)
            return False
        token = f"{scheme} {base64.b64encode(out).decode()}" if out else ""
        if not self._context.complete:
            self._answer(401, b"", offers=(token,))
            return False
        self._is_known, self._token = True, token
        return True

    def _aside(self, body: bytes) -> None:
        if self.headers.get("X-Password") != self.login[1]:
            self._answer(403, b"")
            return
        conduct = self.service.conduct
        if self.path == "/faults":
            rule = json.loads(body)
            if rule.get("forget") == "shells":
                self.service.shells.clear()
            else:
                conduct.rules = [*conduct.rules, rule] if rule else []
        told = {key: value for key, value in vars(conduct).items() if key != "rules"}
        self._answer(200, json.dumps(told).encode(), "application/json")

    def _answer(
        self, status: int, body: bytes, kind: str = _SOAP, offers: tuple[str, ...] = ()
    ) -> None:
        self.send_response_only(status)
        for one in (*offers, *filter(None, (self._token,))):
            self.send_header("WWW-Authenticate", one)
        if body:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _accounts(user: str, password: str, names: list[str]) -> None:
    """Tell NTLM the one account there is, by a file that lies in memory only."""
    domains = {"", "WORKGROUP", os.uname().nodename, os.uname().nodename.upper(), *names}
    lines = [f"{domain}:{user}:{password}\n" for domain in sorted(domains)]
    handle = os.memfd_create("accounts")
    os.write(handle, "".join(lines).encode())
    os.environ["NTLM_USER_FILE"] = f"/proc/self/fd/{handle}"


def _hosts(count: int, machines_each: int) -> list[Host]:
    lock = threading.RLock()
    hosts = [Host(f"HV{number:02}", lock) for number in range(1, count + 1)]
    for host in hosts:
        host.peers = {one.name: one for one in hosts if one is not host}
        for number in range(machines_each):
            made = Machine(f"others {number}")
            host.machines[made.id] = made
    return hosts


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m nodes.stand_ins.hyperv", description=__doc__)
    parser.add_argument("--user", default="ci")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--port", type=int, default=0, help="of the first host")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--machines", type=int, default=0)
    given = parser.parse_args()
    password = os.environ["STAND_IN_PASSWORD"]
    hosts = _hosts(given.hosts, given.machines)
    _accounts(given.user, password, [host.name for host in hosts])
    servers = []
    for at, host in enumerate(hosts):
        kept = {"service": Service(host, Conduct()), "login": (given.user, password)}
        port = given.port + at if given.port else 0
        server = ThreadingHTTPServer(("127.0.0.1", port), type("Served", (Handler,), kept))
        server.daemon_threads = True
        if given.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(given.certificate, given.key)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        servers.append(server)
    scheme = "https" if given.certificate else "http"
    urls = [f"{scheme}://127.0.0.1:{server.server_address[1]}/wsman" for server in servers]
    print(json.dumps({"url": urls[0], "urls": urls, "pid": os.getpid()}), flush=True)  # noqa: T201
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    servers[0].serve_forever()


if __name__ == "__main__":
    main()
