# SPDX-License-Identifier: Apache-2.0
"""A lock on a file, for what only one process of a directory may do."""

import fcntl
from pathlib import Path
from typing import IO

from ci.errors import ConfigError


def exclusive(path: Path) -> IO[str]:
    """Lock a file for as long as it stays open.

    Raises:
        ConfigError: Another process holds it.
    """
    handle = path.open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as busy:
        handle.close()
        raise ConfigError(
            f"another hypervouch already runs on {path.parent}",
            hint="stop it first, or give this one a state-dir of its own",
        ) from busy
    return handle
