# SPDX-License-Identifier: Apache-2.0
"""A pinned SSH connection to Gerrit: known host key, one given key, and errors with their fix.

gerritlib's own connection accepts any host key with a warning, tries every key it can find,
and retries inside one call for ever; this one does none of that.
"""

import base64
import hashlib
import shlex
import socket
from pathlib import Path

import gerritlib.gerrit
import paramiko
from paramiko.pkey import UnknownKeyType

from ci.errors import ConfigError, ReviewServerError
from ci.layout import Connection
from ci.ssh_keys import complaint

CONNECT_TIMEOUT_S = 15.0
DEAD_AFTER_KEEPALIVES = 3
STANDARD_PORT = 22
UNREADABLE_KEY = (OSError, TypeError, ValueError, paramiko.SSHException, UnknownKeyType)


class AccessError(ReviewServerError, ConfigError):
    """The server is there but does not let us in as configured; an operator has to act."""


class PinnedConnection(gerritlib.gerrit.GerritConnection):  # type: ignore[misc]
    """One account's SSH access to one Gerrit.

    `connect` makes one attempt; the back-off loop is its caller's. Thread-safe as far as each
    call makes a client of its own.

    Args:
        settings: The connection.
    """

    def __init__(self, settings: Connection) -> None:
        super().__init__(
            username=settings.user,
            hostname=settings.server,
            port=settings.port,
            keyfile=str(settings.key_file),
            keep_alive=settings.keepalive_s,
            connection_attempts=1,
            retry_delay=0,
        )
        self.settings = settings

    def connect(self) -> paramiko.SSHClient:
        """Connect and log in.

        Returns:
            The client; the caller closes it.

        Raises:
            AccessError: Unknown or changed host key, key file unusable, account refused.
            ReviewServerError: The server is away; retryable.
        """
        key = _private_key(self.settings.key_file)
        client = paramiko.SSHClient()
        try:
            self._open(client, key)
        except (ReviewServerError, OSError, EOFError, paramiko.SSHException) as error:
            client.close()
            raise self._explained(error) from error
        return client

    def _open(self, client: paramiko.SSHClient, key: paramiko.PKey) -> None:
        settings = self.settings
        _load_pins(client, settings.known_hosts)
        client.set_missing_host_key_policy(_RejectUnknown(settings))
        client.connect(
            settings.server,
            port=settings.port,
            username=settings.user,
            pkey=key,
            allow_agent=False,
            look_for_keys=False,
            timeout=CONNECT_TIMEOUT_S,
            banner_timeout=CONNECT_TIMEOUT_S,
            auth_timeout=CONNECT_TIMEOUT_S,
            channel_timeout=CONNECT_TIMEOUT_S,
        )
        transport = client.get_transport()
        if transport is None:
            raise paramiko.SSHException("the connection ended at once")
        transport.set_keepalive(settings.keepalive_s)
        _notice_silence(transport, settings.keepalive_s)

    def _explained(self, error: Exception) -> ReviewServerError:
        settings = self.settings
        where = f"{settings.server}:{settings.port}"
        if isinstance(error, ReviewServerError):
            return error
        if isinstance(error, paramiko.BadHostKeyException):
            return _changed_host_key(settings, error)
        if isinstance(error, paramiko.AuthenticationException):
            return AccessError(
                f"Gerrit at {where} does not accept the key {settings.key_file} for the account"
                f" {settings.user}",
                hint=f"add the text of {settings.key_file}.pub to that account's SSH keys in"
                " Gerrit's settings, and check the account's user name",
            )
        if isinstance(error, socket.gaierror):
            return ReviewServerError(
                f"the name {settings.server} cannot be resolved: {error.strerror}",
                hint="check server, and this machine's DNS",
                retryable=True,
            )
        if isinstance(error, TimeoutError):
            return ReviewServerError(
                f"Gerrit at {where} did not answer within {CONNECT_TIMEOUT_S:g} s",
                hint="check server and port, and the firewalls between",
                retryable=True,
            )
        return ReviewServerError(
            f"Gerrit at {where} cannot be reached by SSH: {_words(error)}",
            hint="check that Gerrit runs and that port is that of its SSH daemon",
            retryable=True,
        )


class _RejectUnknown(paramiko.MissingHostKeyPolicy):
    """Refuses a host key that is not pinned, and says how to pin it."""

    def __init__(self, settings: Connection) -> None:
        self._settings = settings

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        """Refuse.

        Raises:
            AccessError: Always.
        """
        del client, hostname
        settings = self._settings
        raise AccessError(
            f"the host key of {settings.server}:{settings.port} is not pinned in"
            f" {settings.known_hosts}; the server showed {fingerprint(key)}",
            hint="compare that with what the server's administrator says, then run:"
            f" {keyscan_command(settings)}",
        )


def keyscan_command(settings: Connection) -> str:
    """The shell command that pins the server's host key."""
    host, file = shlex.quote(settings.server), shlex.quote(str(settings.known_hosts))
    return f"ssh-keyscan -p {settings.port} {host} >> {file}"


def fingerprint(key: paramiko.PKey) -> str:
    """A key's type and fingerprint as OpenSSH writes them."""
    digest = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
    return f"{key.get_name()} SHA256:{digest}"


def _changed_host_key(settings: Connection, error: paramiko.BadHostKeyException) -> AccessError:
    port = settings.port
    name = settings.server if port == STANDARD_PORT else f"[{settings.server}]:{port}"
    file = shlex.quote(str(settings.known_hosts))
    return AccessError(
        f"the host key of {settings.server}:{port} has changed: pinned in"
        f" {settings.known_hosts} is {fingerprint(error.expected_key)}, the server showed"
        f" {fingerprint(error.key)}",
        hint="somebody may be listening in; ask the server's administrator, and only if the"
        f" new key is theirs run: ssh-keygen -R {shlex.quote(name)} -f {file} &&"
        f" {keyscan_command(settings)}",
    )


def _private_key(file: Path) -> paramiko.PKey:
    wrong = complaint(file)
    if wrong is not None:
        raise AccessError(wrong, hint="the account's key must be usable without anybody typing")
    try:
        return paramiko.PKey.from_path(file)
    except (
        OSError,
        TypeError,
        ValueError,
        paramiko.SSHException,
        UnknownKeyType,
    ) as error:
        raise AccessError(
            f"{file} is not a private key that the SSH client can read: {_words(error)}",
            hint=f"make a new one: ssh-keygen -t ed25519 -N '' -f {shlex.quote(str(file))}",
        ) from error


def _load_pins(client: paramiko.SSHClient, file: Path) -> None:
    try:
        client.load_host_keys(str(file))
    except FileNotFoundError:
        return  # nothing is pinned yet: the policy says how
    except (OSError, UnicodeDecodeError, paramiko.SSHException) as error:
        raise AccessError(
            f"known_hosts file {file} cannot be read: {_words(error)}",
            hint="it must be a file of lines as ssh-keyscan prints them",
        ) from error


def _notice_silence(transport: paramiko.Transport, keepalive_s: int) -> None:
    """End the connection when nobody acknowledges our keepalives.

    paramiko sends them but never looks for a reply; the kernel by itself would go on sending
    for a quarter of an hour.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    connection = transport.sock
    if option is None or not isinstance(connection, socket.socket):
        return
    connection.setsockopt(socket.IPPROTO_TCP, option, DEAD_AFTER_KEEPALIVES * keepalive_s * 1000)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
