# SPDX-License-Identifier: Apache-2.0
"""Git's proc-receive hook: hands a push's commands to the sandbox and git its answers.

Run by `git receive-pack` as a program of its own, with the standard library only. Where the
sandbox listens, and who pushes, is in the environment.
Source: git-receive-pack(1), githooks(5), "proc-receive".
"""

import json
import os
import socket
import sys
from typing import IO

ADDRESS = "HYPERVOUCH_SANDBOX_PORT"
TOKEN = "HYPERVOUCH_SANDBOX_TOKEN"  # noqa: S105
PUSHER = "HYPERVOUCH_SANDBOX_PUSHER"
PROJECT = "HYPERVOUCH_SANDBOX_PROJECT"
_LENGTH = 4


def read_packets(source: IO[bytes]) -> list[str]:
    """Packet lines up to the next flush packet, without their line ends."""
    lines: list[str] = []
    while True:
        size = int(source.read(_LENGTH) or b"0000", 16)
        if size == 0:
            return lines
        lines.append(source.read(size - _LENGTH).decode("utf-8", "replace").rstrip("\n"))


def packet(text: str) -> bytes:
    """One packet line."""
    body = text.encode() + b"\n"
    return f"{len(body) + _LENGTH:04x}".encode() + body


FLUSH = b"0000"


def ask(commands: list[str]) -> dict[str, list[str]]:
    """Send the commands to the sandbox; its answer has `said` and `results`."""
    request = {
        "token": os.environ[TOKEN],
        "pusher": os.environ[PUSHER],
        "project": os.environ[PROJECT],
        "commands": [line.split(" ", 2) for line in commands],
    }
    with socket.create_connection(("127.0.0.1", int(os.environ[ADDRESS])), timeout=120) as link:
        link.sendall(json.dumps(request).encode() + b"\n")
        with link.makefile("rb") as answer:
            told: dict[str, list[str]] = json.loads(answer.readline())
            return told


def main() -> int:
    """Speak version 1 of the protocol on standard input and output."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    read_packets(source)
    target.write(packet("version=1") + FLUSH)
    target.flush()
    commands = read_packets(source)
    try:
        answer = ask(commands)
    except (OSError, KeyError, ValueError) as error:
        refs = [line.split(" ", 2)[2] for line in commands]
        answer = {"said": [], "results": [f"ng {ref} sandbox: {error}" for ref in refs]}
    for line in answer["said"]:
        sys.stderr.write(line + "\n")
    sys.stderr.flush()
    for line in answer["results"]:
        target.write(packet(line))
    target.write(FLUSH)
    target.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
