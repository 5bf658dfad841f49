# SPDX-License-Identifier: Apache-2.0
"""Windows Remote Management: how a connection to it is made, for runners and for adapters.

pypsrp speaks the protocol. What it would leave open is closed here: the environment's proxies and
authorities count for nothing, the certificate is checked by `nodes.hypervisors.certificates`, and
no answer is awaited for ever.
"""

import ssl

from pypsrp.wsman import WSMan

from nodes.hypervisors import certificates, requests_tls
from nodes.hypervisors.base import Access

CONNECT_S = 15
AUTHS = ("basic", "negotiate", "ntlm", "kerberos")


def connect(
    host: str,
    port: int,
    user: str,
    access: Access,
    *,
    auth: str = "negotiate",
    operation_s: float = 20,
    read_s: float = 30,
) -> WSMan:
    """A connection over TLS; nothing is sent yet.

    Args:
        host: Name or address of the machine.
        port: Of its HTTPS listener, 5986 as a rule.
        user: Who logs in.
        access: The password, and how the certificate is checked.
        auth: One of AUTHS.
        operation_s: Seconds that the server may take for one operation before it says so.
        read_s: Seconds that we wait for any answer; more than `operation_s`.

    Raises:
        CallerFault: The digest is none, or the certificates cannot be read.
    """
    context = certificates.context(access)
    checked = context.verify_mode is not ssl.CERT_NONE
    made = WSMan(
        host,
        port=port,
        username=user,
        password=access.password,
        ssl=True,
        auth=auth,
        # False only quietens the library; a pinned context checks by itself.
        cert_validation=checked,
        connection_timeout=CONNECT_S,
        read_timeout=read_s,  # type: ignore[arg-type]
        operation_timeout=operation_s,  # type: ignore[arg-type]
        no_proxy=True,
    )
    session = made.transport._build_session()  # noqa: SLF001 - there is no other way in
    made.transport.session = requests_tls.secure(session, context)
    return made
