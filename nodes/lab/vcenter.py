# SPDX-License-Identifier: Apache-2.0
"""A vCenter of the lab: govmomi's simulator, built once by Go and kept in the cache.

Its version is pinned in `nodes/stand_ins/vcsim/go.mod`: later ones give answers that pyvmomi
cannot read. Where Go is missing or too old, as Debian 12's is, one from the Python package index is
put into the cache, pinned by its digest.

No guest runs behind it, unless it is started with `-guests=FOLDER`: then each machine that is
powered on is a QEMU on this machine, with its own disks, cards and serial lines.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ci import proc
from ci.errors import NodeUnavailable
from nodes.images.build import Progress, default_cache
from nodes.lab import venvs
from nodes.lab.apis import USER, ApiHost, Program

SOURCES = Path(__file__).parents[1] / "stand_ins" / "vcsim"
BUILD_S = 900.0
KEPT = 2
"""Builds that stay in the cache."""
GO = (1, 23)
"""What `go.mod` asks for at least."""
_ALONE = {"GOTOOLCHAIN": "local", "GOFLAGS": ""}
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
    "snapshots": "a snapshot is a copy of the disks: neither memory nor devices come back with it",
    "devices": "the first disk is virtio, and the CD on SCSI where ESXi has IDE",
    "networks": "each card is alone behind QEMU's user network: guests do not reach each other",
    "shutdown": "a shutdown is the power button, where ESXi asks VMware Tools",
    "vmotion": "a guest that moves stays where it is: only the host that is told changes",
}
"""What `-guests` does otherwise than ESXi, by our own choice."""


def compiler(progress: Progress, cache: Path | None = None) -> Path:
    """Go: this machine's, or one that is put into the cache.

    Raises:
        NodeUnavailable: There is none that is new enough, and none is to be had.
    """
    found = shutil.which("go")
    if found and is_new_enough(_version(found)):
        return Path(found)
    return venvs.environment("go", progress, cache) / "go"


def _version(go: str) -> str:
    # Told of no module, it does not look for the version that one asks for.
    told = proc.run([go, "env", "GOVERSION"], env=_ALONE, cwd=Path("/"), check=False)
    return told.text.strip()


def is_new_enough(told: str) -> bool:
    """Whether Go of a version, as `go env GOVERSION` tells it, can build the simulator."""
    number = re.match(r"go(\d+)\.(\d+)", told)
    return number is not None and (int(number[1]), int(number[2])) >= GO


def binary(progress: Progress, cache: Path | None = None) -> Path:
    """The simulator, built unless it is in the cache.

    Raises:
        NodeUnavailable: It cannot be built.
    """
    sources = sorted(path for path in SOURCES.iterdir() if path.suffix in {".go", ".mod", ".sum"})
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    home = cache or default_cache()
    made = home / "vcsim" / digest
    if made.exists():
        os.utime(made)  # its last use
        return made
    go = compiler(progress, cache)
    progress("building the vCenter simulator: one to three minutes, once")
    made.parent.mkdir(parents=True, exist_ok=True)
    partial = made.with_name(f"{digest}.{os.getpid()}")
    options = ["-trimpath", "-buildvcs=false", "-mod=readonly", "-o", str(partial)]
    try:
        proc.run([str(go), "build", *options, "."], cwd=SOURCES, env=_ALONE, timeout_s=BUILD_S)
        partial.replace(made)
        _keep_last(made.parent)
    except proc.CommandFailed as error:
        raise NodeUnavailable(
            f"the vCenter simulator cannot be built: {error.message}",
            hint="it takes Go's module proxy, the first time",
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return made


def _keep_last(folder: Path) -> None:
    """Delete builds but the two that were used last: of other sources, 34 MB each."""
    builds = [one for one in folder.iterdir() if re.fullmatch(r"[0-9a-f]{16}", one.name)]
    for old in sorted(builds, key=lambda one: one.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)


def program(simulator: Path, host: ApiHost, more: Sequence[str] = ()) -> Program:
    """Its command line.

    Args:
        simulator: As `binary` gives it.
        host: Where it runs.
        more: Further options, for instance `-machines=2000`.
    """
    # It makes some 2,000 machines in minutes.
    own = [f"-user={USER}", f"-certificate={host.ca_file}", f"-key={host.key_file}"]
    return Program(
        argv=[str(simulator), *own, *more],
        env={"TMPDIR": str(host.scratch)},  # killed, it leaves its folders of /tmp behind
        password_as=PASSWORD_AS,
        start_s=BUILD_S,
    )


def url(said: object) -> str:
    """Where it is, in our words."""
    place = str(said).removeprefix("https://").partition("/")[0]
    return f"vcenter://{USER}@{place}/DC0/DC0_C0"
