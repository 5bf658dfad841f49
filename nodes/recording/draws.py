# SPDX-License-Identifier: Apache-2.0
"""Chance, ruled: identifiers that adapters draw are drawn alike in a recording and in its replay.

They name which launch has made a machine, and are compared with those of machines of one name
only; the names are drawn for each recording.
"""

import itertools
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from nodes.recording.clock import SPEAKERS


class Draws:
    """Stands for the module `uuid`, or for `uuid4` where that was imported by name."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def __getattr__(self, name: str) -> Any:
        """Whatever else `uuid` has."""
        return getattr(uuid, name)

    def uuid4(self) -> uuid.UUID:
        """The next."""
        return uuid.UUID(int=next(self._numbers), version=4)

    @contextmanager
    def ruling(self) -> Iterator[None]:
        """For all who speak to APIs and are imported by now, until the block ends."""
        with ExitStack() as rules:
            for name, module in tuple(sys.modules.items()):
                if not name.startswith(SPEAKERS):
                    continue
                for known, real, ours in (("uuid", uuid, self), ("uuid4", uuid.uuid4, self.uuid4)):
                    if vars(module).get(known) is real:
                        rules.enter_context(mock.patch.object(module, known, ours))
            yield
