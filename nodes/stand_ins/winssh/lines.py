# SPDX-License-Identifier: Apache-2.0
"""What a line asks for: the few that our runner sends over SSH, read as cmd.exe would read them."""

import base64
import re
from typing import NamedTuple

PROBE = "echo hypervouch-%OS%"
_POWERSHELL = "powershell.exe -NoProfile -NonInteractive -EncodedCommand "
_END = re.compile(r"\$mark='([0-9a-z-]+)';\$steps=@\(([^)]*)\)\n.*Win32_Process.*", re.DOTALL)
_MARKED = re.compile(r'chcp 65001 >nul 2>&1&set "HYPERVOUCH_SESSION=([0-9a-z-]+)"&(.*)', re.DOTALL)
_HOLDERS = 'set hvp=%&set hvq=^"&set hve=!&set "hvc=^"&cmd /d /v:on /s /c ^"'
_HELD = {"hvp": "%", "hvq": '"', "hve": "!", "hvc": "^"}
_SET = re.compile(r'set "(\w+)=([^"]*)"&')
_REST = re.compile(r'\(if not exist ("[^"]*") exit 125\)&cd /d \1&&cmd 2>&1 /d /s /c "([^"]*)"')


class End(NamedTuple):
    """Ends all whose mark begins so: steps of a signal's name and milliseconds."""

    mark: str
    steps: list[tuple[str, int]]


class Job(NamedTuple):
    """A job's command."""

    mark: str
    env: dict[str, str]
    directory: str
    command: str


class Tool(NamedTuple):
    """A line of the runner's own."""

    mark: str
    line: str


def read(line: str) -> End | Job | Tool:
    """Read a line.

    Raises:
        ValueError: It is none that is modelled.
    """
    if line.startswith(_POWERSHELL):
        return _end(base64.b64decode(line.removeprefix(_POWERSHELL)).decode("utf-16-le"))
    found = _MARKED.fullmatch(line)
    if found is None:
        raise ValueError(f"{line[:200]!r} is not modelled")
    mark, rest = found.groups()
    return _job(mark, rest) if rest.startswith("set ") else Tool(mark, rest)


def _end(script: str) -> End:
    found = _END.fullmatch(script)
    if found is None:
        raise ValueError("this script is not modelled")
    steps = [word.split() for word in re.findall(r"'([^']*)'", found[2])]
    return End(found[1], [(name, int(times)) for name, times in steps])


def _job(mark: str, line: str) -> Job:
    if not line.startswith(_HOLDERS) or not line.endswith('^"'):
        raise ValueError(f"{line[:200]!r} is not modelled")
    # The first shell's: outside of quotes a caret takes the meaning of what follows.
    second = line.removeprefix(_HOLDERS)[:-2]
    if re.search(r'(?<!\^)[&|<>()"]', second) or "%" in second:
        raise ValueError(f"the first cmd.exe would act on {second[:200]!r}")
    second = re.sub(r"\^(.)", r"\1", second)
    env: dict[str, str] = {}
    while one := _SET.match(second):
        env[one[1]] = _delayed(one[2])
        second = second[one.end() :]
    rest = _REST.fullmatch(second)
    if rest is None:
        raise ValueError(f"{second[:200]!r} is not modelled")
    # `set "NAME="` takes a variable away.
    kept = {name: value for name, value in env.items() if value}
    return Job(mark, kept, _delayed(rest[1][1:-1]), _delayed(rest[2]))


def _delayed(text: str) -> str:
    """Delayed expansion of the second shell: what it puts in is not read again."""
    if re.search(r"[\^]|!(?!hv[pqec]!)", re.sub(r"!hv[pqec]!", "", text)):
        raise ValueError(f"the second cmd.exe would act on {text[:200]!r}")
    return re.sub(r"!(hv[pqec])!", lambda found: _HELD[found[1]], text)
