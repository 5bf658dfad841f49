# SPDX-License-Identifier: Apache-2.0
"""The shell behind a real OpenSSH server of POSIX, as its ForceCommand: one cmd.exe, one line.

It knows the lines that our runner sends and nothing else; a job's command runs in a POSIX shell. As
on Windows a line's processes end with its cmd.exe, and none of them ends when the connection does.
To `echo %OS%` it says that it is an emulator. A file `fault` in HOME lets it misbehave: `deaf` ends
nothing, `broken` is a PowerShell that fails, `other-shell` answers as PowerShell would.
"""

import os
import shutil
import sys
import uuid
from pathlib import Path

from ci import proc
from ci.errors import HypervouchError
from ci.model.node import EMULATED_WINDOWS
from nodes.stand_ins.winrs import words
from nodes.stand_ins.winssh import jobs, lines


def main() -> int:
    """Run the line that the client asked for; returns its exit status."""
    line = os.environ.get("SSH_ORIGINAL_COMMAND", "")
    home = Path(os.environ.get("HOME", "/"))
    try:
        fault = (home / "fault").read_text().strip()
    except OSError:
        fault = ""
    if line == lines.PROBE:
        return _say(f"hypervouch-{'%OS%' if fault == 'other-shell' else EMULATED_WINDOWS}\r\n")
    try:
        asked = lines.read(line)
    except ValueError as error:
        return _say(f"{error}\r\n", to=sys.stderr.fileno(), status=1)
    if isinstance(asked, lines.End):
        return 1 if fault == "broken" else jobs.end(asked, deaf=fault == "deaf")
    if isinstance(asked, lines.Job):
        return _job(asked)
    return _tool(asked)


def _job(asked: lines.Job) -> int:
    if not Path(asked.directory).exists():
        return 125
    if not Path(asked.directory).is_dir():
        return _say("The directory name is invalid.\r\n", to=sys.stderr.fileno(), status=1)
    shell = shutil.which("sh") or "/bin/sh"
    return _started([shell, "-c", asked.command], asked.mark, asked.directory, asked.env)


def _tool(asked: lines.Tool) -> int:
    done = words.do(asked.line)
    if isinstance(done, list):
        return _started(done, asked.mark, "/", {}, merge=False)
    _say(done.stderr.decode(), to=sys.stderr.fileno())
    return _say(done.stdout, status=done.status)


def _started(
    argv: list[str], mark: str, directory: str, env: dict[str, str], *, merge: bool = True
) -> int:
    """Run a program in a job object of its own: what it leaves ends with it."""
    job = uuid.uuid4().hex
    base = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": directory}
    try:
        process = proc.spawn(
            argv,
            stdin=os.open(os.devnull, os.O_RDONLY) if merge else sys.stdin.fileno(),
            stdout=sys.stdout.fileno(),
            stderr=sys.stdout.fileno() if merge else sys.stderr.fileno(),
            cwd=Path(directory),
            env={**base, **env, jobs.MARK: mark, jobs.JOB: job},
        )
    except HypervouchError as error:
        return _say(f"{error}\r\n", status=1)
    status = process.wait()
    jobs.close(job, process.pid)
    return status if status >= 0 else 128 - status


def _say(text: str | bytes, *, to: int = 1, status: int = 0) -> int:
    data = text.encode() if isinstance(text, str) else text
    while data:
        data = data[os.write(to, data) :]
    return status


if __name__ == "__main__":
    sys.exit(main())
