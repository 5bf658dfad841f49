# SPDX-License-Identifier: Apache-2.0
"""Stand-ins of hypervisors that are reached by an API of their own: one process each, on loopback.

Such a program is given a certificate and a password through files and its environment, and writes
one line of JSON with its `url` once it serves. A folder holds all that is known of it, so that
any process finds it again; the password is random, made when it is first started.
"""

import json
import os
import secrets
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ci import proc
from ci.errors import NodeUnavailable

HOST = "127.0.0.1"
USER = "hypervouch"
START_S = 60.0
STOP_S = 10.0
_DAYS = 30
_SAID_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Program:
    """What is to be started.

    Attributes:
        argv: Its command line.
        env: On top of ours.
        password_as: Name of the variable that takes the password.
        start_s: Seconds until it has to serve.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    password_as: str = "STAND_IN_PASSWORD"  # noqa: S105 - a variable's name
    start_s: float = START_S


class ApiHost:
    """One stand-in.

    Args:
        folder: For all that it keeps.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.password_file = folder / "password"
        self.ca_file = folder / "certificate.pem"
        self.key_file = folder / "key.pem"
        self.scratch = folder / "tmp"
        """For temporary files of a program that is told of it; empty at each start."""

    def start(self, program: Program) -> None:
        """Start it, and wait until it serves; one that runs is left as it is.

        Raises:
            NodeUnavailable: It does not serve in time, or ended.
        """
        if self.is_running():
            return
        process = self._spawn(program, ())
        note = {"pid": process.pid, "born": proc.start_tick(process.pid), "said": self._said()}
        (self.folder / "process.json").write_text(json.dumps(note))
        # It is not ours to wait for: it outlives this process.
        process.returncode = 0

    @contextmanager
    def running(self, program: Program) -> Iterator[Mapping[str, Any]]:
        """One that ends with whoever started it; gives what it said once it served.

        Raises:
            NodeUnavailable: It does not serve in time, or ended.
        """
        process = self._spawn(program, ("setpriv", "--pdeathsig", "TERM"))
        try:
            yield self._said()
        finally:
            _end(process)
            shutil.rmtree(self.scratch, ignore_errors=True)

    def stop(self) -> None:
        """End it; repeatable."""
        note = self._note()
        pid, born = int(note.get("pid", 0)), str(note.get("born", "none"))
        if proc.is_running(pid, born):
            proc.kill_group(pid, signal.SIGTERM)
            for _ in proc.wait_until(time.monotonic() + STOP_S, every_s=0.1):
                if not proc.is_running(pid, born):
                    break
            else:
                proc.kill_group(pid)
        (self.folder / "process.json").unlink(missing_ok=True)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def is_running(self) -> bool:
        """Whether the process that was started still lives."""
        note = self._note()
        return proc.is_running(int(note.get("pid", 0)), str(note.get("born", "none")))

    @property
    def said(self) -> Mapping[str, Any]:
        """What it said once it served; empty when it does not run."""
        return dict(self._note().get("said", {})) if self.is_running() else {}

    def password(self) -> str:
        """Its password, made the first time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            handle = os.open(self.password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_urlsafe(24))
        return self.password_file.read_text().strip()

    def _spawn(self, program: Program, before: Sequence[str]) -> proc.Process:
        password = self.password()
        self._certify()
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        env = {**os.environ, **program.env, program.password_as: password}
        with (self.folder / "log").open("wb") as log:
            process = proc.spawn([*before, *program.argv], stdout=log, env=env, cwd=self.folder)
        try:
            for _ in proc.wait_until(time.monotonic() + program.start_s, every_s=0.05):
                if self._said():
                    return process
                if process.poll() is not None:
                    break
        except BaseException:
            _end(process)
            raise
        _end(process)
        lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        raise NodeUnavailable(
            f"{program.argv[0]} does not serve: {lines[-1] if lines else 'it said nothing'}",
            hint=f"look into {self.folder / 'log'}",
        )

    def _said(self) -> dict[str, Any]:
        """The line of JSON in its log."""
        with (self.folder / "log").open("rb") as log:
            lines = log.read(_SAID_BYTES).splitlines(keepends=True)
        for line in lines:
            if line.startswith(b"{") and line.endswith(b"\n"):
                with suppress(ValueError):
                    return dict(json.loads(line))
        return {}

    def _note(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, TypeError):
            return dict(json.loads((self.folder / "process.json").read_text()))
        return {}

    def _certify(self) -> None:
        """A certificate for loopback that signs itself."""
        if self.ca_file.exists() and self.key_file.exists():
            return
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=_DAYS))
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))]), critical=False
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        handle = os.open(self.key_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
        self.ca_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))


def _end(process: proc.Process) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(proc.TimeoutExpired):
            process.wait(STOP_S)
    proc.kill_group(process.pid)
    process.wait()
