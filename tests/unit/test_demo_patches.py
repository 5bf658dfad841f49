# SPDX-License-Identifier: Apache-2.0
"""The demo's project and changes: each applies, and touches what it says."""

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from ci.sandbox import demo_patches
from ci.sandbox.demo_patches import DemoPatch, project_files

ROOT = Path(demo_patches.__file__).parent / "acme_virt"
PATCHES = {
    "good": demo_patches.good_patch(),
    "breaks": demo_patches.breaks_resume(),
    "docs": demo_patches.docs_only(),
    "slow": demo_patches.slow_good_patch(watch_s=12.5),
}


@pytest.fixture
def guest() -> ModuleType:
    spec = importlib.util.spec_from_file_location("acme_guest", ROOT / "acme_virt/guest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_project_is_whole_and_holds_no_leftovers():
    names = project_files()
    assert {"README.md", "conftest.py", "docs/index.md", "acme_virt/driver.py"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    assert any(name.startswith("tests/functional/test_") for name in names)


@pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES.keys())
def test_a_patch_changes_files_and_leaves_valid_python(patch: DemoPatch):
    base = project_files()
    assert patch.files
    for path, text in patch.files.items():
        assert text != base.get(path)
        if path.endswith(".py"):
            ast.parse(text)
    assert len(patch.subject) <= 60
    assert patch.message.startswith(f"{patch.subject}\n\n")


def test_each_patch_touches_what_it_says():
    assert set(PATCHES["good"].files) == {"acme_virt/driver.py"}
    assert set(PATCHES["breaks"].files) == {"acme_virt/driver.py"}
    assert set(PATCHES["docs"].files) == {"docs/index.md"}
    assert set(PATCHES["slow"].files) == {"tests/functional/test_endurance.py"}
    assert "12.5" in PATCHES["slow"].files["tests/functional/test_endurance.py"]


def test_the_breaking_patch_changes_resume_only():
    before = project_files()["acme_virt/driver.py"].splitlines()
    after = PATCHES["breaks"].files["acme_virt/driver.py"].splitlines()
    added = [line for line in after if line not in before]
    assert len(after) == len(before) + 1
    assert after[after.index("    def resume(self, name: str) -> None:") + 3].strip() == (
        'self._execute(name, "system_reset")'
    )
    assert added == []  # the line itself stands in reboot too


def test_the_test_that_fails_is_in_the_suite():
    suite = project_files()["tests/functional/test_lifecycle.py"]
    assert f"def {demo_patches.RESUME_TEST}(" in suite


def test_the_rom_starts_at_its_reset_vector(guest: ModuleType):
    rom = guest.rom()
    assert len(rom) == 0x10000
    assert rom[0xFFF0] == 0xEA
    entry = int.from_bytes(rom[0xFFF1:0xFFF3], "little")
    assert rom[entry : entry + 2] == b"\xfa\xfc"
    assert rom == guest.rom()


def test_boots_and_ticks_are_read_off_a_console(guest: ModuleType):
    console = (
        "acme-guest boot 1 emulator\r\ntick 1\r\ntick 2\r\nacme-guest boot 2\r\ntick 1\r\ntick 1"
    )
    assert guest.boots(console) == [1, 2]
    assert guest.ticks(console) == [1, 2, 1]
    assert guest.ticks("") == []
