# SPDX-License-Identifier: Apache-2.0
"""What a real Gerrit is made of: a Java, and jars that Maven fetches once into the cache.

The war is not in Maven's central repository, but two fat jars hold the whole server between
them (plugin-api: server, sshd, httpd, lucene, launcher; acceptance-framework: init, daemon,
Jetty), and BouncyCastle completes them.
"""

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ci import proc
from ci.errors import HypervouchError
from ci.sandbox.real.releases import DEFAULT, Jar, Release


class GerritMissing(HypervouchError):
    """This machine cannot run a real Gerrit; the text names what to install."""


class GerritFailed(HypervouchError):
    """The real Gerrit did not do as asked; the text says what and shows its log's end."""


def cache_dir() -> Path:
    """`hypervouch/gerrit` in the user's cache directory, made if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base) / "hypervouch" / "gerrit"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold an exclusive lock on a file until the block ends; yields its descriptor."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle.fileno()


@dataclass(frozen=True, kw_only=True)
class Java:
    """A Java that is new enough."""

    executable: Path
    major: int


def find_java(least: int = DEFAULT.least_java) -> Java:
    """The first of JAVA_HOME's, PATH's and its neighbours' Java that is new enough.

    Args:
        least: The oldest major version that will do.

    Raises:
        GerritMissing: There is none.
    """
    tried: list[str] = []
    for executable in _java_candidates():
        major = _java_major(executable)
        if major >= least:
            return Java(executable=executable.resolve(), major=major)
        tried.append(str(major))
    raise GerritMissing(
        f"Java {least} or newer (found: {', '.join(tried) or 'none'}; "
        f"install openjdk-{least}-jre-headless or newer, or set JAVA_HOME)"
    )


def _java_candidates() -> Iterator[Path]:
    home = os.environ.get("JAVA_HOME")
    if home and (Path(home) / "bin" / "java").exists():
        yield Path(home) / "bin" / "java"
    on_path = shutil.which("java")
    if on_path:
        yield Path(on_path)
        parents = Path(on_path).resolve().parents
        for above in parents[2:3]:
            yield from sorted(above.glob("*/bin/java"))


def _java_major(executable: Path) -> int:
    try:
        done = proc.run([str(executable), "-version"], check=False)
    except proc.CommandFailed:
        return 0
    found = re.search(r'version "(\d+)', done.stderr.decode("utf-8", "replace") + done.text)
    return int(found.group(1)) if found else 0


def require_tools(release: Release = DEFAULT) -> None:
    """Check that this machine can run a real Gerrit; cheap when the jars are cached.

    Raises:
        GerritMissing: Something is not installed.
    """
    find_java(release.least_java)
    for tool in ("git", "ssh", "ssh-keygen"):
        if shutil.which(tool) is None:
            raise GerritMissing(f"{tool} (install git and openssh-client)")
    if _missing_jars(release) and shutil.which("mvn") is None:
        raise GerritMissing("Maven, which fetches Gerrit's jars (install maven)")


def class_path(release: Release = DEFAULT) -> list[Path]:
    """The checked jars, fetched the first time (about 90 MB).

    Raises:
        GerritMissing: Maven is not installed, or could not resolve them.
        GerritFailed: A jar's content is not the one pinned here.
    """
    with locked(cache_dir() / "jars.lock"):
        if missing := _missing_jars(release):
            _fetch(release, missing)
        for jar in release.jars:
            _check(jar)
        return [_version_jar(release), *(_path_of(jar) for jar in release.jars)]


def _path_of(jar: Jar) -> Path:
    return cache_dir() / "jars" / jar.file_name


def _missing_jars(release: Release) -> list[Jar]:
    return [jar for jar in release.jars if not _path_of(jar).is_file()]


def _check(jar: Jar) -> None:
    path = _path_of(jar)
    with path.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    if digest != jar.sha256:
        path.unlink()
        raise GerritFailed(
            f"{jar.file_name} from Maven is not the pinned one (SHA-256 {digest}); "
            "delete it from the Maven repository on this machine and try again"
        )


def _fetch(release: Release, missing: list[Jar]) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise GerritMissing("Maven, which fetches Gerrit's jars (install maven)")
    with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
        pom = Path(scratch) / "pom.xml"
        pom.write_text(_pom(missing))
        output = Path(scratch) / "jars"
        done = proc.run(
            [
                *(maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"),
                f"-DoutputDirectory={output}",
            ],
            timeout_s=900,
            check=False,
        )
        if done.status != 0:
            said = done.text + done.stderr.decode("utf-8", "replace")
            errors = [s for s in said.splitlines() if "ERROR" in s][:4]
            raise GerritMissing(
                f"Gerrit {release.version}'s jars, which Maven could not fetch:\n"
                + "\n".join(errors)
            )
        (cache_dir() / "jars").mkdir(exist_ok=True)
        for jar in missing:
            (output / jar.file_name).replace(_path_of(jar))


def _pom(jars: list[Jar]) -> str:
    # Gerrit's jars are complete in themselves: what their poms name is not wanted again.
    dependencies = "".join(
        f"<dependency><groupId>{jar.group}</groupId><artifactId>{jar.artifact}</artifactId>"
        f"<version>{jar.version}</version><exclusions><exclusion><groupId>*</groupId>"
        "<artifactId>*</artifactId></exclusion></exclusions></dependency>"
        for jar in jars
    )
    return (
        "<project><modelVersion>4.0.0</modelVersion><groupId>local</groupId>"
        "<artifactId>real-gerrit</artifactId><version>1</version><packaging>pom</packaging>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )


def _version_jar(release: Release) -> Path:
    """Without the resource that the war carries the server calls itself `(dev)`."""
    path = cache_dir() / "jars" / f"version-{release.version}.jar"
    if not path.exists():
        fresh = path.with_suffix(".new")
        with zipfile.ZipFile(fresh, "w") as archive:
            entry = zipfile.ZipInfo("com/google/gerrit/common/Version", (2024, 1, 1, 0, 0, 0))
            archive.writestr(entry, release.version + "\n")
        fresh.replace(path)
    return path
