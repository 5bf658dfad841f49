# SPDX-License-Identifier: Apache-2.0
"""Which runner serves which transport; each is imported only when it is first asked for."""

from functools import cache
from importlib import import_module

from ci.errors import ConfigError
from ci.model.node import Transport
from ci.runners.base import Runner

RUNNERS = {
    Transport.SSH: "ci.runners.ssh:SshRunner",
    Transport.WINRM: "ci.runners.winrm:WinrmRunner",
    Transport.WINDOWS_SSH: "ci.runners.windows_ssh:WindowsSshRunner",
    Transport.LOCAL: "ci.runners.local:LocalRunner",
    Transport.DUMMY: "ci.runners.dummy:DummyRunner",
}


@cache
def runner_for(transport: Transport) -> Runner:
    """The runner of a transport, made once per process.

    Raises:
        ConfigError: No runner serves it, or a library is missing.
    """
    path = RUNNERS.get(transport)
    if path is None:
        raise ConfigError(
            f"no runner serves {transport}", hint=f"use one of {', '.join(sorted(RUNNERS))}"
        )
    module, _, name = path.partition(":")
    try:
        runner: Runner = getattr(import_module(module), name)()
    except ImportError as error:
        raise ConfigError(
            f"the transport {transport} needs a library that is not here: {error.name}",
            hint="pip install 'hypervouch[hyperv]'",
        ) from error
    return runner
