# SPDX-License-Identifier: Apache-2.0
"""Answers of four systems' APIs over real TLS on loopback, as few as an inventory takes.

Nothing is behind them. They are for what goes wrong on the way: a `rule` of a test answers before
the model does, cuts the line or lets it wait.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.kit.receivers import certificate

WORD = "geheim-&-<4711>"
_MARKS = "http://www.ibm.com/xmlns/systems/power/firmware/web/mc/2012_10/"


@dataclass(frozen=True)
class Answer:
    """What is answered; `cut` closes the line instead, `wait` lets it stand open until the end."""

    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    wait: bool = False


@dataclass(frozen=True)
class Asked:
    """A request as it came; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


Model = Callable[[Asked], Answer]


@dataclass
class Api:
    """One that serves."""

    model: Model
    ca_file: Path
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    rule: Callable[[Asked], Answer | None] = lambda _asked: None
    over: threading.Event = field(default_factory=threading.Event)

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        return self.rule(asked) or self.model(asked)


@contextmanager
def serving(model: Model, folder: Path) -> Iterator[Api]:
    """Serve it with a certificate of its own."""
    context, ca_file = certificate(folder)
    api = Api(model, ca_file)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def log_message(self, *_words: Any) -> None:
            pass

        def handle_one(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            told = api.answer(Asked(self.command, self.path, headers, self.rfile.read(size)))
            if told.wait:
                api.over.wait(60)
            if told.cut or told.wait:
                self.close_connection = True
                return
            content = told.body.encode()
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = handle_one  # noqa: N815 - http.server's

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_what: Any) -> None:
            """Clients that refuse a certificate or run out of patience are the point."""

        def get_request(self) -> Any:
            line, where = super().get_request()
            return context.wrap_socket(line, server_side=True, do_handshake_on_connect=False), where

    server = Server(("127.0.0.1", 0), Handler)
    api.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        api.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _json(told: object, **headers: str) -> Answer:
    return Answer(200, json.dumps(told), {"Content-Type": "application/json", **headers})


def ironic(asked: Asked) -> Answer:
    """One active node."""
    node = {
        "uuid": "7c",
        "name": "ci-1",
        "driver": "redfish",
        "provision_state": "active",
        "power_state": "power on",
        "extra": {"hypervouch": "theirs"},
    }
    path = asked.path.partition("?")[0]
    if path == "/":
        return _json({"default_version": {"version": "1.115"}})
    if path in {"/v1/nodes", "/v1/nodes/detail"}:
        return _json({"nodes": [node]})
    return _json(node)


def redfish(asked: Asked) -> Answer:
    """One machine that runs."""
    if asked.path.rstrip("/") == "/redfish/v1":
        known = {"Id": "root", "Name": "root", "RedfishVersion": "1.5.0"}
        return _json({**known, "Systems": {"@odata.id": "/redfish/v1/Systems"}})
    return _json({"Id": "1", "Name": "rack 7", "PowerState": "On", "UUID": "7c"})


def zvm(asked: Asked) -> Answer:
    """A connector with one guest."""
    if asked.path == "/token":
        return _json({}, **{"X-Auth-Token": "t"})
    outputs: dict[str, object] = {"/": {"version": "1.6.3"}, "/guests": ["LNX0001"]}
    told = outputs.get(asked.path, "on")
    return _json({"overallRC": 0, "rc": 0, "rs": 0, "errmsg": "", "output": told})


def _feed(kind: str, *inside: str) -> Answer:
    entries = "".join(
        f"<entry><id>{at}</id><content><{kind}>{text}</{kind}></content></entry>"
        for at, text in enumerate(inside)
    )
    return Answer(200, f'<feed xmlns="http://www.w3.org/2005/Atom">{entries}</feed>')


def job(status: str) -> Answer:
    """How a console tells of a job."""
    return Answer(200, f"<JobResponse><JobID>7</JobID><Status>{status}</Status></JobResponse>")


def powervm(asked: Asked) -> Answer:
    """A console with one system of two partitions; its jobs end at once."""
    last = asked.path.rpartition("/")[2]
    if last == "Logon":
        text = "<X-API-Session>t</X-API-Session>"
        return Answer(200, f'<LogonResponse xmlns="{_MARKS}">{text}</LogonResponse>')
    if last == "ManagedSystem":
        names = "<SystemName>HV4</SystemName><InstalledSystemMemory>65536</InstalledSystemMemory>"
        return _feed("ManagedSystem", names)
    if last == "LogicalPartition":
        name = "<PartitionName>{}</PartitionName><PartitionState>{}</PartitionState>"
        return _feed(
            "LogicalPartition",
            name.format("hv-a", "not activated"),
            name.format("linux1", "running"),
        )
    return job("COMPLETED_OK")
