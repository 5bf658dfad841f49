# SPDX-License-Identifier: Apache-2.0
"""Where git's proc-receive hook, a process of its own, reaches the sandbox: a loopback port."""

import hmac
import json
import secrets
import socketserver
import threading
from typing import Any

from ci.sandbox import git_hook
from ci.sandbox.push import Answer, Command, Pushes
from ci.sandbox.repositories import project_name

HOST = "127.0.0.1"
MAX_REQUEST_BYTES = 1 << 20


class Bridge:
    """Answers the hook; every request must carry the secret that only our children know.

    Args:
        pushes: Carries out what the hook asks.
    """

    def __init__(self, pushes: Pushes) -> None:
        self._token = secrets.token_hex(16)
        self._server = _Server(pushes, self._token)
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name="sandbox-hook",
            daemon=True,
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Stop to answer and give the port back."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self, project: str, username: str) -> dict[str, str]:
        """What `git receive-pack` needs so that its hook finds us."""
        return {
            git_hook.ADDRESS: str(self._server.server_address[1]),
            git_hook.TOKEN: self._token,
            git_hook.PUSHER: username,
            git_hook.PROJECT: project_name(project),
        }


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, pushes: Pushes, token: str) -> None:
        super().__init__((HOST, 0), _Handler)
        self.pushes = pushes
        self.token = token


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        """One request, one answer."""
        request: dict[str, Any] = json.loads(self.rfile.readline(MAX_REQUEST_BYTES))
        if not hmac.compare_digest(str(request.get("token")), self.server.token):
            return
        commands = [Command(old=old, new=new, ref=ref) for old, new, ref in request["commands"]]
        answer: Answer = self.server.pushes.receive(
            str(request["project"]), str(request["pusher"]), commands
        )
        told = {"said": list(answer.said), "results": list(answer.results)}
        self.wfile.write(json.dumps(told).encode() + b"\n")
