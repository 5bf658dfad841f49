# SPDX-License-Identifier: Apache-2.0
"""Python environments of the lab's own servers, which cannot be installed beside the product.

Each is made once from a lock file with a hash for each package, and is kept in the user's cache
under the lock's digest: another lock is another environment.
"""

import hashlib
import shutil
import sys
from pathlib import Path

from ci import proc
from ci.errors import NodeUnavailable
from nodes.images.build import Progress, default_cache, locked

MAKE_S = 1800.0
_READY = "ready"
_FIRST = "setuptools"
_PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-cache-dir")


def lock_file(name: str) -> Path:
    """The lock file of an environment."""
    return Path(__file__).with_name(f"requirements-{name}.lock")


def place(name: str, cache: Path | None = None) -> Path:
    """Where an environment is or will be."""
    told = lock_file(name).read_bytes() + repr((sys.version_info[:2], sys.base_prefix)).encode()
    digest = hashlib.sha256(told).hexdigest()[:16]
    return (cache or default_cache()) / "venvs" / f"{name}-{digest}"


def is_made(name: str, cache: Path | None = None) -> bool:
    """Whether an environment can be used."""
    return (place(name, cache) / _READY).exists()


def environment(name: str, progress: Progress, cache: Path | None = None) -> Path:
    """The folder of programs of an environment, made unless it is in the cache.

    Args:
        name: `ironic`, `redfish`, or `go` for its compiler.
        progress: Told one short sentence before it is made.
        cache: Cache folder; the user's own by default.

    Raises:
        NodeUnavailable: It cannot be made.
    """
    home = place(name, cache)
    with locked(home.parent / f".{name}.lock", lambda: progress("waiting for another builder")):
        if not is_made(name, cache):
            progress(f"installing {name} for the lab: a minute or two, once")
            shutil.rmtree(home, ignore_errors=True)
            try:
                _make(home, lock_file(name))
            except BaseException:
                shutil.rmtree(home, ignore_errors=True)
                raise
            (home / _READY).touch()
    return home / "bin"


def _make(home: Path, lock: Path) -> None:
    try:
        proc.run([sys.executable, "-m", "venv", str(home)], timeout_s=MAKE_S)
        # What has to be compiled is compiled by this one, not by whatever is the newest.
        first = home / "first.txt"
        first.write_text(block(lock.read_text(), _FIRST))
        for file in (first, lock):
            proc.run(
                [
                    str(home / "bin" / "python"),
                    *_PIP,
                    *("--require-hashes", "--no-deps", "--no-build-isolation", "-r", str(file)),
                ],
                timeout_s=MAKE_S,
                env={"PIP_NO_INPUT": "1"},
            )
    except proc.CommandFailed as error:
        raise NodeUnavailable(
            f"the packages of {lock.name} cannot be installed: {error.message}",
            hint="it takes python3-venv, a Python package index, and for redfish a C compiler "
            "with libvirt-dev",
        ) from error


def block(lock: str, package: str) -> str:
    """The lines of one package of a lock file."""
    taken: list[str] = []
    for line in lock.splitlines():
        if taken and not taken[-1].endswith("\\"):
            break
        if taken or line.startswith(f"{package}=="):
            taken.append(line)
    return "\n".join(taken) + "\n"
