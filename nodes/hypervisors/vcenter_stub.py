# SPDX-License-Identifier: Apache-2.0
"""pyvmomi's way to a server, which takes no answer but a vCenter's.

Left alone it reads a page of a proxy that happens to be XML as an empty answer (an inventory of
nothing), and stumbles over others with errors that say nothing.
"""

import http.client
import ssl
from typing import Any

from pyVmomi import vmodl
from pyVmomi.SoapAdapter import SoapStubAdapter
from pyVmomi.VmomiSupport import F_OPTIONAL

from nodes.hypervisors.vcenter_errors import ON_THE_WAY, NoSoap

_READ = (http.HTTPStatus.OK, http.HTTPStatus.INTERNAL_SERVER_ERROR)  # by pyvmomi


class _Answer(http.client.HTTPResponse):
    """One answer, looked at before it is read."""

    def begin(self) -> None:
        """Read status and headers.

        Raises:
            NoSoap: It answers a call with something else.
            HTTPException: It is an error of HTTP alone.
        """
        super().begin()
        kind = self.headers.get_content_type()
        if getattr(self, "_method", "") != "POST" or self.status not in _READ or kind == "text/xml":
            return
        if self.status != http.HTTPStatus.OK:
            raise http.client.HTTPException(f"{self.status} {self.reason}")
        raise NoSoap(f"it is {kind}")


def stub(host: str, port: int, version: str, context: ssl.SSLContext, timeout_s: float) -> Any:
    """What pyvmomi calls a server by; nothing is sent yet.

    Args:
        host: Name or address.
        port: TCP port.
        version: pyvmomi's name of it.
        context: What connections are made with.
        timeout_s: Seconds that a connection may be silent.
    """
    return _Stub(  # type: ignore[no-untyped-call]
        host=host,
        port=port,
        version=version,
        sslContext=context,
        httpConnectionTimeout=timeout_s,
    )


class _Stub(SoapStubAdapter):
    """One server; see pyvmomi."""

    def GetConnection(self) -> Any:  # noqa: N802 - the base's name
        """One from the pool, or another."""
        made: Any = super().GetConnection()  # type: ignore[no-untyped-call]
        made.response_class = _Answer
        return made

    def InvokeMethod(  # noqa: N802 - the base's name
        self,
        mo: Any,
        info: Any,
        args: Any,
        outerStub: Any = None,  # noqa: N803 - as above
    ) -> Any:
        """Make one call.

        Raises:
            MethodFault: The server refuses it.
            NoSoap: The answer is none, or not to this call.
        """
        try:
            got = super().InvokeMethod(mo, info, args, outerStub)  # type: ignore[no-untyped-call]
        except (vmodl.MethodFault, *ON_THE_WAY):
            raise
        except Exception as error:
            raise NoSoap(f"{type(error).__name__}: {error}") from error
        if got is None and info.result is not type(None) and not info.resultFlags & F_OPTIONAL:
            raise NoSoap(f"it tells no result of {info.wsdlName}")
        return got
