# SPDX-License-Identifier: Apache-2.0
"""Both halves of IBM's connector on loopback: its SDK server, and its REST server over TLS.

The admin's token is the stand-in's password; REST asks for it, as the connector does it.
"""

import argparse
import json
import os
import signal
import socket
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from ci import proc

START_S = 60.0
_CONF = """[zvm]
user_profile = osdflt
disk_pool = ECKD:POOL1
[network]
my_ip = 127.0.0.1
[logging]
log_dir = {home}/logs
[database]
dir = {home}/db
[image]
sdk_image_repository = {home}/images
[file]
file_repository = {home}/files
[wsgi]
auth = token
token_path = {home}/token
[sdkserver]
bind_addr = 127.0.0.1
bind_port = {port}
"""


class _Server(ThreadingMixIn, WSGIServer):
    """One thread a connection: the connector's calls take seconds."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Nothing is logged for each call."""


def _configure(file: Path) -> None:
    """Point the connector at our file: it looks in fixed places only.

    Its own log comes after that: it reads the configuration.
    """
    from zvmsdk import config  # noqa: PLC0415 - of an extra

    config.ConfigOpts.find_config_file = lambda *_, **__: str(file)
    config.load_config()
    from zvmsdk import log  # noqa: PLC0415

    log.setup_log()


class _Tokens:
    """PyJWT 1 as the connector knows it, on PyJWT 2: tokens are bytes, the algorithm is implied."""

    def __init__(self, jwt: Any) -> None:
        self._jwt = jwt
        self.ExpiredSignatureError = jwt.ExpiredSignatureError
        self.DecodeError = jwt.DecodeError

    def encode(self, payload: dict[str, Any], key: str) -> bytes:
        """A signed token."""
        return str(self._jwt.encode(payload, key, algorithm="HS256")).encode()

    def decode(self, token: str, key: str) -> Any:
        """What a token says."""
        return self._jwt.decode(token, key, algorithms=["HS256"])


def _sdk(file: Path) -> None:
    """The half that talks to SMAPI and CP."""
    _configure(file)
    from zvmsdk import sdkserver  # noqa: PLC0415

    sdkserver.start_daemon()


def _rest(file: Path, given: argparse.Namespace) -> None:
    """The half that clients talk to; starts the other one."""
    sdk_port = _free_port()
    home = Path.cwd()
    for name in ("logs", "db", "images", "files", "bin"):
        (home / name).mkdir(exist_ok=True)
    token = home / "token"
    token.touch(mode=0o600)
    token.write_text(os.environ.pop("STAND_IN_PASSWORD"))
    file.write_text(_CONF.format(home=home, port=sdk_port))
    sdk = _start_sdk(home)
    try:
        _await(sdk_port, sdk)
        _configure(file)
        from zvmsdk.sdkwsgi.deploy import init_application  # noqa: PLC0415
        from zvmsdk.sdkwsgi.handlers import tokens  # noqa: PLC0415

        tokens.jwt = _Tokens(tokens.jwt)
        server = make_server(
            "127.0.0.1", given.port, init_application(), server_class=_Server, handler_class=_Quiet
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(given.certificate, given.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        port = server.server_address[1]
        print(json.dumps({"url": f"zvm://127.0.0.1:{port}", "pid": os.getpid()}), flush=True)  # noqa: T201
        server.serve_forever()
    finally:
        sdk.terminate()
        with suppress(proc.TimeoutExpired):
            sdk.wait(5)
        proc.kill_group(sdk.pid)


def _start_sdk(home: Path) -> proc.Process:
    root = str(Path(__file__).parents[3])
    sudo = home / "bin" / "sudo"
    sudo.write_text(f'#!/bin/sh\nexec {sys.executable} -m nodes.stand_ins.zvm.cp "$@"\n')
    sudo.chmod(0o700)
    env = {
        **os.environ,
        "PATH": f"{sudo.parent}:{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": root,
        "ZVM_STATE": str(home / "state.json"),
    }
    with (home / "sdk.log").open("wb") as log:
        return proc.spawn(
            [
                "setpriv",
                "--pdeathsig",
                "TERM",
                sys.executable,
                "-m",
                "nodes.stand_ins.zvm",
                "--sdk",
            ],
            stdout=log,
            env=env,
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(port: int, sdk: proc.Process) -> None:
    for _ in proc.wait_until(time.monotonic() + START_S, every_s=0.1):
        if sdk.poll() is not None:
            break
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
    sys.exit("the connector's SDK server does not serve: look into sdk.log")


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m nodes.stand_ins.zvm", description=__doc__)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--sdk", action="store_true", help="only the other half")
    given = parser.parse_args()
    file = Path.cwd() / "zvmsdk.conf"
    if given.sdk:
        _sdk(file)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _rest(file, given)


if __name__ == "__main__":
    main()
