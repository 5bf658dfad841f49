# SPDX-License-Identifier: Apache-2.0
"""A process that makes and ends nodes until it is killed: `DRIVER OPTIONS STATE` as arguments."""

import json
import sys
from pathlib import Path

from nodes.providers.base import KeepsSpares
from nodes.providers.table import driver


def main(name: str, options: str, state: str) -> None:
    """Start and stop the first node for ever; says `ready` when the first start is due."""
    chosen = driver(name)
    provider = chosen(chosen.Options.model_validate(json.loads(options)), Path(state))
    provider.prepare()
    node = provider.node_names()[0]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for number in range(1_000_000):
        if isinstance(provider, KeepsSpares):
            provider.keep_spares(1)
        provider.start(node, f"build-{number}")
        provider.stop(node)


if __name__ == "__main__":
    main(*sys.argv[1:])
