# SPDX-License-Identifier: Apache-2.0
"""Sessions of `requests` for libraries that use it: one host, our certificates' check, no proxies.

A password goes to the host of the URL alone, over TLS alone, wherever an answer leads to.
"""

import ssl
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from nodes.hypervisors.certificates import PinnedContext


class Adapter(HTTPAdapter):
    """Connections by one context, which alone decides what certificate is taken."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *args: Any, **named: Any) -> None:
        """The pool, with our context, whatever requests would make of `verify`."""
        if isinstance(self._context, PinnedContext):
            # Said twice, since urllib3 calls a context that looks at no signatures insecure.
            named["assert_fingerprint"] = self._context.digest
        super().init_poolmanager(*args, ssl_context=self._context, **named)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:
        """The host, without what would replace the context."""
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing: the context says it all."""


def secure(session: requests.Session, place: str, context: ssl.SSLContext) -> requests.Session:
    """Let a session reach one place only, by a context, and ask the environment for nothing.

    Args:
        session: Somebody's.
        place: `https://host:port`.
        context: For its certificate.
    """
    session.trust_env = False
    session.adapters.clear()
    session.mount(f"{place}/", Adapter(context))
    return session
