# SPDX-License-Identifier: Apache-2.0
"""Whether KVM works on a host: proved by a guest that has to say something.

/dev/kvm proves nothing: inside some sandboxes it can be opened, and guests hang. So a guest of
one boot sector is started, which writes one byte to its serial line and halts.
"""

import secrets

import libvirt
import structlog

from nodes.hypervisors.base import PREFIX
from nodes.hypervisors.libvirt_link import Link
from nodes.hypervisors.libvirt_store import Store
from nodes.hypervisors.libvirt_xml import element, parse, text

ANSWER_S = 8.0
_WORD = b"K"
_log = structlog.get_logger(__name__)
_known: dict[str, bool] = {}

# mov dx,0x3f8; mov al,'K'; out dx,al; hlt; jmp back to hlt
_CODE = bytes.fromhex("baf803b04beef4ebfd")
BOOT_SECTOR = _CODE.ljust(510, b"\0") + b"\x55\xaa"


def kvm_works(link: Link, arch: str) -> bool:
    """Whether the host runs guests of its own machine by KVM; found out once a process."""
    host = parse(link.conn.getCapabilities())
    if arch != "x86_64" or arch != host.findtext("./host/cpu/arch"):
        return False
    offered = {
        domain.get("type") for domain in host.findall(f"./guest/arch[@name='{arch}']/domain")
    }
    if "kvm" not in offered:
        return False
    key = host.findtext("./host/uuid", "")
    if key not in _known:
        _known[key] = _probe(link)
        if not _known[key]:
            _log.warning(
                "KVM is offered and does not work, QEMU emulates instead",
                action="probe",
                host=link.address.url,
            )
    return _known[key]


def probe_domain(name: str, disk: str, log: str) -> str:
    """A guest that boots one sector and writes its word to a log."""
    return text(
        element(
            "domain",
            element("name", content=name),
            element("memory", content="16", unit="MiB"),
            element("vcpu", content="1"),
            element(
                "os",
                element("type", content="hvm", arch="x86_64", machine="pc"),
                element("boot", dev="hd"),
            ),
            # As real guests have it: a half of KVM may run this sector and no kernel.
            element("cpu", mode="host-passthrough"),
            element(
                "devices",
                element(
                    "disk",
                    element("driver", name="qemu", type="raw"),
                    element("source", file=disk),
                    element("target", dev="hda", bus="ide"),
                    type="file",
                    device="disk",
                ),
                element("serial", element("log", file=log, append="on"), type="pty"),
                element("video", element("model", type="none")),
            ),
            type="kvm",
        )
    )


def _probe(link: Link) -> bool:
    store = Store(link.conn, link.disks)
    name = f"{PREFIX}probe-{secrets.token_hex(4)}"
    domain = None
    try:
        disk = store.put(f"{name}.disk", BOOT_SECTOR)
        domain = link.conn.createXML(
            probe_domain(name, disk, store.path(f"{name}.log")),
            libvirt.VIR_DOMAIN_START_AUTODESTROY,
        )
        return link.watch.wait(lambda: _WORD in store.get(f"{name}.log"), ANSWER_S, look_s=0.2)
    except libvirt.libvirtError:
        return False
    finally:
        if domain is not None:
            try:
                domain.destroy()
            except libvirt.libvirtError:
                _log.debug("the probe has ended by itself", action="probe")
        store.remove_of(name)
