# SPDX-License-Identifier: Apache-2.0
"""Become somebody else's server, and say so once it serves: `python -m nodes.lab.announce`.

`nodes.lab.apis` waits for one line of JSON with a `url`, which such a server does not write. This
process turns into the server, so that its pid and its signals are the server's; a child that
nobody has to wait for looks at the port, writes the line, and ends.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from nodes.lab.apis import HOST

LOOK_S = 120.0
_EVERY_S = 0.1


def free_port() -> int:
    """A loopback port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def argv(port: int, command: Sequence[str]) -> list[str]:
    """The command line that runs a server and tells when it serves."""
    return [sys.executable, "-m", "nodes.lab.announce", str(port), *command]


def main(told: Sequence[str]) -> None:
    """Run `PORT COMMAND...`."""
    port, command = int(told[0]), list(told[1:])
    server = os.getpid()
    if os.fork() == 0:
        if os.fork() == 0:
            _tell(server, port)
        os._exit(0)
    os.wait()
    os.execv(command[0], command)  # noqa: S606 - this is the point


def _tell(server: int, port: int) -> None:
    deadline = time.monotonic() + LOOK_S
    while time.monotonic() < deadline and _lives(server):
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
            line = json.dumps({"url": f"https://{HOST}:{port}"}) + "\n"
            os.write(1, line.encode())
            return
        time.sleep(_EVERY_S)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
