# SPDX-License-Identifier: Apache-2.0
"""The part of a preflight that logs in to a hypervisor with an API of its own, from here.

It answers, takes our login, shows the certificate that was expected, and tells its versions.

A login that was refused rests, see `nodes.api_login`.
"""

import tempfile
from pathlib import Path

from ci.errors import ConfigError, NodeUnavailable
from ci.model.node import Endpoint
from nodes import api_login, reach


def probe(endpoint: Endpoint) -> dict[str, str]:
    """Log in to a node's hypervisor, and out again.

    Returns:
        Versions by name, as its adapter gives them; empty where it has no API of its own, or
        nobody gave us its password.

    Raises:
        NodeUnavailable: It does not answer, refuses us, or nobody here could ask it.
    """
    if not reach.has_api(endpoint):
        return {}
    with tempfile.TemporaryDirectory(prefix="hypervouch-probe-") as folder:
        access = reach.access_of(endpoint, Path(folder))
        try:
            hypervisor = api_login.log_in(endpoint.hypervisor, access)
            try:
                return dict(hypervisor.system().versions)
            finally:
                hypervisor.close()
        except ConfigError as error:
            raise NodeUnavailable(
                f"nobody can ask {reach.place_of(endpoint)}: {error.message}",
                hint=error.hint or "correct `hypervisor`, or leave `hypervisor-password` out",
            ) from error
