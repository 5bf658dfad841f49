# SPDX-License-Identifier: Apache-2.0
"""Files on a libvirt host: one directory, a storage pool of libvirt's, reached through libvirt.

It works the same on this machine and over SSH. A guest's files are named `GUEST.what`, volumes
have no dot in their names, so whose a file is can be told from its name.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import libvirt

from nodes.hypervisors import libvirt_errors
from nodes.hypervisors.libvirt_xml import element, parse, text

MIB = 1 << 20
_POOL_HELD, _POOL_TURNS = "asynchronous jobs running", 50
# qemu-img measures how long keys take to be derived; on a processor that others use it cannot.
_CPU_BUSY, _CPU_TURNS = "Unable to get accurate CPU usage", 5
_PAUSE_S = 0.1
_LOGS_ASIDE = 3


class Store:
    """The directory of one connection; safe from several threads."""

    def __init__(self, conn: Any, directory: str) -> None:
        """Nothing is made.

        Args:
            conn: libvirt's connection.
            directory: Path on the host.
        """
        self.directory = directory.rstrip("/")
        self._conn = conn
        self._pool: Any = None
        self._lock = threading.Lock()
        self._pause = threading.Event()

    def path(self, name: str) -> str:
        """Where a file is on the host."""
        return f"{self.directory}/{name}"

    def pool(self) -> Any:
        """The pool, made and started when it has to be."""
        with self._lock:
            if self._pool is None or not self._pool.isActive():
                self._pool = self._find() or self._make()
            return self._pool

    def _find(self) -> Any:
        for pool in self._conn.listAllStoragePools():
            target = parse(pool.XMLDesc()).findtext("./target/path", "")
            if target.rstrip("/") == self.directory:
                if not pool.isActive():
                    pool.create(libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD)
                return pool
        return None

    def _make(self) -> Any:
        mark = hashlib.sha256(self.directory.encode()).hexdigest()[:8]
        xml = element(
            "pool",
            element("name", content=f"hypervouch-{mark}"),
            element("target", element("path", content=self.directory)),
            type="dir",
        )
        flags = libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD
        return self._conn.storagePoolCreateXML(text(xml), flags)

    def refresh(self) -> None:
        """Let libvirt see what others put there or took away."""
        self._unless_busy(self.pool().refresh)

    def names(self) -> list[str]:
        """All files, as they are now."""
        self.refresh()
        return [str(name) for name in self.pool().listVolumes()]

    def find(self, name: str) -> Any:
        """Libvirt's volume of a file; None where there is none."""
        for again in (True, False):
            try:
                return self.pool().storageVolLookupByName(name)
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
                    raise
            if again:
                self.refresh()
        return None

    def create(
        self,
        name: str,
        size_bytes: int,
        form: str = "raw",
        *,
        encryption: ET.Element | None = None,
        over: str = "",
    ) -> Any:
        """Make an empty file of a format; an older one of that name is an error.

        Args:
            name: Its name.
            size_bytes: What a guest sees.
            form: `raw` or `qcow2`.
            encryption: libvirt's element of that name.
            over: Path of a qcow2 file that shows through where nothing was written.
        """
        target = element("target", element("format", type=form))
        if encryption is not None:
            target.append(encryption)
        xml = element(
            "volume",
            element("name", content=name),
            element("capacity", content=str(size_bytes), unit="bytes"),
            element("allocation", content="0", unit="bytes"),
            target,
        )
        if over:
            below = element("path", content=over)
            xml.append(element("backingStore", below, element("format", type="qcow2")))
        return self._unless_busy(lambda: self.pool().createXML(text(xml), 0))

    def put(self, name: str, content: bytes | Path, *, form: str = "raw") -> str:
        """Write a file, in place of an older one; returns its path on the host."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        self.remove(name)
        volume = self.create(name, max(size, 1), form)
        stream = self._conn.newStream(0)
        volume.upload(stream, 0, size, 0)
        blocks = _pieces(content)
        try:
            stream.sendAll(lambda _stream, _count, source: next(source, b""), blocks)
            stream.finish()
        except BaseException:
            blocks.close()
            self._abort(stream)
            raise
        return self.path(name)

    def get(self, name: str, *, offset: int = 0, count: int = 0) -> bytes:
        """Bytes of a file; `count` 0 reads to its end, a missing file is empty."""
        volume = self.find(name)
        if volume is None:
            return b""
        stream = self._conn.newStream(0)
        volume.download(stream, offset, count, 0)
        found = bytearray()
        try:
            stream.recvAll(lambda _stream, data, into: into.extend(data), found)
            stream.finish()
        except BaseException:
            self._abort(stream)
            raise
        return bytes(found)

    def log_tail(self, name: str, limit_bytes: int) -> bytes:
        """The last bytes of a log of virtlogd's, which puts full ones aside: `NAME.0` is newer."""
        there, found = set(self.names()), b""
        for file in (name, *(f"{name}.{number}" for number in range(_LOGS_ASIDE))):
            wanted = limit_bytes - len(found)
            if wanted <= 0 or file not in there:
                break
            found = self.get(file, offset=max(0, self.size(file) - wanted))[-wanted:] + found
        return found

    def remove_log(self, name: str) -> None:
        """Remove a log with all of it that was put aside; repeatable."""
        for file in self.names():
            if file == name or file.startswith(f"{name}."):
                self.remove(file)

    def size(self, name: str) -> int:
        """Bytes of a file as they can be read; 0 where there is none."""
        self.refresh()
        volume = self.find(name)
        if volume is None:
            return 0
        xml = parse(volume.XMLDesc())
        return int(xml.findtext("physical") or xml.findtext("capacity") or 0)

    def remove(self, name: str) -> None:
        """Remove a file; repeatable."""
        volume = self.find(name)
        if volume is None:
            return
        try:
            self._unless_busy(lambda: volume.delete(0))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_VOL:
                raise

    def remove_of(self, guest: str) -> None:
        """Remove all files of a guest; repeatable."""
        for name in self.names():
            if name.startswith(f"{guest}."):
                self.remove(name)

    def _abort(self, stream: Any) -> None:
        try:
            stream.abort()
        except libvirt.libvirtError:
            return  # it is over already

    def _unless_busy(self, call: Callable[[], Any]) -> Any:
        """Call; a pool that another upload holds, or a busy processor, is asked again for a while.

        Raises:
            TransientFault: It stays busy.
        """
        held = measured = 0
        while True:
            try:
                return call()
            except libvirt.libvirtError as error:
                said = f"{error.get_error_message()} {error}"
                held += _POOL_HELD in said
                measured += _CPU_BUSY in said
                if _POOL_HELD not in said and _CPU_BUSY not in said:
                    raise
                if held >= _POOL_TURNS or measured >= _CPU_TURNS:
                    doing = f"store something in {self.directory}"
                    raise libvirt_errors.fault(error, doing) from error
            self._pause.wait(_PAUSE_S)


def _pieces(content: bytes | Path) -> Generator[bytes, None, None]:
    """A content in pieces that libvirt's streams take whole."""
    size = 256 * 1024 - 64
    if isinstance(content, bytes):
        for at in range(0, len(content), size):
            yield content[at : at + size]
        return
    with content.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while piece := file.read(size):
            yield piece
