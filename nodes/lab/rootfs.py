# SPDX-License-Identifier: Apache-2.0
"""The nested nodes' root file system as a folder: packages unpacked, and what scripts would do.

No maintainer script runs, so no root is needed; the little they would have done is done here.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from ci import proc
from ci.errors import ConfigError
from nodes.lab.recipe import NestedRecipe

_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# Relative, so that nothing is ever unpacked into this machine's own folders.
_RUNTIME = {"var/run": "../run", "var/lock": "../run/lock"}
_MOUNT_POINTS = ("dev", "mnt", "proc", "root", "run", "sys", "tmp", "var/lib", "var/log")
_FOLDERS = ("srv/shared", "var/lib/swtpm-localca", "var/log/swtpm/libvirt/qemu")
_HOSTS = "127.0.0.1 localhost\n"
_QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
swtpm_user = "root"
swtpm_group = "root"
"""
_FILES = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/bash\n"
        "sshd:x:100:65534::/run/sshd:/bin/false\n"
        "dnsmasq:x:101:65534::/tmp:/bin/false\n"
        "tss:x:102:102::/var/lib/tpm:/bin/false\n"
        "libvirt-qemu:x:64055:108::/var/lib/libvirt:/bin/false\n"
        "nobody:x:65534:65534::/tmp:/bin/false\n"
    ),
    "etc/group": (
        "root:x:0:\ntty:x:5:\ndisk:x:6:\ntss:x:102:\nkvm:x:108:\nlibvirt:x:109:\n"
        "libvirt-qemu:x:64055:\nnogroup:x:65534:\n"
    ),
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/shells": "/bin/sh\n/bin/bash\n",
    "etc/hosts": _HOSTS,
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    "etc/libvirt/qemu.conf": _QEMU_CONF,
}
# What update-alternatives would have linked.
_ALTERNATIVES = {
    "usr/bin/awk": "mawk",
    "usr/sbin/iptables": "iptables-nft",
    "usr/sbin/iptables-save": "iptables-nft-save",
    "usr/sbin/iptables-restore": "iptables-nft-restore",
    "usr/sbin/ip6tables": "ip6tables-nft",
    "usr/sbin/ip6tables-save": "ip6tables-nft-save",
    "usr/sbin/ip6tables-restore": "ip6tables-nft-restore",
    "usr/sbin/ebtables": "ebtables-nft",
}


def unpack(packages: Iterable[Path], root: Path, dropped: Iterable[str]) -> None:
    """Extract packages over each other into a tree whose /bin, /sbin and /lib are links.

    Raises:
        ConfigError: A package cannot be read.
    """
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    for name, target in _RUNTIME.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    (root / "run/lock").mkdir(parents=True)
    archive = root.parent / "package.tar"
    take = ["tar", "-x", "-C", str(root), "--keep-directory-symlink", "--no-same-owner"]
    take += [f"--exclude={pattern}" for pattern in dropped]
    for package in packages:
        try:
            with archive.open("wb") as out:
                argv = ["dpkg-deb", "--fsys-tarfile", str(package)]
                proc.run(argv, stdout=out, timeout_s=300)
            proc.run([*take, "-f", str(archive)], timeout_s=300)
        except proc.CommandFailed as error:
            raise ConfigError(
                f"cannot unpack {package.name}: {error.message}", hint=f"remove {package}"
            ) from error
    archive.unlink(missing_ok=True)


def finish(root: Path, recipe: NestedRecipe, description: dict[str, str]) -> None:
    """Add accounts, links, settings, our programs and the index of the kernel's modules.

    Args:
        root: The unpacked tree; changed in place.
        recipe: What to add.
        description: Written as NAME=VALUE lines to /etc/hypervouch-node.
    """
    for name in (*_MOUNT_POINTS, *_FOLDERS):
        (root / name).mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{key}={value}\n" for key, value in description.items())
    for name, text in {**_FILES, "etc/hypervouch-node": lines}.items():
        path = root / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in ("node-init", "node-reseed"):
        target = root / "usr/sbin" / name
        target.write_bytes(recipe.guest_files[name])
        target.chmod(0o755)
    (root / "etc/ssh/sshd_config").write_bytes(recipe.guest_files["sshd_config"])
    _link(root)
    _settle_libvirt(root)
    _index_modules(root)


def _link(root: Path) -> None:
    """Make the links of alternatives, and one for each busybox applet nobody else brought."""
    for name, target in _ALTERNATIVES.items():
        path = root / name
        if not os.path.lexists(path) and (path.parent / target).exists():
            path.symlink_to(target)
    folder = root / "usr/bin"
    for applet in proc.run([str(folder / "busybox"), "--list"]).text.split():
        taken = any(os.path.lexists(root / f"usr/{part}/{applet}") for part in ("bin", "sbin"))
        if not taken:
            (folder / applet).symlink_to("busybox")


def _settle_libvirt(root: Path) -> None:
    """Give libvirt its network filters, and a processor model that fits.

    TCG has no VME and Xen hides SEP, so no model of libvirt's map fits the machine and its Xen
    driver would not start: the smallest one is made to ask for less.
    """
    filters = root / "usr/share/libvirt/nwfilter"
    if filters.is_dir():
        shutil.copytree(filters, root / "etc/libvirt/nwfilter", dirs_exist_ok=True)
    smallest = root / "usr/share/libvirt/cpu_map/x86_486.xml"
    lines = smallest.read_text().splitlines(keepends=True)
    smallest.write_text("".join(line for line in lines if "vme" not in line))


def _index_modules(root: Path) -> None:
    """Run the tree's own depmod with the tree's own loader."""
    loader = next((root / "usr/lib64").glob("ld-linux-*"))
    libraries = root / "usr/lib/x86_64-linux-gnu"
    release = next((root / "usr/lib/modules").iterdir()).name
    argv = [str(loader), "--argv0", "depmod", "--library-path", str(libraries)]
    proc.run([*argv, str(root / "usr/bin/kmod"), "-b", str(root), release], timeout_s=120)
