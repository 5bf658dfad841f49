# SPDX-License-Identifier: Apache-2.0
"""What the kit says when a real Gerrit cannot be had."""

from pathlib import Path

import pytest

from ci.sandbox.real import jars as gerrit_jars
from ci.sandbox.real.jars import GerritFailed, GerritMissing
from ci.sandbox.real.site import Site


@pytest.fixture(autouse=True)
def _bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_missing_java_is_named():
    with pytest.raises(GerritMissing, match="Java 17 or newer"):
        gerrit_jars.find_java()
    with pytest.raises(GerritMissing, match="Java 17 or newer"):
        gerrit_jars.require_tools()


def test_a_missing_maven_is_named():
    with pytest.raises(GerritMissing, match="Maven"):
        gerrit_jars.class_path()


def test_a_jar_with_other_content_is_refused_and_removed():
    directory = gerrit_jars.cache_dir() / "jars"
    directory.mkdir()
    for jar in gerrit_jars.JARS:
        (directory / jar.file_name).write_bytes(b"something else")
    with pytest.raises(GerritFailed, match=r"gerrit-plugin-api-3\.10\.2\.jar .*SHA-256"):
        gerrit_jars.class_path()
    assert not (directory / "gerrit-plugin-api-3.10.2.jar").exists()


def test_a_foreign_directory_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(GerritFailed, match="holds something else"):
        _ = Site(tmp_path).lock_file
    assert (tmp_path / "thesis.txt").read_text() == "mine"
