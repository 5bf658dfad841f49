# SPDX-License-Identifier: Apache-2.0
"""Which version of its API a vCenter is spoken to in: the newest that both sides know.

pyvmomi's own look at a server has no time limit, and takes whatever answer it does not like for a
server that is none.
"""

import re
import ssl
from http import HTTPStatus
from http.client import HTTPSConnection

from pyVmomi.VmomiSupport import GetServiceVersions, versionIdMap

from nodes.hypervisors.faults import NodeFault, TransientFault
from nodes.hypervisors.vcenter_errors import translated

PATH = "/sdk/vimServiceVersions.xml"
_LIMIT = 1 << 20
_VERSION = re.compile(rb"<version>\s*([\w.]+)\s*</version>")


def find(host: str, port: int, context: ssl.SSLContext, timeout_s: float) -> str:
    """Ask a server, and give pyvmomi's name of the version.

    Raises:
        TransientFault: It does not answer, or not now.
        NodeFault: It refuses us, showed another certificate, or is no vCenter.
    """
    doing = f"connect to {host}:{port}"
    with translated(doing):
        connection = HTTPSConnection(host, port, timeout=timeout_s, context=context)
        try:
            connection.request("GET", PATH)
            answer = connection.getresponse()
            content = answer.read(_LIMIT)
        finally:
            connection.close()
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise TransientFault(
            f"cannot {doing}: HTTP {answer.status} {answer.reason}",
            hint="look whether vCenter's services run",
            retryable=True,
        )
    if answer.status != HTTPStatus.OK:
        raise NodeFault(
            f"cannot {doing}: HTTP {answer.status} {answer.reason}", hint="is it a vCenter?"
        )
    return choose(content, doing)


def choose(content: bytes, doing: str) -> str:
    """The newest of a server's versions that pyvmomi knows, as it calls it.

    Args:
        content: The server's list.
        doing: What was tried, for the message.

    Raises:
        NodeFault: There is none, or the server is no vCenter.
    """
    told = {version.decode() for version in _VERSION.findall(content)}
    if not told:
        raise NodeFault(f"cannot {doing}: it tells no version", hint="is it a vCenter?")
    for version in GetServiceVersions("vim25"):
        if versionIdMap[version] in told:
            return str(version)
    raise NodeFault(
        f"cannot {doing}: this pyvmomi knows none of its versions {', '.join(sorted(told))}",
        hint="install another pyvmomi",
    )
