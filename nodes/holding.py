# SPDX-License-Identifier: Apache-2.0
"""How a person logs in to a machine that is kept: one line, with the pinned host key. Pure."""

from shlex import join

from ci.model.node import Endpoint, Transport


def login(endpoint: Endpoint) -> str:
    """A command for a shell on the machine of the process that has the node; may be empty."""
    if endpoint.transport is Transport.LOCAL:
        return join(["cd", endpoint.workdir])
    if endpoint.transport not in {Transport.SSH, Transport.WINDOWS_SSH}:
        return ""
    known_hosts = "none" if endpoint.known_hosts is None else str(endpoint.known_hosts)
    options = [
        *("-p", str(endpoint.port)),
        *("-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes"),
        *("-o", f"UserKnownHostsFile={known_hosts}", "-o", "GlobalKnownHostsFile=none"),
    ]
    key = ["-i", str(endpoint.key_file)] if endpoint.key_file else []
    return join(["ssh", *key, *options, f"{endpoint.user}@{endpoint.host}"])
