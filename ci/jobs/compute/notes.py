# SPDX-License-Identifier: Apache-2.0
"""Where a guest writes what shall outlive its boot: its own disk, or a container's own file."""

import shlex

from ci.jobs.compute.bench import Bench, Guest, not_tried

_LENGTH = 64
_FILE = "/root/notes"


class Notes:
    """A place for one short text on what is the guest's own.

    Leaves the test (`not tried`) where the guest has neither a disk nor a root of its own.
    """

    def __init__(self, bench: Bench, guest: Guest) -> None:
        self._guest = guest
        self._disk = ""
        if not bench.shared_kernel:
            disks = guest.disks()
            own = [name for name in sorted(disks) if disks[name]["sectors"] and name[:2] != "sr"]
            if not own:
                not_tried("the guest has no disk of its own")
            self._disk = own[0]

    def write(self, text: str) -> None:
        """Replace what stands there."""
        if self._disk:
            self._guest.write(self._disk, text.ljust(_LENGTH))
            return
        answer = self._guest.ask(f"exec echo {shlex.quote(text)} >{_FILE} && sync")
        if answer["rc"]:
            raise AssertionError(f"the guest cannot write {_FILE}: {answer['out']}")

    def read(self) -> str:
        """What stands there."""
        if self._disk:
            return self._guest.read(self._disk, _LENGTH).strip()
        return str(self._guest.ask(f"exec cat {_FILE}")["out"]).strip()
