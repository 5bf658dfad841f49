# SPDX-License-Identifier: Apache-2.0
"""The base image as files in the cache: found, or built once under a lock.

An image is a folder named by its recipe's fingerprint. It is made beside its place and renamed
into it when complete, so a build that is killed leaves nothing that could be taken for one.
"""

import contextlib
import fcntl
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ci import proc
from ci.errors import ConfigError
from nodes.images import initramfs, tree
from nodes.images.packages import Package, PackageSource
from nodes.images.recipe import DISK_SIZE, Recipe, standard

Progress = Callable[[str], None]

# Program, and the Debian package that brings it.
_TOOLS = {
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "mke2fs": "e2fsprogs",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
}
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
# Package, and the name of the fact that tells its version.
_NOTED_PACKAGES = {
    "openssh-server": "openssh",
    "python3": "python3",
    "python3-pytest": "pytest",
    "qemu-system-x86": "qemu",
}
_MACHINE = "x86_64"


@dataclass(frozen=True, kw_only=True)
class Image:
    """A built base image; its files are never changed.

    Attributes:
        folder: Where it lies.
        fingerprint: Its recipe's fingerprint.
        facts: kernel, qemu, python3, pytest and openssh, each a version, and image.
    """

    folder: Path
    fingerprint: str
    facts: dict[str, str]

    @property
    def kernel(self) -> Path:
        """The Linux kernel, bootable by QEMU's `-kernel`."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The first stage."""
        return self.folder / "initrd"

    @property
    def disk(self) -> Path:
        """The root file system as qcow2; nodes put an overlay on it."""
        return self.folder / "disk.qcow2"


def default_cache() -> Path:
    """The cache folder of this user, by the XDG rules."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "hypervouch"


def missing_tools() -> tuple[str, ...]:
    """Debian packages this machine lacks to build or boot a node, sorted; empty when ready."""
    path = os.environ.get("PATH", os.defpath) + ":" + _SYSTEM_PATH
    return tuple(
        sorted(package for tool, package in _TOOLS.items() if not shutil.which(tool, path=path))
    )


def require_tools() -> None:
    """Check that a node can be built and booted here.

    Raises:
        ConfigError: Something is missing; the hint is the command that installs it.
    """
    if platform.machine() != _MACHINE:
        raise ConfigError(
            f"disposable nodes run on {_MACHINE} machines, this one is {platform.machine()}",
            hint="use a static node",
        )
    missing = missing_tools()
    if missing:
        raise ConfigError(
            f"disposable nodes need {', '.join(missing)}",
            hint=f"apt-get install --no-install-recommends {' '.join(missing)}",
        )


def image(
    cache: Path | None = None, *, recipe: Recipe | None = None, progress: Progress | None = None
) -> Image:
    """Find the base image or build it; any number of callers and processes may ask at once.

    Args:
        cache: Cache folder; the user's own by default.
        recipe: What it is made from; this version's by default.
        progress: Told one short sentence before each stage of a build.

    Raises:
        ConfigError: A tool is missing or packages cannot be fetched.
    """
    recipe = recipe or standard()
    say = progress or _silence
    cache = cache or default_cache()
    folder = cache / "images" / recipe.fingerprint
    found = _load(folder)
    if found:
        return found
    require_tools()
    with locked(cache / "images" / ".lock", lambda: say("waiting for another builder")):
        found = _load(folder)
        if found:
            return found
        with whole(folder, ".building-") as work:
            _build(work, cache / "packages", recipe, say)
    return _loaded(folder)


@contextlib.contextmanager
def whole(folder: Path, prefix: str) -> Iterator[Path]:
    """A folder beside another, which it becomes in one step once it is filled.

    Args:
        folder: What it becomes; it is not there yet.
        prefix: Of its name meanwhile; what an earlier build left under it is removed.
    """
    for leftover in folder.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        yield work
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a file lock that dies with its holder; says once when it has to wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait:
                on_wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(work: Path, store: Path, recipe: Recipe, say: Progress) -> None:
    """Fill `work` with a complete image."""
    say("fetching about 85 MB of Debian packages")
    with locked(store / ".lock"):
        packages = PackageSource(store).fetch(recipe.packages)
    say(f"unpacking {len(packages)} packages")
    root = work / "root"
    tree.unpack(packages, root)
    kernel = tree.kernel(root)
    facts = _facts(recipe, kernel, packages)
    modules = initramfs.load_order(recipe.modules, lambda name: tree.kernel_module(root, name))
    busybox = (root / "usr/bin/busybox").read_bytes()
    stage = initramfs.first_stage(recipe.guest_files["stage1"], busybox, modules)
    (work / "initrd").write_bytes(stage)
    shutil.copyfile(kernel, work / "vmlinuz")
    say("trimming the tree and compiling its Python library")
    tree.finish(root, recipe, facts)
    say("writing the disk image")
    _write_disk(root, work)
    shutil.rmtree(root)
    manifest = {"facts": facts, "packages": [path.name for path in packages]}
    (work / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _facts(recipe: Recipe, kernel: Path, packages: tuple[Path, ...]) -> dict[str, str]:
    facts = {"image": recipe.fingerprint, "kernel": kernel.name.removeprefix("vmlinuz-")}
    for path in packages:
        package = Package(file_name=path.name, size_bytes=0)
        if package.name in _NOTED_PACKAGES:
            facts[_NOTED_PACKAGES[package.name]] = package.version
    return facts


def _write_disk(root: Path, work: Path) -> None:
    """Write the tree to an ext4 file system inside a qcow2 file."""
    raw = work / "disk.raw"
    path = {"PATH": os.environ.get("PATH", os.defpath) + ":" + _SYSTEM_PATH}
    options = ["-O", "^has_journal,^metadata_csum", "-E", "lazy_itable_init=1,root_owner=0:0"]
    make = ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", *options, "-d", str(root)]
    proc.run([*make, str(raw), DISK_SIZE], timeout_s=300, env=path)
    convert = ["qemu-img", "convert", "-O", "qcow2", str(raw), str(work / "disk.qcow2")]
    proc.run(convert, timeout_s=300)
    raw.unlink()


def _load(folder: Path) -> Image | None:
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except FileNotFoundError:
        return None
    return Image(folder=folder, fingerprint=folder.name, facts=manifest["facts"])


def _loaded(folder: Path) -> Image:
    found = _load(folder)
    if found is None:
        raise ConfigError(
            f"the image in {folder} vanished while it was in use", hint="build it again"
        )
    return found


def _silence(_sentence: str) -> None:
    """Say nothing."""
