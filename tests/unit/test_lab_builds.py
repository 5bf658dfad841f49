# SPDX-License-Identifier: Apache-2.0
"""What the lab builds once stays in the cache, and what nobody uses any more does not."""

import os

from ci import proc
from nodes.lab import vcenter as lab
from nodes.lab.apis import ApiHost


def built(monkeypatch, tmp_path, sources, age_s):
    """The simulator of some sources, last used so long ago; no compiler runs."""
    folder = tmp_path / "sources"
    folder.mkdir(exist_ok=True)
    (folder / "main.go").write_text(sources)
    calls = []

    def build(argv, **_options):
        calls.append(argv)
        target = argv[argv.index("-o") + 1]
        with open(target, "w") as file:  # noqa: PTH123 - the compiler's
            file.write(sources)

    monkeypatch.setattr(lab, "SOURCES", folder)
    monkeypatch.setattr(lab, "compiler", lambda *_: "go")
    monkeypatch.setattr(proc, "run", build)
    made = lab.binary(lambda _sentence: None, tmp_path)
    used = made.stat().st_mtime - age_s
    os.utime(made, (used, used))
    return made, len(calls)


def test_two_builds_stay_those_that_were_used_last(monkeypatch, tmp_path):
    first, _ = built(monkeypatch, tmp_path, "one", 300)
    second, _ = built(monkeypatch, tmp_path, "two", 200)
    assert built(monkeypatch, tmp_path, "one", 100) == (first, 0), "it is in the cache"
    third, calls = built(monkeypatch, tmp_path, "three", 0)
    assert calls == 1
    assert sorted(first.parent.iterdir()) == sorted([first, third])
    assert not second.exists()


def test_a_builder_at_work_loses_nothing(monkeypatch, tmp_path):
    other = tmp_path / "vcsim" / f"{'0' * 16}.4711"
    other.parent.mkdir()
    other.write_text("half of it")
    for number in range(4):
        built(monkeypatch, tmp_path, str(number), 100 - number)
    assert other.read_text() == "half of it"


def test_temporary_files_of_the_simulator_lie_in_its_own_folder(tmp_path):
    host = ApiHost(tmp_path / "host")
    program = lab.program(tmp_path / "vcsim", host)
    assert program.env == {"TMPDIR": str(host.scratch)}
    assert host.scratch.parent == host.folder
