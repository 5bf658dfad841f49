# SPDX-License-Identifier: Apache-2.0
"""Stands where the connector calls `sudo smcli ...` and `sudo vmcp ...`: a model of SMAPI and CP.

The whole system is one JSON file: the directory of guests, and which of them are logged on. There
is no guest, no disk and no console.
"""

import fcntl
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

STATE = "ZVM_STATE"
MISSING, ACTIVE, INACTIVE = "200 4", "200 8", "200 12"


class Answer(NamedTuple):
    """What a program printed, and its exit status."""

    text: str = ""
    status: int = 0


class System:
    """The directory, and who is logged on."""

    def __init__(self, path: Path) -> None:
        known = json.loads(path.read_text()) if path.exists() else {}
        self._path = path
        self.entries: dict[str, str] = known.get("entries", {})
        self.on: dict[str, str] = known.get("on", {})

    def save(self) -> None:
        """Keep it for the next call."""
        self._path.write_text(json.dumps({"entries": self.entries, "on": self.on}))

    def smcli(self, call: str, given: Sequence[str]) -> Answer:
        """One call of the systems management API."""
        user = _option(given, "-T").upper()
        if call == "Image_Create_DM":
            self._write(user, given)
        elif user and call.startswith("Image_") and user not in self.entries:
            return _refused(MISSING, "Image not found")
        elif call in _CHANGES:
            return _CHANGES[call](self, user, given)
        elif call in _QUESTIONS:
            return _QUESTIONS[call](self, user)
        return _done()

    def vmcp(self, given: Sequence[str]) -> Answer:
        """One command of the control program."""
        words = " ".join(given).split()
        told = " ".join(words).lower()
        if told.startswith("query userid"):
            return Answer("OPNCLOUD AT ZVM1\n")
        if not told.startswith("query user ") and words[:1] != ["q"]:
            return Answer()
        user = words[-1].upper()
        if user not in self.entries:
            said = f"HCPCFC003E Invalid option - {user}\n"
            return Answer(f"{said}Error: non-zero CP response for command: #3\n", 1)
        if user in self.on:
            return Answer(f"{user} - DSC\n")
        said = f"HCPCQU045E {user} not logged on\n"
        command = f"QUERY USER {user}"
        return Answer(f"{said}Error: non-zero CP response for command '{command}': #45\n", 1)

    def _write(self, user: str, given: Sequence[str]) -> Answer:
        file = Path(_option(given, "-f"))
        self.entries[user] = file.read_text() if file.is_file() else self.entries.get(user, "")
        return _done()

    def _activate(self, user: str, given: Sequence[str]) -> Answer:
        del given
        if user in self.on:
            return _refused(ACTIVE, "Image already active")
        self.on[user] = "running"
        return _done()

    def _deactivate(self, user: str, given: Sequence[str]) -> Answer:
        del given
        if user not in self.on:
            return _refused(INACTIVE, "Image not active")
        del self.on[user]
        return _done()

    def _pause(self, user: str, given: Sequence[str]) -> Answer:
        self.on[user] = "paused" if "PAUSE=YES" in given else "running"
        return _done()

    def _delete(self, user: str, given: Sequence[str]) -> Answer:
        del given
        self.entries.pop(user)
        self.on.pop(user, None)
        return _done()

    def _add_cpus(self, user: str, given: Sequence[str]) -> Answer:
        for word in given:
            if word.startswith("CPU=CPUADDR="):
                self.entries[user] += f"\nCPU {word.rpartition('=')[2]}"
        return _done()

    def _remove_cpus(self, user: str, given: Sequence[str]) -> Answer:
        gone = {f"CPU {word.rpartition('=')[2]}" for word in given if word.startswith("CPU=")}
        lines = self.entries[user].splitlines()
        self.entries[user] = "\n".join(line for line in lines if line not in gone)
        return _done()

    def _runs(self, user: str) -> Answer:
        return _done(user) if user in self.on else _refused(INACTIVE, "not active")


def _done(text: str = "") -> Answer:
    return Answer(f"0 0 0 (details) \n{text}")


def _refused(codes: str, text: str) -> Answer:
    return Answer(f"8 {codes} 0 (details) {text}\n", 8)


def _option(given: Sequence[str], name: str) -> str:
    return given[given.index(name) + 1] if name in given[:-1] else ""


_CHANGES: Mapping[str, Callable[[System, str, Sequence[str]], Answer]] = {
    "Image_Activate": System._activate,  # noqa: SLF001 - all of one module
    "Image_Deactivate": System._deactivate,  # noqa: SLF001
    "Image_Pause": System._pause,  # noqa: SLF001
    "Image_Delete_DM": System._delete,  # noqa: SLF001
    "Image_Replace_DM": System._write,  # noqa: SLF001
    "Image_Definition_Update_DM": System._add_cpus,  # noqa: SLF001
    "Image_Definition_Delete_DM": System._remove_cpus,  # noqa: SLF001
}
_QUESTIONS: Mapping[str, Callable[[System, str], Answer]] = {
    "Image_Query_DM": lambda system, user: _done(system.entries[user]),
    "Image_Status_Query": System._runs,  # noqa: SLF001
    "Image_Name_Query_DM": lambda system, _: _done("\n".join(system.entries)),
    "Query_API_Functional_Level": lambda *_: _done("The API functional level is z/VM V7.3"),
}


def main() -> None:
    """Answer as the program would that is named first."""
    words = [word for word in sys.argv[1:] if word not in {"-n", "-E"}]
    path = Path(os.environ[STATE])
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        system = System(path)
        program = Path(words[0]).name if words else ""
        answer = Answer()
        if program == "smcli":
            answer = system.smcli(words[1], words[2:])
        elif program == "vmcp":
            answer = system.vmcp(words[1:])
        system.save()
    sys.stdout.write(answer.text)
    sys.exit(answer.status)


if __name__ == "__main__":
    main()
