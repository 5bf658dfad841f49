# SPDX-License-Identifier: Apache-2.0
"""The node image's tree as a tar file, for containers: the same packages without the kernel.

Built once into the cache, as the disk image is, and from the same downloaded packages.
"""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from ci import proc
from nodes.images import tree
from nodes.images.build import Progress, default_cache, locked, require_tools
from nodes.images.packages import PackageSource
from nodes.images.recipe import Recipe, standard

_KERNEL = "linux-image-cloud-amd64"


def container_recipe() -> Recipe:
    """The recipe of our container image."""
    recipe = standard()
    packages = tuple(name for name in recipe.packages if name != _KERNEL)
    return replace(recipe, packages=packages, modules=())


def root_archive(cache: Path | None = None, progress: Progress | None = None) -> Path:
    """Find the tar file or build it; any number of callers and processes may ask at once.

    Args:
        cache: Cache folder; the user's own by default.
        progress: Told one short sentence before each stage of a build.

    Raises:
        ConfigError: A tool is missing or packages cannot be fetched.
    """
    cache = cache or default_cache()
    recipe = container_recipe()
    path = cache / "roots" / f"{recipe.fingerprint}.tar"
    if path.is_file():
        return path
    require_tools()
    with locked(path.parent / ".lock"):
        for leftover in path.parent.glob(".building-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if not path.is_file():
            work = Path(tempfile.mkdtemp(prefix=".building-", dir=path.parent))
            try:
                _build(work, cache / "packages", recipe, progress or _silence)
                (work / "root.tar").rename(path)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return path


def _build(work: Path, store: Path, recipe: Recipe, say: Progress) -> None:
    say("fetching Debian packages for a container")
    with locked(store / ".lock"):
        packages = PackageSource(store).fetch(recipe.packages)
    say(f"unpacking {len(packages)} packages")
    root = work / "root"
    tree.unpack(packages, root)
    tree.finish(root, recipe, {"image": recipe.fingerprint})
    say("writing the archive")
    owner = ["--owner=0", "--group=0", "--numeric-owner", "--sort=name"]
    proc.run(["tar", *owner, "-C", str(root), "-cf", str(work / "root.tar"), "."], timeout_s=300)


def _silence(_sentence: str) -> None:
    """Say nothing."""
