# SPDX-License-Identifier: Apache-2.0
"""What providers share: numbered slots, and machines of one's own that stay."""

import socket
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from ci.errors import ConfigError, NodeUnavailable
from nodes.providers import api_login
from nodes.providers.api_login import ApiLogin

CONNECT_S = 10.0


class SlotOptions(Protocol):
    """What the options of every provider have."""

    @property
    def name(self) -> str:
        """Name of the provider."""
        ...

    @property
    def slots(self) -> int:
        """How many nodes it offers."""
        ...


Options = TypeVar("Options", bound=SlotOptions)


class Slots(Generic[Options]):
    """A provider whose nodes are NAME-1 to NAME-N."""

    _options: Options

    @property
    def name(self) -> str:
        """The name the configuration gives it."""
        return self._options.name

    def node_names(self) -> tuple[str, ...]:
        """NAME-1 to NAME-N."""
        return tuple(f"{self.name}-{number + 1}" for number in range(self._options.slots))


class OwnOptions(ApiLogin):
    """What the configuration may say of any machine that stays."""

    name: str
    slots: int


Own = TypeVar("Own", bound=OwnOptions)


class Staying(Slots[Own]):
    """A provider that makes nothing: it says where a machine of one's own is."""

    def __init__(self, options: Own, state_dir: Path) -> None:
        """Nothing is contacted or created.

        Args:
            options: From the configuration.
            state_dir: For the password of an API, while a node is used.
        """
        self._options = options
        self._state = state_dir

    @property
    def machine_bound(self) -> bool:
        """Any process that may log in reaches it."""
        return False

    @property
    def disposable(self) -> bool:
        """The machine stays."""
        return False

    def stop(self, node: str) -> None:
        """The machine stays; what logs in to its hypervisor goes."""
        api_login.forget(node, self._state)

    def leaked(self, held: frozenset[str]) -> tuple[str, ...]:  # noqa: ARG002
        """Nothing: it makes nothing."""
        return ()

    def _directory(self, node: str, workdir: str) -> str:
        """The work directory of a slot: one of its own where there are several."""
        return workdir if self._options.slots == 1 else f"{workdir}/{node}"


def await_port(node: str, host: str, port: int, *, hint: str) -> None:
    """Go on once a machine's port has answered.

    Raises:
        NodeUnavailable: Nothing listens there.
    """
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as error:
        raise NodeUnavailable(
            f"node {node}: {host}:{port} does not answer: {error}", hint=hint, retryable=True
        ) from error


def check_ssh_files(name: str, where: str, key_file: Path, known_hosts: Path) -> None:
    """Look at the files that a login over SSH needs.

    Args:
        name: Of the provider.
        where: What ssh-keyscan is told to find the machine.
        key_file: The private key.
        known_hosts: The pinned host key.

    Raises:
        ConfigError: One of them is not there.
    """
    for key, path in (("key-file", key_file), ("known-hosts", known_hosts)):
        if not path.is_file():
            pin = f"create it: ssh-keyscan {where} > {path}"
            raise ConfigError(
                f"provider {name}: {key} {path} is not there",
                hint=pin if key == "known-hosts" else "create the key",
            )
