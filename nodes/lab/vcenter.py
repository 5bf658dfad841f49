# SPDX-License-Identifier: Apache-2.0
"""A vCenter of the lab: govmomi's simulator, built once by Go and kept in the cache.

Its version is pinned in `nodes/stand_ins/vcsim/go.mod`: later ones give answers that pyvmomi
cannot read. No guest runs behind it, unless it is started with `-guests=FOLDER`: then each
machine that is powered on is a QEMU on this machine, with its own disks, cards and serial lines.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ci import proc
from ci.errors import ConfigError, NodeUnavailable
from nodes.images.build import Progress, default_cache
from nodes.lab.apis import USER, ApiHost, Program

SOURCES = Path(__file__).parents[1] / "stand_ins" / "vcsim"
BUILD_S = 900.0
PASSWORD_AS = "VCSIM_PASSWORD"  # noqa: S105 - a variable's name

GAPS: Mapping[str, str] = {
    "revert": "a snapshot that is reverted to restores neither disks nor memory nor processors",
    "evacuation": "a host that enters maintenance keeps its machines, and does not wait for them",
    "path": "a machine that moved to another datastore keeps its old vmPathName",
    "drs": "nothing is moved by itself, and a cluster gives no recommendation when asked anew",
    "screens": "a ticket for a console leads nowhere",
}
"""What the simulator fakes: nothing that it says of these proves anything of a vCenter."""
GUEST_GAPS: Mapping[str, str] = {
    "suspended": "a suspended guest stands still in its process: its memory is not on disk",
    "devices": "disks and cards are virtio where ESXi has PVSCSI and vmxnet3",
    "networks": "each card is alone behind QEMU's user network: guests do not reach each other",
    "vmotion": "a guest that moves stays where it is: only the host that is told changes",
}
"""What `-guests` does otherwise than ESXi, by our own choice."""


def missing_tools() -> tuple[str, ...]:
    """Debian packages that it needs and this machine has not."""
    return () if shutil.which("go") else ("golang-go",)


def binary(progress: Progress, cache: Path | None = None) -> Path:
    """The simulator, built unless it is in the cache.

    Raises:
        ConfigError: There is no Go.
        NodeUnavailable: It cannot be built.
    """
    sources = sorted(path for path in SOURCES.iterdir() if path.suffix in {".go", ".mod", ".sum"})
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    home = cache or default_cache()
    made = home / "vcsim" / digest
    if made.exists():
        return made
    if missing_tools():
        raise ConfigError("Go is not installed", hint="apt-get install golang-go")
    progress("building the vCenter simulator: one to three minutes, once")
    made.parent.mkdir(parents=True, exist_ok=True)
    partial = made.with_name(f"{digest}.{os.getpid()}")
    argv = ["go", "build", "-trimpath", "-mod=readonly", "-o", str(partial), "."]
    try:
        proc.run(argv, cwd=SOURCES, timeout_s=BUILD_S)
        partial.replace(made)
    except proc.CommandFailed as error:
        raise NodeUnavailable(
            f"the vCenter simulator cannot be built: {error.message}",
            hint="it takes Go 1.23 and its module proxy",
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return made


def program(simulator: Path, host: ApiHost, more: Sequence[str] = ()) -> Program:
    """Its command line.

    Args:
        simulator: As `binary` gives it.
        host: Where it runs.
        more: Further options, for instance `-machines=2000`.
    """
    # It makes some 2,000 machines in minutes.
    own = [f"-user={USER}", f"-certificate={host.ca_file}", f"-key={host.key_file}"]
    return Program(argv=[str(simulator), *own, *more], password_as=PASSWORD_AS, start_s=BUILD_S)


def url(said: object) -> str:
    """Where it is, in our words."""
    place = str(said).removeprefix("https://").partition("/")[0]
    return f"vcenter://{USER}@{place}/DC0/DC0_C0"
