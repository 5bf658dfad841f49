# SPDX-License-Identifier: Apache-2.0
"""The HTTP server in a thread: the process it lives in keeps its own signal handling."""

import os
import socket
import threading
import time

import uvicorn
from starlette.applications import Starlette

from ci.errors import ConfigError, HypervouchBug

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0


class WebServer:
    """Serves one application. `start` once, `stop` as often as wanted.

    Args:
        app: From `create_app` or `create_health_app`.
        host: Address to listen on.
        port: TCP port; 0 picks a free one, which `url` then tells.
    """

    def __init__(self, app: Starlette, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._stopping: threading.Event = app.state.stopping
        self._host, self._port = host, port
        self._socket: socket.socket | None = None
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=3,
            )
        )
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens; ends in a slash. Meaningful after `start`."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/"

    def start(self) -> None:
        """Listen, and return once requests are answered.

        Raises:
            ConfigError: The address is taken or not ours.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            self._socket = socket.create_server((self._host, self._port), family=family)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {self._host}:{self._port}: {os.strerror(error.errno or 0)}",
                hint="stop what uses it, or choose another: the key listen, or --port of the demo",
            ) from error
        # Connections inherit it; without, every answer waits 40 ms for a delayed acknowledgement,
        # because asyncio sets it only on sockets made with an explicit protocol number.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = self._socket.getsockname()[1]
        self._thread.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.stop()
                raise HypervouchBug("the web server did not start")
            time.sleep(0.01)

    def stop(self) -> None:
        """End live pages, finish what is being answered, close the socket. Repeatable."""
        self._stopping.set()
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_S)
        if self._socket is not None:
            self._socket.close()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket] if self._socket else None)
