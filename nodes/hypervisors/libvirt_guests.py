# SPDX-License-Identifier: Apache-2.0
"""Guests of a libvirt host: made, started, stopped, paused, kept and removed."""

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import libvirt

from ci.errors import HypervouchError
from ci.model.feature import Feature
from nodes.hypervisors import libvirt_files as files
from nodes.hypervisors import libvirt_marks as marks
from nodes.hypervisors import libvirt_xml as xml
from nodes.hypervisors.base import (
    PREFIX,
    Console,
    DiskFormat,
    GuestInfo,
    GuestSpec,
    GuestState,
    Nic,
)
from nodes.hypervisors.faults import CallerFault, TransientFault
from nodes.hypervisors.libvirt_bounded import operation
from nodes.hypervisors.libvirt_console import StreamConsole
from nodes.hypervisors.libvirt_events import REBOOT
from nodes.hypervisors.libvirt_flavour import Parts
from nodes.hypervisors.libvirt_images import LibvirtImages
from nodes.hypervisors.local import check_size

NAME = re.compile(rf"^{PREFIX}[A-Za-z0-9-]{{1,37}}$")
PRESS_AGAIN_S = 10.0
"""A power button that is pressed before the guest has booted is lost."""

_UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)
DEFINITION = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE


class LibvirtGuests(LibvirtImages):
    """The part of the adapter that needs no device and no second host."""

    @operation()
    def cleanup(self) -> tuple[str, ...]:
        """Remove guests that carry our mark and our prefix, our files, networks and filters."""
        domains = [domain for domain in self.link.conn.listAllDomains() if self.is_ours(domain)]
        guests = [domain.name() for domain in domains]
        for name in guests:
            self.delete(name)
        left = [name for name in self.store.names() if name.startswith(PREFIX)]
        for name in left:
            self.remove_volume(name)
        return tuple(sorted({*guests, *left, *self.remove_networks()}))

    def is_ours(self, domain: Any) -> bool:
        """Whether a domain carries our prefix and our mark; one that just went does not."""
        name = str(domain.name())
        if not name.startswith(PREFIX):
            return False
        try:
            told = domain.XMLDesc()
            if marks.is_marked(told) or marks.uses(told, self.store.path(f"{name}.")):
                return True
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
            return False
        return marks.names(self.store.get(f"{name}.xml"), str(domain.UUIDString()))

    def remove_volume(self, name: str) -> None:
        """Remove a file of the store and what belongs to it."""
        self.store.remove(name)

    def close(self) -> None:
        """Give the connection back; repeatable, never raises."""
        self.link.close()

    # Making and removing -----------------------------------------------------------------

    def check(self, spec: GuestSpec) -> None:
        """Look at what is asked for before anything is made.

        Raises:
            CallerFault: The name is taken or wrong, or the image does not fit.
            Unsupported: There is no such thing here.
        """
        if not NAME.match(spec.name):
            raise CallerFault(
                f"{spec.name!r} is no name of a guest",
                hint=f"{PREFIX} and then letters, digits and -, at most 40 characters",
            )
        check_size(spec.memory_mib, spec.cpus)
        self.check_image(spec.image)
        self.flavour.check(spec)
        files.refuse_injection(spec.image, spec.files)
        self._check_more(spec)
        if self.find(spec.name) is not None:
            raise CallerFault(f"there is a guest {spec.name} on {self.url} already")

    def _check_more(self, spec: GuestSpec) -> None:
        """Look at what not every driver has."""
        self.refuse_missing(spec)
        root = spec.root
        if root is not None and (root.secret or root.format is not DiskFormat.QCOW2):
            raise CallerFault("a root volume is one of this host's, neither shared nor encrypted")
        if root is not None and self.store.find(root.name) is None:
            raise CallerFault(f"there is no volume {root.name} on {self.url}")

    @operation(Feature.LAUNCH)
    def launch(self, spec: GuestSpec) -> None:
        """Make and start a guest."""
        self.check(spec)
        with self.claimed(spec.name):
            self.forget(spec.name)  # what an earlier one may have left
            known_as = str(uuid.uuid4())
            try:
                self.keep_all_rules(spec.nics)
                made = self.flavour.domain(spec, self.prepare(spec))
                domain = self.link.conn.defineXML(marks.marked(made, known_as))
                self.defined(spec, domain)
                self.begin(domain)
            except BaseException:
                # The first error is the one to be told.
                with suppress(libvirt.libvirtError, HypervouchError):
                    self._undo(spec.name, known_as)
                raise
            self.remember(domain)

    @contextmanager
    def claimed(self, name: str) -> Iterator[None]:
        """Have a free name for oneself while its guest is made: one can make the file.

        Raises:
            CallerFault: It is taken, or others launch it just now.
        """
        claim, taken = f"{marks.CLAIM}.{name}", f"there is a guest {name} on {self.url} already"
        try:
            self.store.create(claim, 1)
        except libvirt.libvirtError as error:
            if self.store.find(claim) is None:
                raise
            raise CallerFault(
                f"{taken}, or it is launched just now",
                hint=f"choose another name, or delete it: that removes {self.store.path(claim)}",
            ) from error
        try:
            if self.find(name) is not None:
                raise CallerFault(taken)
            yield
        finally:
            # It says nothing of the guest; what stays goes with the guest, or with a cleaning.
            with suppress(libvirt.libvirtError, HypervouchError):
                self.store.remove(claim)

    def _undo(self, name: str, known_as: str) -> None:
        """Remove what this very launch has made: another one's guest may have the name."""
        try:
            domain = self.link.conn.lookupByUUIDString(known_as)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
        else:
            self._remove(domain)
        self.forget(name)

    def keep_all_rules(self, nics: tuple[Nic, ...]) -> None:
        """Let libvirt know the rules of cards that have some."""
        for nic in nics:
            if nic.rules is not None:
                self.keep_rules(nic)

    def prepare(self, spec: GuestSpec) -> Parts:
        """Put a guest's files onto the host."""
        name, image = spec.name, spec.image
        kernel, initrd, disk = self.put_image(name, image, spec.files)
        drive = ""
        if spec.root is not None:
            self.store.remove(f"{name}.disk")
            disk = spec.root.path
        if spec.config_drive is not None:
            drive = self.store.put(f"{name}.config", files.config_drive(spec.config_drive))
        return Parts(
            kernel=kernel,
            initrd=initrd,
            disk=disk,
            config_drive=drive,
            log=self.store.path(f"{name}.log"),
            bridge=self.link.options.get("bridge", ""),
        )

    def defined(self, spec: GuestSpec, domain: Any) -> None:
        """Called once a guest is defined and not yet started; nothing by default."""

    def forget(self, name: str) -> None:
        """Remove a guest's files; repeatable."""
        self.store.remove_of(name)

    def begin(self, domain: Any) -> None:
        """Start a domain and wait until it runs; its log begins anew."""
        self.store.remove_log(f"{domain.name()}.log")
        domain.create()
        self.until(domain, GuestState.RUNNING, "runs")

    def remember(self, domain: Any) -> None:
        """Keep a guest's definition beside its disks, for the day its host is dead."""
        self.store.put(f"{domain.name()}.xml", domain.XMLDesc(DEFINITION).encode())

    def redefine(self, domain: Any, change: Callable[[xml.Element], None]) -> Any:
        """Change the definition that a guest has at its next start; gives its domain."""
        root = xml.parse(domain.XMLDesc(DEFINITION))
        change(root)
        made = self.link.conn.defineXML(xml.text(root))
        self.remember(made)
        return made

    @operation(Feature.TERMINATE)
    def delete(self, name: str) -> None:
        """End and remove a guest with all that was made for it; repeatable.

        Raises:
            CallerFault: It lacks our mark.
        """
        domain = self.find(name)
        if domain is not None:
            if not self.is_ours(domain):
                raise CallerFault(f"{name} on {self.url} is not ours: it lacks our mark")
            self._remove(domain)
        self.forget(name)
        self.store.remove(f"{marks.CLAIM}.{name}")

    def _remove(self, domain: Any) -> None:
        root = xml.parse(domain.XMLDesc())
        self._end(domain)
        self.undefine(domain)
        self.let_go(root)

    def let_go(self, root: xml.Element) -> None:
        """Remove what libvirt keeps for a domain, or a device of one, beside its definition."""
        self.drop_rules(root)

    def undefine(self, domain: Any) -> None:
        """Remove a definition with its saved memory, snapshots' names and firmware state."""
        try:
            domain.undefineFlags(_UNDEFINE)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:  # a transient one
                raise

    def _end(self, domain: Any) -> None:
        if not domain.isActive():
            return
        try:
            domain.destroy()
        except libvirt.libvirtError:
            if domain.isActive():
                raise
        # A transient domain is gone by now, and cannot be asked.
        self.link.watch.wait(lambda: self._is_over(domain), self.timeout_s)

    def _is_over(self, domain: Any) -> bool:
        try:
            return not domain.isActive()
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return True
            raise

    # State -------------------------------------------------------------------------------

    def until(self, domain: Any, state: GuestState, word: str) -> None:
        """Wait until a guest is in a state.

        Raises:
            TransientFault: It was not in time.
        """
        if not self.link.watch.wait(lambda: self.state(domain) is state, self.timeout_s):
            self.late(domain.name(), word)

    def late(self, name: str, word: str) -> None:
        """Say that an effect was not seen.

        Raises:
            TransientFault: Always.
        """
        raise TransientFault(
            f"{name} on {self.url}: not seen within {self.timeout_s:g} s that it {word}",
            hint="look at its console log",
            retryable=True,
        )

    @operation(Feature.GET_GUEST_INFO)
    def info(self, name: str) -> GuestInfo:
        """State, memory and processors of a guest."""
        domain = self.domain(name)
        _state, _maximum, memory_kib, cpus, _time = domain.info()
        return GuestInfo(
            state=self.state(domain), memory_mib=int(memory_kib) // 1024, cpus=int(cpus)
        )

    @operation(Feature.TERMINATE)
    def power_off(self, name: str) -> None:
        """End a guest at once; memory that was kept is thrown away."""
        domain = self.domain(name)
        self._end(domain)
        if self.state(domain) is GuestState.SUSPENDED:
            domain.managedSaveRemove()

    @operation(Feature.REBOOT)
    def start(self, name: str) -> None:
        """Start a guest that is shut off."""
        domain = self.domain(name)
        if not domain.isActive():
            self.begin(domain)

    @operation(Feature.TERMINATE)
    def shutdown(self, name: str) -> None:
        """Ask a guest to end itself, and wait until it did."""
        domain = self.domain(name)
        self._ask(
            lambda: domain.shutdownFlags(self.flavour.shutdown_flags),
            lambda: self._is_over(domain),
            name,
            "shut down",
        )

    @operation(Feature.REBOOT)
    def reboot(self, name: str, *, hard: bool = False) -> None:
        """Let a guest boot anew."""
        domain, watch = self.domain(name), self.link.watch
        before = watch.count(REBOOT, name)

        def seen() -> bool:
            return watch.count(REBOOT, name) > before

        if hard:
            domain.reset(0)
            if not watch.wait(seen, self.timeout_s):
                self.late(name, "boots anew")
            return
        self._ask(lambda: domain.reboot(self.flavour.reboot_flags), seen, name, "boots anew")

    def _ask(
        self, ask: Callable[[], object], done: Callable[[], bool], name: str, word: str
    ) -> None:
        """Ask a guest for something, again and again until it is seen: it may be booting."""
        left = self.timeout_s
        while left > 0:
            if done():
                return
            try:
                ask()
            except libvirt.libvirtError:
                if done():  # it ended in between
                    return
                raise
            if self.link.watch.wait(done, min(PRESS_AGAIN_S, left)):
                return
            left -= PRESS_AGAIN_S
        self.late(name, word)

    @operation(Feature.PAUSE)
    def pause(self, name: str) -> None:
        """Stop a guest's processors."""
        domain = self.domain(name)
        if self.state(domain) is not GuestState.PAUSED:
            domain.suspend()
            self.until(domain, GuestState.PAUSED, "is paused")

    @operation(Feature.UNPAUSE)
    def unpause(self, name: str) -> None:
        """Let them go on."""
        domain = self.domain(name)
        if self.state(domain) is not GuestState.RUNNING:
            domain.resume()
            self.until(domain, GuestState.RUNNING, "runs")

    @operation(Feature.SUSPEND)
    def suspend(self, name: str) -> None:
        """Write a guest's memory to disk and end it."""
        domain = self.domain(name)
        domain.managedSave(0)
        self.until(domain, GuestState.SUSPENDED, "is suspended")

    @operation(Feature.RESUME)
    def resume(self, name: str) -> None:
        """Start a suspended guest with the memory it had.

        Raises:
            CallerFault: It is not suspended.
        """
        domain = self.domain(name)
        if self.state(domain) is not GuestState.SUSPENDED:
            raise CallerFault(f"{name} on {self.url} is not suspended")
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        domain.resume()
        self.until(domain, GuestState.RUNNING, "runs")

    @operation(Feature.SNAPSHOT)
    def snapshot(self, name: str, tag: str) -> None:
        """Keep a guest's disks, and its memory when it runs, under a name."""
        made = xml.element("domainsnapshot", xml.element("name", content=tag))
        self.domain(name).snapshotCreateXML(xml.text(made), 0)

    @operation(Feature.SNAPSHOT)
    def revert(self, name: str, tag: str) -> None:
        """Go back to a snapshot; the guest runs afterwards."""
        domain = self.domain(name)
        snapshot = domain.snapshotLookupByName(tag)
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING
        try:
            domain.revertToSnapshot(snapshot, flags)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_SNAPSHOT_REVERT_RISKY:
                raise
            # Its devices are others by now: it has to be started with those it had.
            domain.revertToSnapshot(snapshot, flags | libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_FORCE)
        self.until(domain, GuestState.RUNNING, "runs")

    @operation(Feature.RESIZE)
    def resize(self, name: str, *, memory_mib: int, cpus: int) -> None:
        """Give a guest another size; it is restarted for it."""

        def change(root: xml.Element) -> None:
            for tag in ("memory", "currentMemory"):
                xml.set_text(root, tag, str(memory_mib * 1024))
                root.find(tag).set("unit", "KiB")  # type: ignore[union-attr]  # just set
            xml.set_text(root, "vcpu", str(cpus))
            root.find("vcpu").attrib.pop("current", None)  # type: ignore[union-attr]  # just set

        check_size(memory_mib, cpus)
        domain = self.domain(name)
        self._end(domain)
        self.begin(self.redefine(domain, change))

    # Its line ----------------------------------------------------------------------------

    @operation(Feature.CONSOLE_SERIAL_INTERACTIVE)
    def console(self, name: str) -> Console:
        """The guest's serial line; whoever had it before loses it."""
        return StreamConsole(self.link.conn, self.domain(name))

    @operation(Feature.CONSOLE_SERIAL_LOG)
    def console_log(self, name: str, limit_bytes: int = 1 << 20) -> bytes:
        """The last bytes that the guest wrote on its serial line since it was started."""
        self.domain(name)
        return self.store.log_tail(f"{name}.log", limit_bytes)
