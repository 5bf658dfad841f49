# SPDX-License-Identifier: Apache-2.0
"""The pure parts of booting a node: command line, hand-out line, keys, options."""

import base64
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import paramiko
import pytest
import yaml
from pydantic import BaseModel, ValidationError

from ci.errors import ConfigError
from nodes.images import keys, machine
from nodes.images.build import Image, default_cache, image
from nodes.images.machine import Shape
from nodes.images.ready import memory_backend
from nodes.images.recipe import standard
from nodes.providers import table
from nodes.providers.openstack import user_data
from nodes.providers.qemu import QemuOptions, personalise

IMAGE = Image(folder=Path("/cache/images/abc"), fingerprint="abc", facts={})


def test_a_node_reaches_nothing_unless_it_is_allowed_to():
    closed = " ".join(machine.command(IMAGE, Shape()))
    opened = " ".join(machine.command(IMAGE, Shape(internet=True)))
    assert "user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:0-:22" in closed
    assert "user,id=net0,restrict=off,hostfwd=tcp:127.0.0.1:0-:22" in opened


def test_shape_and_image_are_in_the_command():
    argv = machine.command(IMAGE, Shape(memory_mib=768, cpus=3))
    assert argv[argv.index("-m") + 1] == "768"
    assert argv[argv.index("-smp") + 1] == "3"
    assert argv[argv.index("-kernel") + 1] == "/cache/images/abc/vmlinuz"
    assert "kvm" not in " ".join(argv)


def test_memory_in_a_file_keeps_commas_in_its_path():
    backend = memory_backend(Shape(memory_mib=512), Path("/a,b/memory"), shared=False)
    assert backend == "memory-backend-file,id=ram,size=512M,mem-path=/a,,b/memory,share=off"
    assert "pc,memory-backend=ram" in machine.command(IMAGE, Shape(), backend)


FORWARDED = (
    "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port\r\n"
    "  TCP[HOST_FORWARD]  12       127.0.0.1 46677       10.0.2.15    22     0     0\r\n"
)


@pytest.mark.parametrize(
    ("said", "port"), [(FORWARDED, 46677), ("Hub -1 (net0):\r\n", None), ("", None)]
)
def test_the_forwarded_port_is_read_from_the_monitor(said: str, port: int | None):
    assert machine.forwarded_port(said) == port


def test_nothing_runs_in_a_folder_that_does_not_exist(tmp_path: Path):
    assert list(machine.running_in(tmp_path / "nowhere")) == []


def test_each_hand_out_has_keys_and_random_bytes_of_its_own():
    first, second = keys.generate(), keys.generate()
    assert first.host_public != second.host_public
    assert first.client_public != first.host_public
    assert personalise(first, 1.0) != personalise(first, 1.0)


def test_the_hand_out_line_carries_clock_random_and_both_keys():
    fresh = keys.generate()
    word, epoch, random, host, client, end = personalise(fresh, 1_700_000_000.4).split(b" ")
    assert (word, epoch, end) == (b"go", b"1700000000", b"end")
    assert len(base64.b64decode(random)) == 64
    assert base64.b64decode(host) == fresh.host_private
    assert base64.b64decode(client).decode().split()[:2] == fresh.client_public.split()


def test_keys_are_written_for_us_alone_and_pin_the_host(tmp_path: Path):
    fresh = keys.generate()
    key_file, known_hosts = fresh.write(tmp_path, "127.0.0.1", 2222)
    assert key_file.stat().st_mode & 0o777 == 0o600
    private = paramiko.Ed25519Key.from_private_key(StringIO(key_file.read_text()))
    assert private.get_base64() == fresh.client_public.split()[1]
    assert known_hosts.read_text() == f"[127.0.0.1]:2222 {fresh.host_public}\n"


def test_a_complete_image_is_found_without_a_tool_and_a_half_one_is_not(tmp_path: Path):
    folder = tmp_path / "images" / standard().fingerprint
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"facts": {"kernel": "6.1"}, "packages": []}')
    assert image(tmp_path).facts == {"kernel": "6.1"}
    assert image(tmp_path).disk == folder / "disk.qcow2"


def test_the_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert default_cache() == Path("/elsewhere/hypervouch")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache() == Path.home() / ".cache/hypervouch"


NEEDED: dict[str, dict[str, Any]] = {
    "static": {"host": "lab1", "key-file": "k", "known-hosts": "h"},
    "libvirt": {"domains": ["ci-*"], "key-file": "k", "known-hosts": "h"},
    "openstack": {
        "installation": "lab",
        "cloud": "here",
        "image": "debian",
        "flavor": "small",
        "network": "lab",
    },
    "windows": {"host": "w1", "user": "ci", "password": {"from-file": "p"}},
}


@pytest.mark.parametrize("driver", sorted(table.BUILT_IN))
def test_options_are_frozen_kebab_case_and_refuse_unknown_keys(driver: str):
    model: type[BaseModel] = table.driver(driver).Options
    needed = NEEDED.get(driver, {})
    made = model.model_validate({"name": "n", "label": "l", "slots": 3, **needed})
    assert made.model_dump(by_alias=True)["slots"] == 3
    assert all("_" not in key for key in made.model_dump(by_alias=True))
    with pytest.raises(ValidationError, match="extra"):
        model.model_validate({"bogus": 1, **needed})
    with pytest.raises(ValidationError, match="name"):
        model.model_validate({"name": "../x", **needed})


def test_qemu_options_are_read_as_the_configuration_spells_them():
    options = QemuOptions.model_validate({"memory-mib": 1024, "boot-timeout-s": 90, "cpus": 2})
    assert (options.memory_mib, options.boot_timeout_s, options.cpus) == (1024, 90, 2)


def test_a_cloud_is_named_or_described_and_never_both():
    model = table.driver("openstack").Options
    needed = NEEDED["openstack"]
    described = {
        "auth-url": "http://cloud/v3",
        "username": "ci",
        "password": {"from-env": "SECRET"},
        "project": "lab",
    }
    assert model.model_validate({**needed, "cloud": "", **described})
    for wrong in ({**needed, **described}, {**needed, "cloud": ""}):
        with pytest.raises(ValidationError, match="give cloud, or all of"):
            model.model_validate(wrong)


def test_cloud_init_is_told_the_host_key_and_whom_to_let_in():
    fresh = keys.generate()
    told = user_data(fresh)
    assert told.startswith(b"#cloud-config\n")
    read = yaml.safe_load(told)
    assert read["ssh_keys"]["ed25519_private"].encode() == fresh.host_private
    assert read["ssh_keys"]["ed25519_public"] == fresh.host_public
    assert read["ssh_authorized_keys"] == [fresh.client_public]


def test_a_library_that_is_not_there_is_named_with_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setitem(sys.modules, "libvirt", None)
    for name in ("key", "known"):
        (tmp_path / name).touch()
    options = {**NEEDED["libvirt"], "key-file": tmp_path / "key", "known-hosts": tmp_path / "known"}
    chosen = table.driver("libvirt")
    made = chosen(chosen.Options.model_validate(options), tmp_path)
    with pytest.raises(ConfigError, match=r"pip install hypervouch\[libvirt\]"):
        made.prepare()
