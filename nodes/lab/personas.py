# SPDX-License-Identifier: Apache-2.0
"""What a nested node can be, and the QEMU command line that makes it so. Pure.

The processor is an emulated AMD one with SVM, so that Xen and kvm_amd find what they need. Some
of its features are taken away, for what QEMU's emulation (TCG) makes of them:

- `monitor`: MWAIT with ECX set raises #GP, and Xen panics in its idle loop.
- `smap`: before QEMU 9.1 an IRET to ring 3 reads with the kernel's rights, and dom0 dies.
- `rdtscp`: it is reported to the hypervisor as RDTSC, and Xen kills its PVH and HVM guests.
- AVX and XSAVE: while a guest ran, sshd in dom0 once met a wrong checksum ("Corrupted MAC on
  input"). Less state of the floating point unit, switched eagerly, is less that can be mixed up;
  that this was the cause is not proven.
"""

from dataclasses import dataclass
from pathlib import Path

from ci.errors import ConfigError
from nodes.images.machine import BINARY, Shape

PROCESSOR = (
    "EPYC,+svm,+npt,-monitor,-smap,-rdtscp,-xsave,-xsaveopt,-xsavec,-xgetbv1,-avx,-avx2,-f16c,-fma"
)
_LINUX = "net.ifnames=0 quiet panic=-1 mitigations=off"
# Retpolines are dear where the processor is emulated, and protect nobody there.
_XEN = "com1=115200 console=com1 loglvl=warning guest_loglvl=warning spec-ctrl=no,eager-fpu"
_DOM0_MIB = 640
SHARED = "/srv/shared"
"""Where a linked node mounts the folder that it shares with its neighbour."""


@dataclass(frozen=True, kw_only=True)
class Persona:
    """A kind of nested node.

    Attributes:
        name: `xen`, `kvm`, `lxc` or `plain`.
        title: For people.
        memory_mib: RAM of the node.
        urls: Of its hypervisors, best first, to be completed with host and port.
    """

    name: str
    title: str
    memory_mib: int
    urls: tuple[str, ...] = ()

    def hypervisors(self, host: str, port: int) -> tuple[str, ...]:
        """URLs of its hypervisors, best first."""
        return tuple(url.format(at=f"root@{host}:{port}") for url in self.urls)


PERSONAS = {
    persona.name: persona
    for persona in (
        Persona(
            name="xen",
            title="Xen, its toolstack xl and libvirt on top",
            memory_mib=1536,
            urls=("xl+ssh://{at}", "xen+ssh://{at}/system"),
        ),
        Persona(
            name="kvm",
            title="KVM by kvm_amd on emulated SVM, under libvirt",
            memory_mib=1024,
            # Without the type a busy machine might miss the probe, and be taken for emulation.
            urls=("qemu+ssh://{at}/system?type=kvm",),
        ),
        Persona(
            name="lxc",
            title="LXC under libvirt, on cgroups version 2",
            memory_mib=768,
            urls=("lxc+ssh://{at}/system",),
        ),
        Persona(name="plain", title="Debian with iSCSI, VLANs and device-mapper", memory_mib=768),
    )
}


def persona(name: str) -> Persona:
    """The persona of a name.

    Raises:
        ConfigError: There is none.
    """
    if name not in PERSONAS:
        raise ConfigError(
            f"there is no nested node called {name!r}", hint=f"use {', '.join(PERSONAS)}"
        )
    return PERSONAS[name]


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A node beside another one: a wire between them, and a folder that both see.

    Attributes:
        name: Host name of this node, without `-node`.
        address: Its own on the wire.
        other: That of the other node.
        peer: Folder of the other node, which need not be there yet.
        shared: Folder on this machine that both see.
    """

    name: str
    address: str
    other: str
    peer: Path
    shared: Path

    @staticmethod
    def options(address: str) -> str:
        """Added to a libvirt URL when both are up: disks that both have, a host's own address."""
        return f"&disks={SHARED}/disks&address={address}"


def command(kind: Persona, shape: Shape, memory: str, *, linked: bool = False) -> list[str]:
    """The whole QEMU command line, but for what starts a restore.

    QEMU runs in the node's folder, which holds `disk.qcow2` and links to the image's files. That
    of a linked node also holds links to what it has in common with its neighbour.

    Args:
        kind: What the node is to be.
        shape: Size and network.
        memory: A memory backend's options: RAM lives in a file.
        linked: Whether it has a neighbour.
    """
    network = f"user,id=net0,restrict={'off' if shape.internet else 'on'}"
    argv = [BINARY, "-name", f"hypervouch-{kind.name}", "-no-user-config", "-nodefaults"]
    argv += ["-no-reboot", "-display", "none", "-accel", "tcg,thread=multi", "-cpu", PROCESSOR]
    argv += ["-object", memory, "-machine", "pc,memory-backend=ram"]
    argv += ["-m", str(shape.memory_mib), "-smp", str(shape.cpus), *_boot(kind)]
    argv += ["-drive", "if=virtio,format=qcow2,cache=unsafe,file=disk.qcow2"]
    argv += ["-netdev", f"{network},hostfwd=tcp:127.0.0.1:0-:22"]
    argv += ["-device", "virtio-net-pci,netdev=net0,romfile="]
    argv += ["-object", "rng-random,id=rng0,filename=/dev/urandom"]
    argv += ["-device", "virtio-rng-pci,rng=rng0", "-serial", "file:console.log"]
    argv += ["-chardev", "socket,id=line,path=line.sock,server=on,wait=off"]
    argv += ["-serial", "chardev:line", "-qmp", "unix:qmp.sock,server=on,wait=off"]
    return [*argv, *_LINK] if linked else argv


# Frames go from socket to socket; those for a neighbour that is away are lost, as on a wire. Owners
# and rights of shared files are kept beside them: the guest's root makes nothing of root's here.
_LINK = (
    "-netdev",
    "dgram,id=net1,local.type=unix,local.path=wire.sock,remote.type=unix,remote.path=peer.sock",
    *("-device", "virtio-net-pci,netdev=net1,romfile="),
    *("-fsdev", "local,id=shared,path=shared,security_model=mapped-file"),
    *("-device", "virtio-9p-pci,fsdev=shared,mount_tag=shared"),
)


def _boot(kind: Persona) -> list[str]:
    """What is booted: Linux, or Xen with Linux and the first stage as its modules."""
    if kind.name != "xen":
        words = f"console=ttyS0 {_LINUX} node.persona={kind.name}"
        return ["-kernel", "vmlinuz", "-initrd", "initrd", "-append", words]
    dom0 = f"vmlinuz console=hvc0 {_LINUX} node.persona=xen"
    words = f"dom0_mem={_DOM0_MIB}M,max:{_DOM0_MIB}M {_XEN}"
    return ["-kernel", "xen", "-initrd", f"{dom0},initrd", "-append", words]
