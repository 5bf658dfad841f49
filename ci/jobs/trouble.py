# SPDX-License-Identifier: Apache-2.0
"""How a suite on the controller says that it could not test: the node's fault, or the harness's.

A suite that drives a hypervisor itself finds out, in the middle of a test, that the daemon is
dead or the disk full. Its JUnit can only say that tests failed. So it writes one small file
beside its results and ends; whatever the tests said then counts for nothing:

| error                                   | exit status | the attempt ends with          |
|-----------------------------------------|-------------|--------------------------------|
| NodeUnavailable: TransientFault, NodeFault | 69       | NODE_FAILURE, tried elsewhere  |
| any other                               | 78          | ERROR: nothing was tested      |

The file lies on the controller, where no code of a patch ever runs: only our own suites and
the operator's can claim that a node is at fault.
"""

import json
from pathlib import Path

from ci.errors import HarnessBroken, HypervouchError, NodeUnavailable, StorageError

FILE = "trouble.json"
NODE_STATUS = 69  # EX_UNAVAILABLE of sysexits.h
HARNESS_STATUS = 78  # EX_CONFIG
_LIMIT_BYTES = 64 * 1024
_TEXT_LIMIT = 2000


def status_of(error: HypervouchError) -> int:
    """The exit status of a suite that an error kept from testing."""
    return NODE_STATUS if isinstance(error, NodeUnavailable) else HARNESS_STATUS


def tell(path: Path, error: HypervouchError) -> int:
    """Write down what kept a suite from testing; the first word stands.

    Args:
        path: `Plan.trouble`.
        error: What happened.

    Returns:
        The exit status to end with.

    Raises:
        StorageError: The disk refused.
    """
    said = {
        "fault": "node" if isinstance(error, NodeUnavailable) else "harness",
        "message": error.message[:_TEXT_LIMIT],
        "hint": error.hint[:_TEXT_LIMIT],
    }
    draft = path.with_name(f".{path.name}.new")
    try:
        if not path.exists():
            draft.write_text(json.dumps(said), encoding="utf-8")
            draft.replace(path)
    except OSError as wrong:
        raise StorageError(
            f"{path} cannot be written: {wrong.strerror or wrong}",
            hint="free the disk that holds the state directory",
        ) from wrong
    return status_of(error)


def told(path: Path | None) -> NodeUnavailable | HarnessBroken | None:
    """What a suite wrote down; None where it wrote nothing."""
    if path is None or not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(_LIMIT_BYTES))
        fault, message, hint = (str(said[key]) for key in ("fault", "message", "hint"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return HarnessBroken(
            f"{path.name} cannot be read: {error}", hint="the suite wrote it; see the log"
        )
    if fault == "node":
        return NodeUnavailable(message, hint=hint)
    return HarnessBroken(message, hint=hint)
