# SPDX-License-Identifier: Apache-2.0
"""What the kit says when a real Gerrit cannot be had."""

import re
from pathlib import Path

import pytest

from ci.sandbox.real import jars as gerrit_jars
from ci.sandbox.real.jars import GerritFailed, GerritMissing
from ci.sandbox.real.releases import DEFAULT, NEWEST, RELEASES, Release
from ci.sandbox.real.server import RealGerrit, main
from ci.sandbox.real.site import Site, SiteState


@pytest.fixture(autouse=True)
def _bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("release", [DEFAULT, NEWEST])
def test_a_missing_java_is_named(release: Release):
    wanted = f"Java {release.least_java} or newer"
    with pytest.raises(GerritMissing, match=wanted):
        gerrit_jars.find_java(release.least_java)
    with pytest.raises(GerritMissing, match=wanted):
        gerrit_jars.require_tools(release)


@pytest.mark.parametrize("release", [DEFAULT, NEWEST])
def test_a_missing_maven_is_named(release: Release):
    with pytest.raises(GerritMissing, match="Maven"):
        gerrit_jars.class_path(release)


@pytest.mark.parametrize("release", [DEFAULT, NEWEST])
def test_a_jar_with_other_content_is_refused_and_removed(release: Release):
    directory = gerrit_jars.cache_dir() / "jars"
    directory.mkdir()
    for jar in release.jars:
        (directory / jar.file_name).write_bytes(b"something else")
    name = f"gerrit-plugin-api-{release.version}.jar"
    with pytest.raises(GerritFailed, match=rf"{re.escape(name)} .*SHA-256"):
        gerrit_jars.class_path(release)
    assert not (directory / name).exists()


def _java(path: Path, major: int) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(str(major))
    path.chmod(0o755)


def test_a_newer_java_beside_the_default_one_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    old, new = (tmp_path / "jvm" / name / "bin" / "java" for name in ("a-17", "b-25"))
    _java(old, 17)
    _java(new, 25)
    (tmp_path / "java").symlink_to(old)
    monkeypatch.setattr(gerrit_jars, "_java_major", lambda path: int(path.read_text()))
    assert gerrit_jars.find_java(DEFAULT.least_java).executable == old
    assert gerrit_jars.find_java(NEWEST.least_java).executable == new
    with pytest.raises(GerritMissing, match=r"Java 99 or newer \(found: 17, 17, 25;"):
        gerrit_jars.find_java(99)


def test_every_jar_is_pinned():
    assert set(RELEASES) == {"3.10.2", "3.13.5"}
    for release in RELEASES.values():
        sums = [jar.sha256 for jar in release.jars]
        assert all(re.fullmatch(r"[0-9a-f]{64}", one) for one in sums)
        assert len(set(sums)) == len(sums) == 6


def test_a_site_keeps_the_version_it_was_made_with(tmp_path: Path):
    gerrit = RealGerrit(tmp_path / "site", version=NEWEST.version)
    assert gerrit.version == "3.13.5"
    assert RealGerrit(tmp_path / "other").version == "3.10.2"
    gerrit.site.lock_file.touch()
    gerrit.site.save(SiteState(ssh_port=1, http_port=2))
    with pytest.raises(GerritFailed, match=r"site of Gerrit 3\.10\.2, not 3\.13\.5"):
        gerrit.start()


def test_only_known_versions_are_asked_for(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    with pytest.raises(SystemExit):
        main(["start", "--site", str(tmp_path), "--gerrit-version", "2.16"])
    assert "invalid choice: '2.16'" in capsys.readouterr().err


def test_a_foreign_directory_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(GerritFailed, match="holds something else"):
        _ = Site(tmp_path).lock_file
    assert (tmp_path / "thesis.txt").read_text() == "mine"
