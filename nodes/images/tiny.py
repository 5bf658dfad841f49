# SPDX-License-Identifier: Apache-2.0
"""The tiny guest: what every hypervisor boots when it is put to the proof.

Debian's kernel and one archive of busybox, a few drivers, QEMU's guest agent and our serial
agent (`nodes/images/guest/tiny-agent`): no disk, no user, no secret. The same system as a tar
file is a container's. User Mode Linux boots the archive too and leaves the drivers alone.
"""

import gzip
import hashlib
import io
import json
import platform
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path

from ci.errors import ConfigError
from nodes.hypervisors.base import GuestImage
from nodes.images import initramfs, tree
from nodes.images.build import Progress, default_cache, locked
from nodes.images.initramfs import Entry
from nodes.images.packages import Package, PackageSource


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What the guest of one machine is made of.

    Attributes:
        debian: Debian's name of the machine.
        kernel: Package that depends on its newest kernel.
        programs: More programs than every guest has: path, by the package that brings it.
        scripts: More of our own files, for /sbin.
    """

    debian: str
    kernel: str
    programs: Mapping[str, str] = field(default_factory=dict)
    scripts: tuple[str, ...] = ()


ARCHITECTURES: Mapping[str, Architecture] = {
    "x86_64": Architecture(debian="amd64", kernel="linux-image-cloud-amd64"),
    "s390x": Architecture(debian="s390x", kernel="linux-image-s390x"),
    # There the kernel leaves PCI hot-plug to a daemon that calls the firmware by drmgr.
    "ppc64le": Architecture(
        debian="ppc64el",
        kernel="linux-image-powerpc64le",
        programs={"powerpc-ibm-utils": "usr/sbin/drmgr"},
        scripts=("tiny-hotplug",),
    ),
    "aarch64": Architecture(debian="arm64", kernel="linux-image-cloud-arm64"),
}
"""By `uname -m`."""
# What hypervisors show a guest; dependencies are followed, names of other machines skipped.
MODULES = (
    *("button", "evdev", "virtio_pci", "virtio_mmio", "virtio_ccw", "virtio_blk", "virtio_net"),
    *("virtio_console", "virtio_balloon", "virtio_scsi", "virtio_rng", "sd_mod", "sr_mod"),
    *("isofs", "vfat", "nls_ascii", "nls_cp437", "ext4", "xen_blkfront", "xen_netfront"),
    *("ata_piix", "ahci", "e1000", "8139cp", "tpm_tis", "tpm_crb", "hv_storvsc", "hv_netvsc"),
    *("vmw_pvscsi", "vmxnet3"),
    # ext4 asks for the last one by its algorithm, so that no dependency names it.
    *("efivarfs", "gpio_keys", "crc32c_generic"),
)
_AGENT = "qemu-guest-agent"
_BUSYBOX = "busybox-static"
_KERNEL_PACKAGE = re.compile(r"linux-image-\d")
_LIBRARY = re.compile(rb"(?:lib|ld)[A-Za-z0-9_+-]*(?:[.-][0-9]+)*\.so(?:\.[0-9]+)*")
_GUEST_FILES = ("tiny-init", "tiny-agent")
_DIRECTORY, _FILE, _LINK, _CHARACTER_DEVICE = 0o040000, 0o100000, 0o120000, 0o020000
_FOLDERS = (
    *("bin", "dev", "etc", "mnt", "modules", "proc", "root", "run", "sbin", "sys", "tmp"),
    *("usr", "usr/bin", "usr/sbin", "var", "var/log", "var/run"),
)
_POWER = "#!/bin/sh\n# The kernel calls it when the hypervisor asks.\nsync\nexec /bin/{0} -f\n"
_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/shells": "/bin/sh\n",
    # What `info` tells: which image was booted, where there are two.
    "etc/image": "tiny\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
    "etc/os-release": 'NAME="Hypervouch tiny guest"\nID=tiny\nVERSION_ID="1"\n',
}
_SCRIPTS = {
    "sbin/poweroff": _POWER.format("poweroff"),
    "sbin/reboot": _POWER.format("reboot"),
    # qemu-ga runs `shutdown -P|-H|-r +0` and wants an answer before the guest is gone.
    "sbin/shutdown": (
        '#!/bin/sh\ncase "$*" in *-r*) what=reboot ;; *-H*) what=halt ;; *) what=poweroff ;; esac\n'
        '( sleep 0.3; sync; "/bin/$what" -f ) >/dev/null 2>&1 &\n'
    ),
    # It sets passwords by `chpasswd [-e]`, which busybox has not.
    "usr/sbin/chpasswd": (
        "#!/bin/sh\nwhile IFS=: read -r user word; do\n"
        '    [ "$1" = -e ] || word=$(mkpasswd -m sha512 "$word")\n'
        '    awk -F: -v OFS=: -v u="$user" -v w="$word" \'$1 == u { $2 = w } 1\' '
        "/etc/shadow >/run/shadow\n    cat /run/shadow >/etc/shadow\ndone\n"
    ),
    "etc/udhcpc.sh": (
        "#!/bin/sh\ncase $1 in bound | renew)\n"
        '    ifconfig "$interface" "$ip" netmask "${subnet:-255.255.255.0}"\n'
        '    [ -z "$router" ] || route add default gw "${router%% *}" dev "$interface"\n'
        "    ;;\nesac\n"
    ),
}
# Raised when the code that shapes the guest changes what it makes out of the same parts.
_REVISION = 2


def tiny(
    cache: Path | None = None, arch: str = "x86_64", progress: Progress | None = None
) -> GuestImage:
    """Find the tiny guest or build it; any number of callers and processes may ask at once.

    Args:
        cache: Cache folder; the user's own by default.
        arch: As `uname -m` gives it: one of ARCHITECTURES.
        progress: Told one short sentence before each stage of a build.

    Raises:
        ConfigError: Unknown architecture, or packages cannot be fetched.
    """
    if arch not in ARCHITECTURES:
        raise ConfigError(
            f"there is no tiny guest for {arch}", hint=f"there is for {', '.join(ARCHITECTURES)}"
        )
    say = progress or (lambda _sentence: None)
    cache = cache or default_cache()
    folder = cache / "images" / fingerprint(arch)
    if not folder.is_dir():
        with locked(cache / "images" / ".tiny.lock", lambda: say("waiting for another builder")):
            if not folder.is_dir():
                _make(cache, folder, arch, say)
    root = folder / "root.tar"
    return GuestImage(
        arch=arch,
        kernel=folder / "vmlinuz",
        initrd=folder / "initrd",
        root=root if root.exists() else None,
    )


def marked(image: GuestImage, mark: str, folder: Path) -> GuestImage:
    """The same guest with another word in /etc/image, so that one sees which one was booted.

    Args:
        image: As `tiny` gives it.
        mark: The word.
        folder: Where its files are written.
    """
    member = Entry(path="etc/image", mode=_FILE | 0o644, content=f"{mark}\n".encode())
    initrd, root = image.initrd, image.root
    if initrd is not None:
        # The kernel unpacks archives one after the other, over what is there.
        more = gzip.compress(initramfs.archive([member]), mtime=0)
        content, initrd = initrd.read_bytes(), folder / f"{mark}.initrd"
        initrd.write_bytes(content + more)
    if root is not None:
        root = _remarked(root, folder / f"{mark}.tar", member)
    return replace(image, initrd=initrd, root=root)


def _remarked(root: Path, copy: Path, member: Entry) -> Path:
    """A copy with one member replaced: Docker refuses a path that comes twice."""
    with tarfile.open(root) as source, tarfile.open(copy, "w") as target:
        for one in source:
            if one.name == member.path:
                _add(target, member)
            else:
                target.addfile(one, source.extractfile(one) if one.isreg() else None)
    return copy


def versions(image: GuestImage) -> dict[str, str]:
    """What a tiny guest is made of: `kernel`, `busybox`, `qemu-ga` and `image`."""
    if image.kernel is None:
        return {}
    try:
        facts = json.loads(image.kernel.with_name("manifest.json").read_text())
    except FileNotFoundError:
        return {}
    return {str(name): str(value) for name, value in facts.items()}


def fingerprint(arch: str) -> str:
    """12 hexadecimal digits that change whenever the recipe of this architecture does."""
    digest = hashlib.sha256(f"tiny {_REVISION} {arch}".encode())
    here = ARCHITECTURES[arch]
    parts = [here.debian, here.kernel, _AGENT, _BUSYBOX, *here.programs, *MODULES, *_FOLDERS]
    parts += [f"{name}\1{text}" for name, text in (_TEXTS | _SCRIPTS).items()]
    digest.update("\0".join(parts).encode())
    for name in (*_GUEST_FILES, *here.scripts):
        digest.update(b"\2" + _guest_file(name))
    return digest.hexdigest()[:12]


def _make(cache: Path, folder: Path, arch: str, say: Progress) -> None:
    for leftover in folder.parent.glob(".tiny-building-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=".tiny-building-", dir=folder.parent))
    try:
        _build(work, cache, arch, say)
        shutil.rmtree(work / "tree")
        work.chmod(0o755)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _build(work: Path, cache: Path, arch: str, say: Progress) -> None:
    """Fill `work` with kernel, archive, tar and manifest."""
    native = arch == platform.machine()
    here = ARCHITECTURES[arch]
    say(f"fetching Debian packages for the tiny guest ({arch})")
    store = cache / ("packages" if native else f"packages-{here.debian}")
    with locked(store / ".lock"):
        source = PackageSource(store, "" if native else here.debian)
        fetched = source.fetch((here.kernel, _BUSYBOX, _AGENT, *here.programs))
    say("unpacking them")
    root = work / "tree"
    tree.unpack((path for path in fetched if _wanted(path, here)), root)
    kernel = _kernel(root)
    release = kernel.name.partition("-")[2]
    shutil.copyfile(kernel, work / "vmlinuz")
    modules = initramfs.load_order(MODULES, lambda name: tree.kernel_module(root, name))
    say("writing the archive")
    system = list(_system((root / "usr/bin/busybox").read_bytes()))
    extra = [*_drivers(modules, release), *_scripts(here)]
    extra += _programs(root, ("usr/sbin/qemu-ga", *here.programs.values()))
    packed = initramfs.archive([*system, *extra])
    (work / "initrd").write_bytes(gzip.compress(packed, compresslevel=1, mtime=0))
    if native:
        (work / "root.tar").write_bytes(_tar(system))
    facts = {"image": fingerprint(arch), "kernel": release, **_facts(fetched)}
    (work / "manifest.json").write_text(json.dumps(facts, indent=1))


def _wanted(path: Path, here: Architecture) -> bool:
    """The kernel, our programs and libraries: not what would install them."""
    name = Package(file_name=path.name, size_bytes=0).name
    ours = name in {_AGENT, _BUSYBOX, *here.programs} or name.startswith("lib")
    return ours or _KERNEL_PACKAGE.match(name) is not None


def _facts(fetched: Iterable[Path]) -> dict[str, str]:
    names = {_AGENT: "qemu-ga", _BUSYBOX: "busybox"}
    packages = [Package(file_name=path.name, size_bytes=0) for path in fetched]
    return {names[one.name]: one.version for one in packages if one.name in names}


def _kernel(root: Path) -> Path:
    images = sorted((root / "boot").glob("vmlinu[xz]-*"))
    if len(images) != 1:
        raise ConfigError(
            f"the packages hold {len(images)} kernels, one was expected",
            hint="empty the package folder of the cache and build again",
        )
    return images[0]


def _guest_file(name: str) -> bytes:
    return (files("nodes.images") / "guest" / name).read_bytes()


def _system(busybox: bytes) -> Iterator[Entry]:
    """What a container's root holds, and the archive too."""
    for name in _FOLDERS:
        yield Entry(path=name, mode=_DIRECTORY | 0o755)
    yield Entry(path="bin/busybox", mode=_FILE | 0o755, content=busybox)
    yield Entry(path="bin/sh", mode=_LINK | 0o777, content=b"busybox")
    yield Entry(path="sbin/init", mode=_FILE | 0o755, content=_guest_file("tiny-init"))
    yield Entry(path="sbin/tiny-agent", mode=_FILE | 0o755, content=_guest_file("tiny-agent"))
    for name, text in _TEXTS.items():
        mode = 0o600 if name.endswith("shadow") else 0o644
        yield Entry(path=name, mode=_FILE | mode, content=text.encode())
    for name, text in _SCRIPTS.items():
        yield Entry(path=name, mode=_FILE | 0o755, content=text.encode())


def _drivers(modules: dict[str, bytes], release: str) -> Iterator[Entry]:
    """What only a kernel of the guest's own needs."""
    yield Entry(path="dev/console", mode=_CHARACTER_DEVICE | 0o600, device=(5, 1))
    yield Entry(path="init", mode=_LINK | 0o777, content=b"sbin/init")
    order = "".join(f"{name}.ko\n" for name in modules)
    yield Entry(path="modules/order", mode=_FILE | 0o644, content=order.encode())
    yield Entry(path="modules/kernel", mode=_FILE | 0o644, content=f"{release}\n".encode())
    for name, content in modules.items():
        yield Entry(path=f"modules/{name}.ko", mode=_FILE | 0o644, content=content)


def _scripts(here: Architecture) -> Iterator[Entry]:
    for name in here.scripts:
        yield Entry(path=f"sbin/{name}", mode=_FILE | 0o755, content=_guest_file(name))


def _programs(root: Path, paths: Iterable[str]) -> Iterator[Entry]:
    """Programs with every library that they name, each at the path where it lies."""
    folders: set[str] = set()
    waiting = list(paths)
    found = set(waiting)
    while waiting:
        path = waiting.pop()
        content = _inside(root, root / path).read_bytes()
        yield from _parents(path, folders)
        yield Entry(path=path, mode=_FILE | 0o755, content=content)
        for name in set(_LIBRARY.findall(content)):
            for place in _places(root, name.decode()):
                if place not in found:
                    found.add(place)
                    waiting.append(place)
    # The loader's path is written into every program, and is not below /usr.
    for name in ("lib", "lib64"):
        if f"usr/{name}" in folders:
            yield Entry(path=name, mode=_LINK | 0o777, content=f"usr/{name}".encode())


def _places(root: Path, name: str) -> list[str]:
    """Where a library lies in the tree, by its own name and never by a link's target."""
    folders = [root / "usr/lib64", root / "usr/lib", *(root / "usr/lib").glob("*-linux-gnu")]
    places = [one / name for one in folders if _inside(root, one / name).is_file()]
    return [str(place.relative_to(root)) for place in places]


def _inside(root: Path, path: Path) -> Path:
    """Where a link leads within the tree: an absolute one would lead to the host's own file."""
    for _ in range(8):
        if not path.is_symlink():
            break
        target = str(path.readlink())
        path = root / target.lstrip("/") if target.startswith("/") else path.parent / target
    return path


def _parents(path: str, done: set[str]) -> Iterator[Entry]:
    """Folders on the way to a file that the archive has not yet."""
    for parent in reversed(Path(path).parents):
        name = str(parent)
        if name != "." and name not in done and name not in _FOLDERS:
            yield Entry(path=name, mode=_DIRECTORY | 0o755)
        done.add(name)


def _tar(entries: Iterable[Entry]) -> bytes:
    """The same members as a tar file that belongs to root."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for entry in entries:
            _add(archive, entry)
    return packed.getvalue()


def _add(archive: tarfile.TarFile, entry: Entry) -> None:
    member = tarfile.TarInfo(entry.path)
    member.mode = entry.mode & 0o7777
    kind = entry.mode & ~0o7777
    if kind == _DIRECTORY:
        member.type = tarfile.DIRTYPE
    elif kind == _LINK:
        member.type, member.linkname = tarfile.SYMTYPE, entry.content.decode()
    else:
        member.size = len(entry.content)
    archive.addfile(member, io.BytesIO(entry.content) if member.isreg() else None)
