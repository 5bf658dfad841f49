# SPDX-License-Identifier: Apache-2.0
"""`hypervouch lab`: names, what is missing, what it prints."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ci.cli import main
from ci.cli_lab import inventory, suites
from ci.model.result import Grade
from nodes.images.build import Progress
from nodes.lab import table
from nodes.lab.table import LAB, LabNode, Reach
from nodes.providers.static import StaticOptions


class Pretended(LabNode):
    """A node that is a file."""

    def __init__(self, name: str, lacks: tuple[str, ...] = ()) -> None:
        super().__init__(name, f"{name}, pretended")
        self._lacks = lacks
        self.built = 0

    def lacks(self) -> tuple[str, ...]:
        return self._lacks

    def build(self, say: Progress) -> None:
        say("building")
        self.built += 1

    def up(self, folder: Path, say: Progress) -> None:
        say("starting")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "up").touch()

    def down(self, folder: Path) -> None:
        (folder / "up").unlink(missing_ok=True)

    def reach(self, folder: Path) -> Reach | None:
        if not (folder / "up").exists():
            return None
        return Reach(
            urls=("xl+ssh://root@127.0.0.1:2022",),
            grade=Grade.NESTED,
            port=2022,
            key_file=folder / "client_key",
            known_hosts=folder / "known_hosts",
            facts={"xen": "4.17"},
        )


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> dict[str, LabNode]:
    nodes: dict[str, LabNode] = {"xen": Pretended("xen"), "old": Pretended("old", ("old-tool",))}
    monkeypatch.setattr(table, "LAB", nodes)
    return nodes


def run(*words: str, state: Path, status: int = 0) -> str:
    done = CliRunner().invoke(main, ["lab", *words, "--state", str(state)])
    assert done.exit_code == status, done.output
    return done.output


def test_up_twice_and_down_twice_are_no_mistake(lab: dict[str, LabNode], tmp_path: Path):
    for _ in range(2):
        assert "key-file" in run("up", "xen", state=tmp_path)
    assert "xl+ssh://root@127.0.0.1:2022" in run("status", "xen", state=tmp_path)
    for _ in range(2):
        run("down", "xen", state=tmp_path)
    assert "hypervouch lab up xen" in run("status", "xen", state=tmp_path)


def test_what_is_missing_is_told_before_anything_is_started(
    lab: dict[str, LabNode], tmp_path: Path
):
    said = run("up", "xen", "old", state=tmp_path, status=1)
    assert "old-tool" in said
    assert "apt-get install" in said
    assert not list(tmp_path.iterdir())
    assert "needs old-tool" in run("status", "old", state=tmp_path)


def test_an_unknown_name_is_told_with_the_known_ones(tmp_path: Path):
    said = run("up", "esx", state=tmp_path, status=1)
    assert "there is no lab node esx" in said
    assert "libvirt" in said


def test_status_as_json_is_for_programs(lab: dict[str, LabNode], tmp_path: Path):
    run("up", "xen", state=tmp_path)
    up, down = json.loads(run("status", "--json", state=tmp_path))
    assert up["hypervisors"] == ["xl+ssh://root@127.0.0.1:2022"]
    assert up["grade"] == "nested"
    assert up["facts"] == {"xen": "4.17"}
    assert up["suites"][0].startswith("hypervouch suite compute --hypervisor ")
    assert down == {"name": "old", "title": "old, pretended", "up": False, "lacks": ["old-tool"]}


def test_the_inventory_block_is_a_provider(lab: dict[str, LabNode], tmp_path: Path):
    run("up", "xen", state=tmp_path)
    reach = lab["xen"].reach(tmp_path / "xen")
    assert reach is not None
    (block,) = yaml.safe_load(inventory("xen", reach))
    words = block["provider"]
    assert words.pop("driver") == "static"
    options = StaticOptions.model_validate(words)
    assert (options.port, options.grade) == (2022, Grade.NESTED)
    assert options.key_file == tmp_path / "xen/client_key"


def test_a_node_of_this_machine_has_a_local_provider():
    reach = Reach(urls=("uml:///",), grade=Grade.BARE)
    (block,) = yaml.safe_load(inventory("uml", reach))
    assert block["provider"]["driver"] == "local"
    assert suites(reach)[0][-1] == "bare"


def test_the_names_are_the_documented_ones():
    assert list(LAB) == ["libvirt", "lxc", "uml", "docker", "podman", "xen", "kvm", "plain"]
