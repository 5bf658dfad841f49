# SPDX-License-Identifier: Apache-2.0
"""Debian packages fetched by the host's apt into a folder, as any user, nothing installed.

apt is given an empty list of installed packages of its own, so it fetches every dependency,
and neither reads nor changes what the host has.
"""

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ci import proc
from ci.errors import ConfigError

_URI = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+)(?: \S*)?$")


@dataclass(frozen=True, kw_only=True)
class Package:
    """One file that apt would fetch."""

    file_name: str
    size_bytes: int

    @property
    def name(self) -> str:
        """The package's name."""
        return self.file_name.split("_", 1)[0]

    @property
    def version(self) -> str:
        """Its version; apt writes the colon of an epoch as %3a."""
        return self.file_name.split("_", 2)[1].replace("%3a", ":")


def parse_uris(text: str) -> tuple[Package, ...]:
    """Read what `apt-get --print-uris` says, in its order; other lines are skipped."""
    matches = (_URI.match(line) for line in text.splitlines())
    return tuple(
        Package(file_name=match["file"], size_bytes=int(match["size"]))
        for match in matches
        if match
    )


class PackageSource:
    """The host's apt with a private state under `folder`.

    One builder at a time may use a folder; the caller holds the lock.

    Args:
        folder: Where packages and the state are kept.
        arch: Debian's name of another architecture than the host's own, with a folder of its
            own: no package of it is ever installed.
    """

    def __init__(self, folder: Path, arch: str = "") -> None:
        self._folder = folder
        self._arch = arch
        self._archives = folder / "archives"
        self._config = folder / "apt.conf"

    def fetch(self, names: Iterable[str]) -> tuple[Path, ...]:
        """Download packages with all they depend on; files already there are kept.

        The host's package lists are used as they are. Where they are absent or out of date,
        fresh ones are fetched into the private state and everything is tried once more.

        Raises:
            ConfigError: apt knows no such package, or cannot reach its mirror.
        """
        wanted = list(names)
        self._set_up(private_lists=bool(self._arch))
        try:
            return self._fetch(wanted)
        except proc.CommandFailed:
            self._set_up(private_lists=True)
        # One of the host's other sources may fail; what counts is whether ours can be had.
        with contextlib.suppress(proc.CommandFailed):
            self._apt("update", timeout_s=300)
        try:
            return self._fetch(wanted)
        except proc.CommandFailed as error:
            raise ConfigError(
                f"apt cannot fetch the packages of the node image: {error.message}",
                hint="check that `apt-get update` works on this machine",
            ) from error

    def _fetch(self, names: list[str]) -> tuple[Path, ...]:
        # Asked against an empty folder, apt lists all files and not only those still missing.
        empty = f"Dir::Cache::archives={self._folder}/empty"
        listing = self._apt("-o", empty, "--print-uris", "-qq", "-y", "install", *names)
        packages = parse_uris(listing.text)
        self._apt("--download-only", "-qq", "-y", "install", *names, timeout_s=1800)
        files = tuple(self._archives / package.file_name for package in packages)
        missing = [path.name for path in files if not path.is_file()]
        if missing or not files:
            raise ConfigError(
                f"apt said it fetched {len(files)} packages, {missing[:3]} are not there",
                hint=f"remove {self._folder} and build again",
            )
        return files

    def _set_up(self, *, private_lists: bool) -> None:
        for folder in ("archives", "empty", "lists"):
            (self._folder / folder / "partial").mkdir(parents=True, exist_ok=True)
        (self._folder / "status").touch()
        lines = [
            "#clear APT::Update::Post-Invoke;",
            "#clear APT::Update::Post-Invoke-Success;",
            "#clear DPkg::Post-Invoke;",
            f'Dir::State::status "{self._folder}/status";',
            f'Dir::State::extended_states "{self._folder}/extended_states";',
            f'Dir::Cache::archives "{self._archives}";',
            'Dir::Cache::pkgcache "";',
            'Dir::Cache::srcpkgcache "";',
            'Debug::NoLocking "1";',
            'APT::Install-Recommends "0";',
            'APT::Sandbox::User "root";',
        ]
        if self._arch:
            lines += [f'APT::Architecture "{self._arch}";', "#clear APT::Architectures;"]
            lines += [f'APT::Architectures {{ "{self._arch}"; }};']
        if private_lists:
            lines.append(f'Dir::State::lists "{self._folder}/lists";')
        self._config.write_text("\n".join(lines) + "\n")

    def _apt(self, *args: str, timeout_s: float = 120) -> proc.Completed:
        environment = {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        argv = ["apt-get", "-c", str(self._config), *args]
        return proc.run(argv, timeout_s=timeout_s, env=environment)
