# SPDX-License-Identifier: Apache-2.0
"""`hypervouch lab`: names, what is missing, what it prints."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from pydantic import ValidationError

from ci.cli import main
from ci.cli_lab import inventory, suites
from ci.errors import ConfigError
from ci.model.node import Endpoint, Transport
from ci.model.result import Grade
from nodes.images.build import Progress
from nodes.lab import stand_ins, table
from nodes.lab.nested import NestedNode
from nodes.lab.table import LAB, LabNode, Reach
from nodes.providers.local import LocalOptions
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


@pytest.mark.parametrize("cut_short", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("was_up", [True, False])
def test_what_was_cut_short_is_taken_down_unless_it_was_up(
    lab: dict[str, LabNode],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cut_short: type[BaseException],
    was_up: bool,  # noqa: FBT001 - pytest hands it over by name
):
    if was_up:
        run("up", "xen", state=tmp_path)

    def broken(folder: Path, say: Progress) -> None:
        Pretended.up(lab["xen"], folder, say)  # type: ignore[arg-type]
        raise cut_short

    monkeypatch.setattr(lab["xen"], "up", broken)
    done = CliRunner().invoke(main, ["lab", "up", "xen", "--state", str(tmp_path)])
    assert done.exit_code != 0
    assert (lab["xen"].reach(tmp_path / "xen") is not None) == was_up


@pytest.mark.parametrize("verb", ["up", "build"])
def test_a_folder_that_cannot_be_used_is_told(
    lab: dict[str, LabNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/srv/images/x")

    monkeypatch.setattr(lab["xen"], verb, full)
    said = run(verb, "xen", state=tmp_path, status=1)
    assert "/srv/images/x cannot be used: No space left on device" in said
    (tmp_path / "file").touch()
    said = run("up", "xen", state=tmp_path / "file", status=1)
    assert "cannot be used" in said
    assert "fix: " in said


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
    here = ["libvirt", "s390x", "ppc64", "aarch64", "lxc", "uml", "docker", "podman"]
    real = [*here, "xen", "kvm", "kvm2", "lxc-v2", "plain"]
    assert list(LAB)[: len(real)] == real
    page = (Path(__file__).parents[2] / "docs/how-to/lab.md").read_text()
    assert not [name for name in LAB if f"`{name}`" not in page]


def test_what_only_stands_in_comes_up_when_it_is_named(tmp_path: Path):
    assert not [node.name for node in table.chosen(()) if node.stands_in]
    assert [node.name for node in table.chosen(["vcenter"])] == ["vcenter"]


def test_status_and_down_without_names_take_in_what_stands_in(
    lab: dict[str, LabNode], tmp_path: Path
):
    lab["xen"].stands_in = True
    run("up", "xen", state=tmp_path)
    names = [row["name"] for row in json.loads(run("status", "--json", state=tmp_path))]
    assert names == ["xen", "old"]
    run("down", state=tmp_path)
    assert lab["xen"].reach(tmp_path / "xen") is None


def test_an_api_is_tested_and_listed_with_its_password_file_never_the_password(tmp_path: Path):
    secret, ca_file = tmp_path / "password", tmp_path / "ca.pem"
    secret.write_text("open sesame")
    reach = Reach(
        urls=("vcenter://ci@127.0.0.1:443/DC0/C0",),
        grade=Grade.SIMULATOR,
        password_file=secret,
        ca_file=ca_file,
    )
    [suite] = suites(reach)
    assert f"--password-file {secret} --ca-file {ca_file}" in " ".join(suite)
    (block,) = yaml.safe_load(inventory("vcenter", reach))
    words = {key: told for key, told in block["provider"].items() if key != "driver"}
    options = LocalOptions.model_validate(words)
    assert options.hypervisor_password is not None
    assert options.hypervisor_password.from_file == secret
    assert "sesame" not in inventory("vcenter", reach)


def test_an_emulator_is_refused_as_a_node_until_somebody_says_that_it_may_vote(tmp_path: Path):
    reach = Reach(
        urls=("xenserver://ci@127.0.0.1:443",),
        grade=Grade.EMULATOR,
        password_file=tmp_path / "password",
        ca_file=tmp_path / "ca.pem",
    )
    text = inventory("xenserver", reach)
    for printed, allowed in ((text, False), (text.replace("# emulator-may", "emulator-may"), True)):
        (block,) = yaml.safe_load(printed)
        words = {key: told for key, told in block["provider"].items() if key != "driver"}
        if allowed:
            assert LocalOptions.model_validate(words).emulator_may_vote
        else:
            with pytest.raises(ValidationError, match="no hypervisor"):
                LocalOptions.model_validate(words)


@pytest.fixture
def kvm_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder; a nested node in it runs when its folder is there."""
    ports = {"kvm": 2022, "kvm2": 2023}

    def start(node: NestedNode) -> None:
        node.folder.mkdir()
        name = node.folder.name
        (node.folder / "known_hosts").write_text(f"[127.0.0.1]:{ports[name]} key of {name}\n")

    def endpoint(node: NestedNode) -> Endpoint:
        pinned = node.folder / "known_hosts"
        return Endpoint(
            transport=Transport.SSH,
            host="127.0.0.1",
            port=ports[node.folder.name],
            user="root",
            key_file=node.folder / "client_key",
            known_hosts=pinned,
            grade=Grade.NESTED,
        )

    monkeypatch.setattr(table, "qemu_version", lambda: "QEMU emulator version 7.2.22 (Debian)")
    monkeypatch.setattr(NestedNode, "start", start)
    monkeypatch.setattr(NestedNode, "endpoint", endpoint)
    monkeypatch.setattr(NestedNode, "is_running", lambda node: node.folder.is_dir())
    monkeypatch.setattr(NestedNode, "stop", lambda node: shutil.rmtree(node.folder))
    return tmp_path


def test_two_kvm_nodes_are_second_hosts_to_each_other(kvm_nodes: Path):
    for name in ("kvm", "kvm2"):
        LAB[name].up(kvm_nodes / name, str)
    reach = LAB["kvm"].reach(kvm_nodes / "kvm")
    assert reach is not None
    one = "qemu+ssh://root@127.0.0.1:2022/system?type=kvm&disks=/srv/shared/disks&address=10.78.0.1"
    other = (
        "qemu+ssh://root@127.0.0.1:2023/system?type=kvm&disks=/srv/shared/disks&address=10.78.0.2"
    )
    assert (reach.urls, reach.seconds) == ((one,), (other,))
    assert suites(reach)[0][-2:] == ["--second", f"'{other}'"]
    back = LAB["kvm2"].reach(kvm_nodes / "kvm2")
    assert back is not None
    assert (back.urls, back.seconds) == ((other,), (one,))
    for found in (reach, back):
        assert found.known_hosts is not None
        pinned = found.known_hosts.read_text().splitlines()
        assert sorted(line.rpartition(" ")[2] for line in pinned) == ["kvm", "kvm2"]


def test_a_kvm_node_whose_neighbour_is_away_is_one_host(kvm_nodes: Path):
    LAB["kvm"].up(kvm_nodes / "kvm", str)
    reach = LAB["kvm"].reach(kvm_nodes / "kvm")
    assert reach is not None
    assert reach.urls == ("qemu+ssh://root@127.0.0.1:2022/system?type=kvm",)
    assert "--second" not in suites(reach)[0]


def test_an_old_qemu_joins_no_nodes(kvm_nodes: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table, "qemu_version", lambda: "QEMU emulator version 6.2.0 (Ubuntu)")
    for name in ("kvm", "kvm2"):
        LAB[name].up(kvm_nodes / name, str)
    reach = LAB["kvm"].reach(kvm_nodes / "kvm")
    assert reach is not None
    assert reach.seconds == ()


def test_what_two_nodes_share_goes_with_the_last_of_them(kvm_nodes: Path):
    shared = kvm_nodes / "kvm-shared"
    shared.mkdir()
    for name in ("kvm", "kvm2"):
        LAB[name].up(kvm_nodes / name, str)
    LAB["kvm"].down(kvm_nodes / "kvm")
    assert shared.is_dir()
    LAB["kvm2"].down(kvm_nodes / "kvm2")
    assert not shared.exists()


def test_a_connector_of_zvm_that_is_not_installed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stand_ins, "find_spec", lambda _: None)
    home = tmp_path / "zvm"
    with pytest.raises(ConfigError, match="not installed") as told:
        LAB["zvm"].up(home, lambda _: None)
    assert "hypervouch[zvm]" in told.value.hint
    assert LAB["zvm"].reach(home) is None
    assert not home.exists()
