# SPDX-License-Identifier: Apache-2.0
"""The image of the nested nodes in the cache: found, or built once under a lock, without root.

As the disposable nodes' image: a folder named by its recipe's fingerprint, made beside its place
and renamed into it when complete.
"""

import gzip
import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ci import proc
from ci.errors import ConfigError
from nodes.images import initramfs, tree
from nodes.images.build import Image, Progress, default_cache, locked, require_tools, whole
from nodes.images.packages import Package, PackageSource
from nodes.lab import rootfs
from nodes.lab.recipe import DISK_SIZE, NestedRecipe, standard

_NOTED_PACKAGES = {
    "openssh-server": "openssh",
    "qemu-system-x86": "qemu",
    "xen-utils-common": "xen",
    "libvirt-daemon": "libvirt",
    "lxc": "lxc",
}
UNUSED_S = 30 * 24 * 3600.0
"""After this time an image of another recipe that no node was started from is removed."""

_MANIFEST = "manifest.json"
_SBIN = ":/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True, kw_only=True)
class NestedImage(Image):
    """A built image; its files are never changed.

    Attributes:
        facts: kernel, xen, libvirt, qemu, lxc and openssh, each a version, and image.
    """

    @property
    def xen(self) -> Path:
        """The Xen hypervisor, unpacked: QEMU's multiboot wants the bare ELF file."""
        return self.folder / "xen"


def find(cache: Path | None = None, recipe: NestedRecipe | None = None) -> NestedImage | None:
    """The image, if it was built."""
    recipe = recipe or standard()
    folder = (cache or default_cache()) / "images" / recipe.fingerprint
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
    except FileNotFoundError:
        return None
    with suppress(OSError):
        os.utime(folder / _MANIFEST)  # it is used
    return NestedImage(folder=folder, fingerprint=folder.name, facts=manifest["facts"])


def image(
    cache: Path | None = None,
    *,
    recipe: NestedRecipe | None = None,
    progress: Progress | None = None,
) -> NestedImage:
    """Find the image or build it; any number of callers and processes may ask at once.

    Args:
        cache: Cache folder; the user's own by default.
        recipe: What it is made from; this version's by default.
        progress: Told one short sentence before each stage of a build.

    Raises:
        ConfigError: A tool is missing, or packages cannot be fetched.
    """
    recipe = recipe or standard()
    cache = cache or default_cache()
    say = progress or (lambda _sentence: None)
    if found := find(cache, recipe):
        return found
    require_tools()
    images = cache / "images"
    with locked(images / ".nested.lock", lambda: say("waiting for another builder")):
        if found := find(cache, recipe):
            return found
        with whole(images / recipe.fingerprint, ".nesting-") as work:
            _build(work, cache / "packages", recipe, say)
        remove_unused(images, recipe.fingerprint, time.time())
    made = find(cache, recipe)
    if made is None:
        raise ConfigError("the image of the nested nodes vanished", hint="build it again")
    return made


def remove_unused(images: Path, current: str, now: float) -> tuple[Path, ...]:
    """Remove images of other recipes that have not been used for long; returns them.

    Args:
        images: Folder of all images.
        current: Fingerprint of the recipe that is in use.
        now: Seconds since the epoch.
    """
    removed = []
    for folder in sorted(images.glob("nested-*")):
        with suppress(OSError):
            unused_s = now - (folder / _MANIFEST).stat().st_mtime
            if folder.name != current and unused_s > UNUSED_S:
                gone = folder.rename(folder.with_name(f".nesting-{folder.name}"))
                shutil.rmtree(gone, ignore_errors=True)
                removed.append(folder)
    return tuple(removed)


def _build(work: Path, store: Path, recipe: NestedRecipe, say: Progress) -> None:
    say("fetching about 180 MB of Debian packages")
    with locked(store / ".lock"):
        packages = PackageSource(store).fetch(recipe.packages)
    say(f"unpacking {len(packages)} packages")
    root = work / "root"
    rootfs.unpack(packages, root, recipe.dropped)
    kernel = tree.kernel(root)
    shutil.copyfile(kernel, work / "vmlinuz")
    (work / "xen").write_bytes(gzip.decompress(_hypervisor(root).read_bytes()))
    say("packing the first stage and adding our programs")
    modules = initramfs.load_order(recipe.modules, lambda name: tree.kernel_module(root, name))
    busybox = (root / "usr/bin/busybox").read_bytes()
    stage = initramfs.first_stage(recipe.guest_files["stage1"], busybox, modules)
    (work / "initrd").write_bytes(stage)
    facts = _facts(recipe, kernel, packages)
    rootfs.finish(root, recipe, facts)
    say("writing the disk image")
    _write_disk(root, work)
    shutil.rmtree(root)
    manifest = {"facts": facts, "packages": [path.name for path in packages]}
    (work / _MANIFEST).write_text(json.dumps(manifest, indent=1))


def _hypervisor(root: Path) -> Path:
    found = [path for path in sorted((root / "boot").glob("xen-*.gz")) if not path.is_symlink()]
    if len(found) != 1:
        raise ConfigError(
            f"the packages hold {len(found)} Xen hypervisors, one was expected",
            hint="empty the package folder of the cache and build again",
        )
    return found[0]


def _facts(recipe: NestedRecipe, kernel: Path, packages: tuple[Path, ...]) -> dict[str, str]:
    facts = {"image": recipe.fingerprint, "kernel": kernel.name.removeprefix("vmlinuz-")}
    for path in packages:
        package = Package(file_name=path.name, size_bytes=0)
        if package.name in _NOTED_PACKAGES:
            facts[_NOTED_PACKAGES[package.name]] = package.version
    return facts


def _write_disk(root: Path, work: Path) -> None:
    """Write the tree to an ext4 file system inside a qcow2 file."""
    raw = work / "disk.raw"
    path = {"PATH": os.environ.get("PATH", os.defpath) + _SBIN}
    options = ["-O", "^has_journal,^metadata_csum", "-E", "lazy_itable_init=1,root_owner=0:0"]
    make = ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", *options, "-d", str(root)]
    proc.run([*make, str(raw), DISK_SIZE], timeout_s=600, env=path)
    convert = ["qemu-img", "convert", "-O", "qcow2", str(raw), str(work / "disk.qcow2")]
    proc.run(convert, timeout_s=600)
    raw.unlink()
