# SPDX-License-Identifier: Apache-2.0
"""User Mode Linux without a process: command line, record, console log, management console."""

import gzip
import os
import struct
from pathlib import Path

import pytest

from ci.errors import ConfigError
from nodes.hypervisors import uml, uml_console, uml_image, uml_mconsole
from nodes.hypervisors.base import Access, DiskFormat, GuestImage, GuestState
from nodes.hypervisors.faults import CallerFault
from nodes.hypervisors.uml_guest import (
    Card,
    Disk,
    Folder,
    Record,
    card_argument,
    command,
    disk_argument,
    running,
)

BINARY = Path("/usr/bin/linux.uml")
MODES = (frozenset({"uml"}), frozenset({"uml"}))


def record(**more):
    return Record(**{"name": "hv-a", "memory_mib": 96, **more})


class TestCommand:
    def test_names_everything_relative_to_the_folder(self, tmp_path):
        folder = tmp_path / "uml" / "hv-a"
        disk = Disk(letter="b", path=tmp_path / "volumes" / "hv-v.raw", serial="hv-v")
        argv = command(BINARY, record(disks=(disk,)), folder)
        assert argv[:4] == [str(BINARY), "mem=96M", "initrd=initrd", "umid=hv-a"]
        assert "ubdb=../../volumes/hv-v.raw,,hv-v" in argv
        assert str(tmp_path) not in " ".join(argv)

    def test_a_rescued_guest_boots_the_other_image(self, tmp_path):
        assert "initrd=rescue-initrd" in command(BINARY, record(rescued=True), tmp_path)

    def test_ends_with_the_guests_own_arguments(self, tmp_path):
        assert command(BINARY, record(arguments="a=1 b"), tmp_path)[-2:] == ["a=1", "b"]

    def test_a_shared_disk_is_not_locked(self, tmp_path):
        disk = Disk(letter="c", path=tmp_path / "v.raw", serial="hv-v", shared=True)
        assert disk_argument(disk, tmp_path) == "ubdcc=v.raw,,hv-v"

    def test_a_cards_tap_fits_into_15_characters(self):
        card = Card(number=1, mac="52:54:00:AB:cd:ef")
        assert card_argument(card) == "eth1=tuntap,hv525400abcdef,52:54:00:ab:cd:ef"
        assert len(card.tap) <= 15


class TestRecord:
    def test_letters_run_out(self):
        made = record()
        letters = []
        while letter := made.free_letter():
            letters.append(letter)
            disk = Disk(letter=letter, path=Path("v"), serial=f"hv-{letter}")
            made = made.model_copy(update={"disks": (*made.disks, disk)})
        assert "".join(letters) == "bcdefghijklmno"

    def test_a_number_that_was_given_back_is_free(self):
        cards = (Card(number=0, mac="a"), Card(number=2, mac="b"))
        assert record(cards=cards).free_number() == 1

    def test_is_read_back_and_a_torn_one_is_none(self, tmp_path):
        folder = Folder(tmp_path, BINARY)
        folder.save(record(memory_mib=128))
        assert folder.load() == record(memory_mib=128)
        (tmp_path / "guest.json").write_text('{"name": "hv-')
        assert folder.load() is None


class TestState:
    def test_without_a_process_it_is_shut_off(self, tmp_path):
        assert Folder(tmp_path, BINARY).state() is GuestState.SHUTOFF

    def test_one_that_panicked_crashed(self, tmp_path):
        (tmp_path / uml_console.LOG).write_bytes(b"Kernel panic - not syncing: no init\n")
        assert Folder(tmp_path, BINARY).state() is GuestState.CRASHED

    def test_a_pid_of_another_process_is_not_its(self, tmp_path):
        (tmp_path / tmp_path.name).mkdir()
        (tmp_path / tmp_path.name / "pid").write_text(str(os.getpid()))
        assert not Folder(tmp_path, BINARY).alive()

    def test_processes_are_told_by_program_and_folder(self):
        with Path("/proc/self/cmdline").open("rb") as file:
            program = file.read().split(b"\0")[0].decode().rpartition("/")[2]
        assert any(pid == os.getpid() for pid, _ in running(program)[Path.cwd()])


class TestConsole:
    def test_the_log_is_bounded(self, tmp_path):
        source, target = os.pipe()
        os.write(target, b"x" * 30_000)
        os.close(target)
        uml_console.keep(source, tmp_path, 1000)
        os.close(source)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * (1000 + 65_536)

    def test_the_tail_goes_over_both_files(self, tmp_path):
        (tmp_path / uml_console.OLD_LOG).write_bytes(b"old ")
        (tmp_path / uml_console.LOG).write_bytes(b"new")
        assert uml_console.tail(tmp_path, 100) == b"old new"
        assert uml_console.tail(tmp_path, 5) == b"d new"
        assert uml_console.tail(tmp_path, 0) == b""

    def test_hears_what_is_said_from_now_on_and_follows_the_log(self, tmp_path):
        log = tmp_path / uml_console.LOG
        log.write_bytes(b"before ")
        console = uml_console.UmlConsole(tmp_path, lambda: True)
        with log.open("ab") as file:
            file.write(b"after ")
        log.replace(tmp_path / uml_console.OLD_LOG)
        log.write_bytes(b"anew")
        heard = console.read(1) + console.read(1)
        console.close()
        assert heard == b"after anew"

    def test_ends_with_the_guest_once_all_is_read(self, tmp_path):
        console = uml_console.UmlConsole(tmp_path, lambda: False)
        (tmp_path / uml_console.LOG).write_bytes(b"last words")
        assert console.read(0) == b"last words"
        with pytest.raises(EOFError):
            console.read(0)
        console.close()

    def test_what_is_said_to_nobody_is_lost(self, tmp_path):
        console = uml_console.UmlConsole(tmp_path, lambda: True)
        console.write(b"hello")  # no fifo
        os.mkfifo(tmp_path / uml_console.INPUT)
        console.write(b"hello")  # no reader
        console.close()


class TestManagementConsole:
    def test_a_request_is_one_datagram_of_fixed_size(self):
        made = uml_mconsole.request("stop")
        assert len(made) == 524
        assert struct.unpack_from("<III4s", made) == (0xCAFEBABE, 2, 4, b"stop")

    def test_a_request_that_is_too_long_is_cut(self):
        assert struct.unpack_from("<III", uml_mconsole.request("x" * 900))[2] == 511


class TestImage:
    @pytest.fixture
    def initrd(self, tmp_path):
        path = tmp_path / "image.initrd"
        path.write_bytes(gzip.compress(b"070701", mtime=0))
        return path

    def test_one_that_fits(self, initrd):
        assert uml_image.check(GuestImage(initrd=initrd), *MODES) == initrd

    @pytest.mark.parametrize(
        "more",
        [
            {"initrd": None},
            {"arch": "s390x"},
            {"properties": {"hypervisor_type": "qemu"}},
            {"properties": {"vm_mode": "hvm"}},
            {"disk": Path("a.qcow2"), "disk_format": DiskFormat.QCOW2},
        ],
    )
    def test_one_that_does_not(self, initrd, more):
        with pytest.raises(CallerFault):
            uml_image.check(GuestImage(**{"initrd": initrd, **more}), *MODES)

    @pytest.mark.parametrize("content", [b"", b"QFI\xfb", b"not an archive"])
    def test_one_of_another_format(self, tmp_path, content):
        path = tmp_path / "initrd"
        path.write_bytes(content)
        with pytest.raises(CallerFault, match="is no initial RAM disk"):
            uml_image.check(GuestImage(initrd=path), *MODES)

    def test_files_come_after_the_image(self, initrd, tmp_path):
        target = tmp_path / "out"
        uml_image.write_initrd(target, GuestImage(initrd=initrd), "0", {"/etc/x": b"injected"})
        written, given = target.read_bytes(), initrd.read_bytes()
        assert written.startswith(given)
        assert b"injected" in gzip.decompress(written[len(given) :].lstrip(b"\0"))

    def test_a_file_outside_of_the_root_is_refused(self, initrd, tmp_path):
        with pytest.raises(CallerFault):
            uml_image.write_initrd(tmp_path / "out", GuestImage(initrd=initrd), "0", {"../x": b""})


class TestUrl:
    @pytest.mark.parametrize("url", ["uml://host/", "uml:///?x=1", "uml:///no/such/kernel"])
    def test_wrong_ones(self, url, tmp_path):
        with pytest.raises(CallerFault):
            uml.connect(url, Access(work=tmp_path))

    def test_without_the_program_it_says_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ConfigError, match="apt-get install user-mode-linux"):
            uml.connect("uml:///", Access(work=tmp_path))
