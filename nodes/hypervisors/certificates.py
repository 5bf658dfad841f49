# SPDX-License-Identifier: Apache-2.0
"""How the certificate of a hypervisor's API is checked: by who signed it, or by its own digest.

Clients' own pinning is not used: pyvmomi's, for one, compares a certificate only on the first
connection, and only where the usual check has failed.
"""

import hashlib
import hmac
import re
import socket
import ssl
from typing import Any

from nodes.hypervisors.base import Access
from nodes.hypervisors.faults import CallerFault

_DIGEST = re.compile(r"[0-9a-f]{64}")


class PinnedContext(ssl.SSLContext):
    """Takes the one certificate with a SHA-256 digest, whoever signed it, on each connection."""

    digest: str = ""

    def wrap_socket(self, sock: socket.socket, *args: Any, **named: Any) -> ssl.SSLSocket:
        """Shake hands, and look at what was shown before a byte is sent.

        Raises:
            ssl.SSLCertVerificationError: It is another certificate.
        """
        wrapped = super().wrap_socket(sock, *args, **named)
        shown = hashlib.sha256(wrapped.getpeercert(binary_form=True) or b"").hexdigest()
        if not hmac.compare_digest(shown, self.digest):
            wrapped.close()
            raise ssl.SSLCertVerificationError(f"it shows {shown}, {self.digest} is pinned")
        return wrapped


def context(access: Access) -> ssl.SSLContext:
    """What connections to an API are made with.

    Raises:
        CallerFault: The digest is none, or the certificates cannot be read.
    """
    if not access.certificate:
        try:
            return ssl.create_default_context(cafile=access.ca_file)
        except OSError as error:
            raise CallerFault(
                f"cannot read the certificates in {access.ca_file}: {error.strerror or error}"
            ) from error
    digest = access.certificate.replace(":", "").lower()
    if not _DIGEST.fullmatch(digest):
        raise CallerFault(
            f"{access.certificate!r} is no SHA-256 digest of a certificate",
            hint="openssl x509 -noout -fingerprint -sha256 prints it",
        )
    pinned = PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    pinned.check_hostname = False
    pinned.verify_mode = ssl.CERT_NONE
    pinned.digest = digest
    return pinned
