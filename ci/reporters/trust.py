# SPDX-License-Identifier: Apache-2.0
"""Whom a notifier trusts: authorities of certificates, and this very machine."""

import ipaddress
import ssl
from pathlib import Path

from ci.errors import ConfigError


def authorities(ca_file: Path | None) -> ssl.SSLContext:
    """A TLS context that trusts the authorities of a file, or the system's.

    Raises:
        ConfigError: The file cannot be read, or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"the file of authorities {ca_file} cannot be used: {error.strerror or error}",
            hint="ca-file must name a PEM file of certificates that this user may read",
        ) from error


def is_about_trust(error: BaseException) -> bool:
    """Whether a certificate was refused: waiting does not mend that."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this very machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
