# SPDX-License-Identifier: Apache-2.0
"""A stand-in for QEMU and the guest where QEMU cannot be had: monitor, console, ticks.

It proves the driver's side of the conversation and nothing about a hypervisor, so every banner
it prints ends in `emulator`. Run in a guest's folder: `python -m acme_virt.emulator`.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from pathlib import Path
from typing import Any

from acme_virt.guest import BANNER, TICK_S


class Machine:
    """The guest's counters and the commands that change them."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("ab", buffering=0)
        self.running = True
        self.boots = 0
        self.ticks = 0
        self._next_s = 0.0
        self._left_s = 0.0
        self._snapshots: dict[str, tuple[int, int]] = {}
        self._jobs: dict[str, dict[str, str]] = {}
        self.boot()

    def boot(self) -> None:
        """Start the guest's program again; the boot counter survives, as memory does."""
        self.boots, self.ticks = self.boots + 1, 0
        self._next_s = time.monotonic() + TICK_S
        self.write(f"{BANNER}{self.boots} emulator")

    def write(self, line: str) -> None:
        """Say a line on the console."""
        self._log.write(line.encode() + b"\r\n")

    def advance(self) -> None:
        """Say the ticks that have come due."""
        while self.running and time.monotonic() >= self._next_s:
            self.ticks += 1
            self._next_s += TICK_S
            self.write(f"tick {self.ticks}")

    def execute(self, command: str, arguments: dict[str, Any]) -> Any:
        """Carry out a monitor command.

        Raises:
            LookupError: The command is not known here.
        """
        if command == "query-status":
            return {"status": "running" if self.running else "paused", "running": self.running}
        if command == "query-jobs":
            return [{"id": name, "status": "concluded", **job} for name, job in self._jobs.items()]
        if command == "job-dismiss":
            self._jobs.pop(arguments["id"], None)
        elif command == "stop":
            self.running, self._left_s = False, self._next_s - time.monotonic()
        elif command == "cont":
            self.running, self._next_s = True, time.monotonic() + self._left_s
        elif command == "system_reset":
            self.boot()
        elif command == "snapshot-save":
            self._snapshots[arguments["tag"]] = (self.boots, self.ticks)
            self._jobs[arguments["job-id"]] = {}
        elif command == "snapshot-load":
            self._load(arguments["job-id"], arguments["tag"])
        elif command not in {"qmp_capabilities", "quit"}:
            raise LookupError(f"The command {command} has not been found")
        return {}

    def _load(self, job: str, tag: str) -> None:
        if tag in self._snapshots:
            self.boots, self.ticks = self._snapshots[tag]
            self._next_s = time.monotonic() + TICK_S
            self._jobs[job] = {}
        else:
            self._jobs[job] = {"error": f"Snapshot '{tag}' does not exist"}


def serve(machine: Machine, monitor: socket.socket, console: socket.socket) -> None:
    """Answer both sockets and tick until the monitor says quit."""
    poll = selectors.DefaultSelector()
    poll.register(monitor, selectors.EVENT_READ, "monitor")
    poll.register(console, selectors.EVENT_READ, "console")
    while True:
        machine.advance()
        for key, _ in poll.select(TICK_S / 10):
            listener = key.fileobj
            assert isinstance(listener, socket.socket)
            if key.data in {"monitor", "console"}:
                client, _ = listener.accept()
                poll.register(client, selectors.EVENT_READ, f"{key.data} client")
                if key.data == "monitor":
                    client.sendall(b'{"QMP": {}}\n')
                continue
            received = listener.recv(4096)
            if not received:
                poll.unregister(listener)
                listener.close()
            elif key.data == "console client":
                for character in received.decode("ascii", "replace"):
                    machine.write(f"echo {character}")
            elif not _answer(machine, listener, received):
                return


def _answer(machine: Machine, client: socket.socket, received: bytes) -> bool:
    """Answer monitor commands; False when one of them was `quit`."""
    going_on = True
    for line in received.splitlines():
        request = json.loads(line)
        try:
            result = machine.execute(request["execute"], request.get("arguments", {}))
            reply = {"return": result}
        except LookupError as error:
            reply = {"error": {"class": "CommandNotFound", "desc": str(error)}}
        client.sendall(json.dumps(reply).encode() + b"\n")
        going_on = going_on and request["execute"] != "quit"
    return going_on


def main() -> None:
    """Open both sockets in the working directory and serve them."""
    sockets = []
    for name in ("console.sock", "qmp.sock"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(name)
        listener.listen()
        sockets.append(listener)
    serve(Machine(Path("console.log")), sockets[1], sockets[0])


if __name__ == "__main__":
    main()
