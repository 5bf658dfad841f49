# SPDX-License-Identifier: Apache-2.0
"""Sessions of `requests` for libraries that use it: our certificates' check, nobody's proxies."""

import ssl
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter


class Adapter(HTTPAdapter):
    """Connections by one context, which alone decides what certificate is taken."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        if context.verify_mode is ssl.CERT_NONE:
            # A pinned context checks by itself; urllib3 does not know it and would warn.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        super().__init__()

    def init_poolmanager(self, *args: Any, **named: Any) -> None:
        """Give the context to every connection."""
        named["ssl_context"] = self._context
        if not self._context.check_hostname:
            # urllib3 would else look at the name itself, which a pinned certificate need not hold.
            named["assert_hostname"] = False
        super().init_poolmanager(*args, **named)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:
        """Say to urllib3 what the context says; it would write its own wish into it."""
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        pool.pop("ca_certs", None)
        pool.pop("ca_cert_dir", None)
        pool["cert_reqs"] = self._context.verify_mode
        return host, pool

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The same, where a pool is there already."""
        del url, verify, cert
        conn.cert_reqs = self._context.verify_mode
        conn.ca_certs = conn.ca_cert_dir = None


def secure(session: requests.Session, context: ssl.SSLContext) -> requests.Session:
    """Let a session connect by a context, and ask the environment for nothing."""
    session.trust_env = False
    session.mount("https://", Adapter(context))
    return session
