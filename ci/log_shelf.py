# SPDX-License-Identifier: Apache-2.0
"""Where logs are kept for all processes: a directory that they share, or an S3 bucket.

One `Shelf` knows one prefix and nothing outside it; its keys are `BUILD/ATTEMPT/...` and are
checked here, whoever made them. `ci/log_publish.py` writes to it, `ci/log_mirror.py` reads.
fsspec does the work, for S3 by obstore, which is imported only when it is chosen. Nothing here
is tried again: who calls decides how long to wait.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import fsspec

from ci import settings
from ci.errors import ConfigError, StorageError
from ci.layout import LogStoreOptions, Service

TIMEOUT_S = 30
CONNECT_S = 3
TRIES = 2
RETRY_S = 10
REMOVED_AT_ONCE = 500
SMALL_BYTES = 4 * 1024 * 1024
# S3 allows 1024 bytes, the prefix included.
LONGEST_KEY = 700
PLAIN = " !$&'()+,;=@~"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_REFUSED = ("PermissionDeniedError", "UnauthenticatedError", "PermissionError")
T = TypeVar("T")


class Shelf:
    """Files below one prefix. Thread-safe; every call may be repeated.

    Every method raises StorageError when the store is away or refuses us, retryable where
    waiting may help.

    Args:
        filesystem: Of fsspec.
        root: Directory, or bucket and prefix, without a slash at its end.
        name: What people call it, without secrets.
        faults: Further errors that the file system raises.
    """

    def __init__(
        self,
        filesystem: Any,
        root: str,
        name: str,
        faults: tuple[type[Exception], ...] = (),
    ) -> None:
        self.name = name
        self._fs = filesystem
        self._root = root
        self._faults: tuple[type[Exception], ...] = (OSError, ValueError, *faults)

    def write(self, key: str, data: bytes) -> None:
        """Keep a small file; readers see it whole or not at all."""
        place = self._place(key)
        with self._told(f"{key} cannot be written"):
            self._whole(place, lambda draft: self._fs.pipe_file(draft, data))

    def put(self, key: str, file: Path) -> None:
        """Keep a copy of a local file of any size; readers see it whole or not at all."""
        if file.stat().st_size <= SMALL_BYTES:
            self.write(key, file.read_bytes())
            return
        place = self._place(key)
        with self._told(f"{key} cannot be written"), TemporaryDirectory() as folder:
            # obstore takes no control characters in the name of a local file.
            plain = Path(folder) / "file"
            plain.symlink_to(file.absolute())
            self._whole(place, lambda draft: self._fs.put_file(str(plain), draft))

    def read(self, key: str, start: int | None = None, end: int | None = None) -> bytes | None:
        """The bytes of a file, or from `start` up to `end`; None where there is none."""
        place = self._place(key)
        with self._told(f"{key} cannot be read"):
            try:
                found: bytes = self._fs.cat_file(place, start=start, end=end)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                if _no_bucket(error):
                    raise
                return None
            return found

    def kept_at(self, key: str) -> datetime | None:
        """When a file was written, aware; None where there is none."""
        place = self._place(key)
        with self._told(f"{key} cannot be read"):
            self._fs.invalidate_cache()
            try:
                info = self._fs.info(place)
            except FileNotFoundError:
                return None
        found = info.get("LastModified") or info.get("last_modified") or info.get("mtime")
        if isinstance(found, int | float):
            return datetime.fromtimestamp(found, UTC)
        if isinstance(found, str):
            return datetime.fromisoformat(found)
        return found if isinstance(found, datetime) else None

    def remove(self, *parts: str) -> None:
        """Remove everything of a build, of an attempt, or below one of its folders."""
        place = self._place("/".join(parts))
        with self._told(f"{place} cannot be removed"):
            if self._is_local:
                with suppress(FileNotFoundError):
                    shutil.rmtree(place)  # follows no link
                return
            self._fs.invalidate_cache()
            files = [self._strip(one) for one in self._fs.find(place)]
            # What was listed is looked at again: nothing outside the folder is removed.
            files = [one for one in files if one.startswith(f"{place}/")]
            for start in range(0, len(files), REMOVED_AT_ONCE):
                self._fs.rm(files[start : start + REMOVED_AT_ONCE])

    def builds(self) -> Iterator[str]:
        """Ids of the builds that have files here."""
        return self.below("")

    def below(self, *parts: str) -> Iterator[str]:
        """Names in a folder that can be ids, in no order."""
        place = self._place("/".join(parts)) if any(parts) else self._root
        with self._told("the store cannot be listed"):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(place, detail=False)
            except FileNotFoundError as error:
                if _no_bucket(error):
                    raise
                found = []
        names = (self._strip(one).rpartition("/")[2] for one in found)
        return (name for name in names if _ID.fullmatch(name))

    def probe(self) -> str:
        """Write, read and remove a small file.

        Returns:
            What was found, one sentence.

        Raises:
            ConfigError: It refuses us, or it does not exist.
            StorageError: It is away.
        """
        key = "probe/hypervouch/probe.txt"
        try:
            self.write(key, b"hypervouch\n")
            same = self.read(key) == b"hypervouch\n"
            self.remove("probe")
        except StorageError as error:
            if error.retryable:
                raise
            raise ConfigError(error.message, hint=error.hint) from error
        if not same:
            raise ConfigError(f"{self.name} does not give back what was written to it")
        return f"{self.name} can be written and read"

    @property
    def _is_local(self) -> bool:
        protocol = self._fs.protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def _strip(self, place: str) -> str:
        return str(self._fs._strip_protocol(place)).rstrip("/")  # noqa: SLF001 - its own name

    def _place(self, key: str) -> str:
        """The full name of a key, which is made of plain parts only."""
        parts = key.split("/")
        sound = all(part not in {"", ".", ".."} and "\0" not in part for part in parts)
        if not sound or not all(_ID.fullmatch(part) for part in parts[:2]):
            raise StorageError(f"{key!r} cannot name a log")
        if self._is_local:
            return f"{self._root}/{key}"
        plain = "/".join(quote(os.fsencode(part), safe=PLAIN) for part in parts)
        if len(plain) > LONGEST_KEY:
            digest = hashlib.sha256(os.fsencode(key)).hexdigest()
            plain = "/".join([*parts[:2], "long", digest])
        return f"{self._root}/{plain}"

    def _whole(self, place: str, write: Callable[[str], object]) -> None:
        """Write a file so that it appears at once; S3 does so by itself."""
        if not self._is_local:
            write(place)
            return
        folder, _, name = place.rpartition("/")
        draft = f"{folder}/.{name[:200]}.new"
        write(draft)
        Path(draft).replace(place)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Every error of the store becomes one of ours."""
        try:
            yield
        except StorageError:
            raise
        except self._faults as error:
            raise _fault(self.name, what, error) from error


def open_shelf(service: Service) -> Shelf | None:
    """The shelf that the configuration names; None where logs stay in the state directory.

    Raises:
        ConfigError: A secret is missing, or what S3 needs is not installed.
    """
    if not service.log_store:
        return None
    parsed = urlsplit(service.log_store)
    if parsed.scheme == "file":
        return Shelf(
            fsspec.filesystem("file", auto_mkdir=True, use_listings_cache=False),
            str(Path(parsed.path)),
            service.log_store,
        )
    root = f"{parsed.netloc}{parsed.path}".rstrip("/")
    return _s3(service.log_store_options, root, service.log_store)


def _s3(options: LogStoreOptions, root: str, name: str) -> Shelf:
    try:
        from obstore.exceptions import BaseError  # noqa: PLC0415 - only where S3 is chosen
        from obstore.fsspec import FsspecStore  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "log-store is an S3 bucket, and the package obstore is not installed",
            hint="install hypervouch[s3]",
        ) from error
    config: dict[str, Any] = {"region": options.region}
    if options.endpoint:
        config |= {"endpoint": options.endpoint, "virtual_hosted_style_request": False}
    for key in ("access_key_id", "secret_access_key"):
        reference = getattr(options, key)
        if reference is not None:
            config[key] = settings.resolve_secret(reference)
    make: Any = FsspecStore  # its keys are typed one by one
    made = make(
        "s3",
        config=config,
        client_options={
            "allow_http": options.endpoint.startswith("http:"),
            "timeout": f"{TIMEOUT_S}s",
            "connect_timeout": f"{CONNECT_S}s",
        },
        retry_config={"max_retries": TRIES, "retry_timeout": timedelta(seconds=RETRY_S)},
        skip_instance_cache=True,
    )
    return Shelf(made, root, name, (BaseError,))


def _no_bucket(error: Exception) -> bool:
    return "NoSuchBucket" in str(error)


def _fault(name: str, what: str, error: Exception) -> StorageError:
    said = str(error)
    if _no_bucket(error):
        return StorageError(
            f"{name}: there is no such bucket",
            hint="make the bucket, or correct log-store",
        )
    refused = type(error).__name__ in _REFUSED or any(
        word in said for word in ("403 Forbidden", "401 Unauthorized", "InvalidAccessKeyId")
    )
    if refused:
        return StorageError(
            f"{name} refuses us: {what}",
            hint="check the keys of log-store-options and their rights, or the directory's owner",
        )
    first = said.strip().splitlines()[0][:300] if said.strip() else type(error).__name__
    return StorageError(
        f"{name}: {what}: {first}",
        hint="check that the log store is up and has room",
        retryable=True,
    )
