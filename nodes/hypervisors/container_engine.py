# SPDX-License-Identifier: Apache-2.0
"""The API socket of a container engine: its faults in our words, and what it cannot raise.

Docker and Podman speak the same API (Docker's, version 1.41 on Podman 4), through the `docker`
library, which is imported only here and only when an engine is asked for.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ci import plugins
from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import CallerFault, NodeFault, TransientFault

_CAP_SYS_RESOURCE = 24
_SOFT_FILES = 1024
_ALREADY = ("is already paused", "is not paused", "is not running", "can only kill running")
_BUSY_STATUS = frozenset({409, 503})


class Engine:
    """One engine that answered.

    Attributes:
        key: `docker` or `podman`.
        client: The library's.
        docker: The library.
        version: Of the engine.
        api_version: Of the API, the newest that both speak.
    """

    def __init__(self, key: str, path: Path, access: Access) -> None:
        """Connect.

        Raises:
            CallerFault: We may not use the socket.
            TransientFault: Nobody listens there.
            NodeFault: What listens there is no such engine.
        """
        self.key = key
        self.path = path
        self.docker = plugins.need("docker", extra="container", what=f"hypervisor {key}")
        with self.faults(f"{key} on {path}"):
            told = self._told(access)
            spoken = (told["ApiVersion"], self.docker.constants.DEFAULT_DOCKER_API_VERSION)
            self.api_version: str = min(spoken, key=_number)
            self.client: Any = self._open(self.api_version, access)
        self.version: str = told.get("Version", "")
        parts = {
            part.get("Name", ""): part.get("Version", "") for part in told.get("Components", [])
        }
        if ("Podman Engine" in parts) != (key == "podman"):
            self.client.close()
            raise CallerFault(f"{path} is not {key}'s socket", hint="use docker: or podman:")

    def _open(self, version: str, access: Access) -> Any:
        timeout_s = max(1, int(access.timeout_s))
        base = f"unix://{self.path}"
        return self.docker.DockerClient(base_url=base, version=version, timeout=timeout_s)

    def _told(self, access: Access) -> dict[str, Any]:
        """What it says of itself, whatever version of the API it speaks."""
        asked = self._open(self.docker.constants.MINIMUM_DOCKER_API_VERSION, access)
        try:
            return dict(asked.version(api_version=False))
        finally:
            asked.close()

    @contextmanager
    def faults(self, what: str, *, repeatable: bool = False) -> Iterator[None]:
        """Let the library's errors come out as faults.

        Args:
            what: Whom the call is about, for the message.
            repeatable: Whether an order that was carried out already is none.
        """
        # First, for the library leaves a socket open that nobody answers.
        _knock(self.path, self.key)
        errors = self.docker.errors
        try:
            yield
        except errors.NotFound as error:
            raise CallerFault(f"there is no {what}: {_words(error)}") from error
        except errors.APIError as error:
            words = _words(error)
            if repeatable and any(phrase in words for phrase in _ALREADY):
                return
            if "no space left" in words.lower():
                raise NodeFault(f"{what}: {words}", hint="free some disk space") from error
            if error.status_code in _BUSY_STATUS:
                raise TransientFault(f"{what}: {words}", retryable=True) from error
            if error.status_code is not None and error.status_code < 500:  # noqa: PLR2004
                raise CallerFault(f"{what}: {words}") from error
            raise NodeFault(f"{what}: {words}", hint=f"see the log of {self.key}") from error
        except (errors.DockerException, OSError) as error:  # requests' errors are OSErrors
            raise TransientFault(
                f"{self.key} does not answer on {self.path}: {_cause(error)}",
                hint=f"is it running? see the log of {self.key}",
                retryable=True,
            ) from error

    def ulimits(self) -> list[Any]:
        """Limits to ask for, where the engine may not raise those it would set by itself.

        Podman gives containers more open files and processes than a daemon without
        CAP_SYS_RESOURCE has itself, and then fails to. Docker sets none.
        """
        if self.key != "podman":
            return []
        pid = peer(self.path)
        if pid <= 0 or may_raise_limits(_proc(pid, "status")):
            return []
        types = self.docker.types
        found = hard_limits(_proc(pid, "limits"))
        files, processes = found.get("open files"), found.get("processes")
        asked = []
        if files is not None:
            asked.append(types.Ulimit(name="nofile", soft=min(_SOFT_FILES, files), hard=files))
        if processes is not None:
            asked.append(types.Ulimit(name="nproc", soft=processes, hard=processes))
        return asked


def _number(version: str) -> tuple[int, ...]:
    """1.9 comes before 1.41."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def peer(path: Path) -> int:
    """Pid of whoever listens on a unix socket, as this process sees it; 0 where unknown."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as link:
        link.connect(str(path))
        told = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", told)[0])
    return 0


def may_raise_limits(status: str) -> bool:
    """Whether a process has CAP_SYS_RESOURCE, by its /proc/PID/status; unknown counts as yes."""
    for line in status.splitlines():
        key, _, value = line.partition(":")
        if key == "CapEff":
            return bool(int(value, 16) >> _CAP_SYS_RESOURCE & 1)
    return True


def hard_limits(limits: str) -> dict[str, int]:
    """Hard limits by name (`open files`), from /proc/PID/limits; unlimited ones are left out."""
    found = {}
    for line in limits.splitlines():
        if line.startswith("Max "):
            name, hard = line[4:26].strip(), line[47:68].split()
            if hard and hard[0].isdigit():
                found[name] = int(hard[0])
    return found


def _knock(path: Path, key: str) -> None:
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(10)
            link.connect(str(path))
    except PermissionError as error:
        raise CallerFault(
            f"we may not use {path}", hint=f"run as root, or join the group of {key}'s socket"
        ) from error
    except OSError as error:
        gone = error.errno in {errno.ENOENT, errno.ECONNREFUSED}
        start = "systemctl start docker" if key == "docker" else "systemctl start podman.socket"
        raise TransientFault(
            f"no {key} listens on {path}" if gone else f"{path}: {error}",
            hint=start,
            retryable=True,
        ) from error


def _proc(pid: int, name: str) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_text()
    return ""


def _words(error: Any) -> str:
    said = error.explanation or str(error)
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)


def _cause(error: BaseException) -> str:
    """The innermost cause, which says the most."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)
