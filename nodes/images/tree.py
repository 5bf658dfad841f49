# SPDX-License-Identifier: Apache-2.0
"""The node's root file system as a folder: packages unpacked, trimmed and given our files.

No maintainer script runs, so the little they would have done is done here.
"""

import gzip
import lzma
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from ci import proc
from ci.errors import ConfigError
from nodes.images.recipe import Recipe

_MERGED = ("bin", "sbin", "lib", "lib64")
_MOUNT_POINTS = ("dev", "proc", "root", "run", "sys", "tmp")
_ACCOUNTS = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\n"
        "sshd:x:100:65534::/run/sshd:/bin/false\n"
        "nobody:x:65534:65534::/tmp:/bin/false\n"
    ),
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/shells": "/bin/sh\n/bin/bash\n",
    "etc/hosts": "127.0.0.1 localhost hypervouch-node\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
}
_READERS: dict[str, Callable[[bytes], bytes]] = {
    ".ko": bytes,
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
}


def unpack(packages: Iterable[Path], root: Path) -> None:
    """Extract packages over each other and merge /bin, /sbin and /lib into /usr.

    Raises:
        ConfigError: A package cannot be read.
    """
    root.mkdir(parents=True)
    for package in packages:
        try:
            proc.run(["dpkg-deb", "-x", str(package), str(root)], timeout_s=300)
        except proc.CommandFailed as error:
            raise ConfigError(
                f"cannot unpack {package.name}: {error.message}", hint=f"remove {package}"
            ) from error
        # Some packages bring /bin as a folder; merged after each, none meets the other's link.
        for name in _MERGED:
            _merge(root, name)


def kernel_module(root: Path, name: str) -> bytes | None:
    """A kernel module's content, uncompressed; None where the tree has none of that name."""
    for spelling in (name, name.replace("_", "-")):
        for path in (root / "usr/lib/modules").rglob(f"{spelling}.ko*"):
            reader = _READERS.get(path.suffix)
            if reader is not None:
                return reader(path.read_bytes())
    return None


def kernel(root: Path) -> Path:
    """The one kernel image of the tree.

    Raises:
        ConfigError: There is none, or more than one.
    """
    images = sorted((root / "boot").glob("vmlinuz-*"))
    if len(images) != 1:
        raise ConfigError(
            f"the packages hold {len(images)} kernels, one was expected",
            hint="empty the package folder of the cache and build again",
        )
    return images[0]


def finish(root: Path, recipe: Recipe, description: dict[str, str]) -> None:
    """Trim the tree and add accounts, applets, our programs and compiled Python modules.

    Args:
        root: The unpacked tree; changed in place.
        recipe: What to drop and what to add.
        description: Written as NAME=VALUE lines to /etc/hypervouch-node.
    """
    for pattern in recipe.dropped:
        for path in root.glob(pattern):
            _remove(path)
    for name in _MOUNT_POINTS:
        (root / name).mkdir(exist_ok=True)
    for name, text in _ACCOUNTS.items():
        (root / name).write_text(text)
    lines = "".join(f"{key}={value}\n" for key, value in description.items())
    (root / "etc/hypervouch-node").write_text(lines)
    for name in ("node-init", "node-reseed"):
        target = root / "usr/sbin" / name
        target.write_bytes(recipe.guest_files[name])
        target.chmod(0o755)
    (root / "etc/ssh/sshd_config").write_bytes(recipe.guest_files["sshd_config"])
    _link_interpreters(root)
    _compile(root)


def _merge(root: Path, name: str) -> None:
    """Move what a package put into /NAME to /usr/NAME, and leave a link."""
    source, target = root / name, root / "usr" / name
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(source)
    if target.is_dir() and not source.is_symlink():
        source.symlink_to(f"usr/{name}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _link_interpreters(root: Path) -> None:
    """Give `sh`, `python3` and each busybox applet that no package brought a name."""
    folder = root / "usr/bin"
    if not (folder / "python3").exists():
        newest = max(folder.glob("python3.[0-9]*"), key=lambda path: len(path.name))
        (folder / "python3").symlink_to(newest.name)
    applets = proc.run([str(folder / "busybox"), "--list"]).text.split()
    for applet in ("sh", *applets):
        taken = any(os.path.lexists(root / f"usr/{part}/{applet}") for part in ("bin", "sbin"))
        if not taken:
            (folder / applet).symlink_to("busybox")


def _compile(root: Path) -> None:
    """Compile the Python library with the tree's own interpreter: pytest starts 4 times faster."""
    loader = next((root / "usr/lib64").glob("ld-linux-*"))
    libraries = root / "usr/lib/x86_64-linux-gnu"
    python = (root / "usr/bin/python3").resolve()
    sources = [*(root / "usr/lib").glob("python3*")]
    proc.run(
        [str(loader), "--library-path", str(libraries), str(python), "-I", "-m", "compileall"]
        + ["-q", "-s", str(root), "-p", "/", "--invalidation-mode", "unchecked-hash"]
        + [str(path) for path in sources],
        timeout_s=300,
        env={"PYTHONHOME": str(root / "usr")},
        check=False,
    )
