# SPDX-License-Identifier: Apache-2.0
"""Domains as an operator would have them: our own node image, booted once, with a RAM snapshot."""

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from ci import proc
from nodes.images import keys
from nodes.images.build import Image, image
from nodes.images.ready import create_overlay
from nodes.providers.qemu import personalise

BOOT_S = 180.0
SNAPSHOT = "ready"
_XML = """
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <memory unit='MiB'>320</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>console=ttyS0 quiet net.ifnames=0 panic=-1 tsc=reliable mitigations=off</cmdline>
  </os>
  <cpu mode='maximum'/>
  <on_crash>destroy</on_crash>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='unsafe'/>
      <source file='{disk}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <serial type='file'><source path='{folder}/console.log'/><target port='0'/></serial>
    <serial type='unix'><source mode='bind' path='{line}'/><target port='1'/></serial>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-netdev'/>
    <qemu:arg value='user,id=hv0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='virtio-net-pci,netdev=hv0,romfile=,addr=0x10'/>
  </qemu:commandline>
</domain>
"""


@dataclass(frozen=True, kw_only=True)
class Domains:
    """Domains of one libvirt host with a snapshot each, and how to log in to them."""

    url: str
    names: tuple[str, ...]
    addresses: dict[str, str]
    key_file: Path
    known_hosts: Path

    @property
    def options(self) -> dict[str, Any]:
        """What a `libvirt` provider is told of them."""
        return {
            "url": self.url,
            "domains": list(self.names),
            "slots": len(self.names),
            "snapshot": SNAPSHOT,
            "addresses": self.addresses,
            "key-file": self.key_file,
            "known-hosts": self.known_hosts,
            "hypervisor": "qemu:///tcg",
        }


def define(url: str, folder: Path, names: Sequence[str]) -> Domains:
    """Define and boot domains, take a snapshot of each, and end them.

    Args:
        url: Of a libvirt host that sees this machine's files.
        folder: For disks, keys and sockets; its path is short.
        names: Of the domains.
    """
    import libvirt  # noqa: PLC0415 - only who has asked for it

    base, fresh = image(), keys.generate()
    folder.mkdir(parents=True, exist_ok=True)
    ports = {name: _free_port() for name in names}
    host = libvirt.open(url)
    try:
        started = [_boot(host, base, folder / name, name, ports[name]) for name in names]
        for name, domain in zip(names, started, strict=True):
            _personalise(folder / name / "line", fresh)
            domain.snapshotCreateXML(f"<domainsnapshot><name>{SNAPSHOT}</name></domainsnapshot>", 0)
            domain.destroy()
    finally:
        host.close()
    key_file, known_hosts = fresh.write(folder, "127.0.0.1", 1)
    lines = [f"[127.0.0.1]:{port} {fresh.host_public}\n" for port in ports.values()]
    known_hosts.write_text("".join(lines))
    return Domains(
        url=url,
        names=tuple(names),
        addresses={name: f"127.0.0.1:{port}" for name, port in ports.items()},
        key_file=key_file,
        known_hosts=known_hosts,
    )


def remove(domains: Domains) -> None:
    """End the domains and let libvirt forget them."""
    import libvirt  # noqa: PLC0415 - only who has asked for it

    host = libvirt.open(domains.url)
    try:
        for name in domains.names:
            domain = host.lookupByName(name)
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
    finally:
        host.close()


def _boot(host: Any, base: Image, folder: Path, name: str, port: int) -> Any:
    folder.mkdir()
    create_overlay(base.disk, folder / "disk.qcow2")
    filled = {"name": name, "port": port, "folder": folder, "line": folder / "line"}
    filled |= {"kernel": base.kernel, "initrd": base.initrd, "disk": folder / "disk.qcow2"}
    domain = host.defineXML(_XML.format(**{key: escape(str(v)) for key, v in filled.items()}))
    domain.create()
    return domain


def _personalise(path: Path, fresh: keys.HandOutKeys) -> None:
    """Wait until a guest asks who it is, and tell it; returns when its SSH server was started."""
    line = personalise(fresh, time.time()) + b"\n"
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(5.0)
        link.connect(str(path))
        link.sendall(line)  # it may have asked before we listened
        heard = b""
        for _ in proc.wait_until(time.monotonic() + BOOT_S):
            try:
                heard += link.recv(4096)
            except TimeoutError:
                link.sendall(line)
            if b"up\n" in heard:
                return
            if heard.endswith(b"ready\n"):
                link.sendall(line)
    raise AssertionError(f"the domain did not boot: {heard[-200:]!r}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
