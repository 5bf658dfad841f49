# SPDX-License-Identifier: Apache-2.0
"""A recording's file: a line of JSON for what was run, one per exchange, one for how it ended.

The last line counts the others, so that a file that was cut off is seen to be. Bodies are text, so
that whoever hands a recording on can read what is in it.
"""

import base64
import hashlib
import json
import re
import stat
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ci.errors import ConfigError
from ci.model.result import Grade
from nodes.hypervisors.faults import NodeFault
from nodes.recording import redaction
from nodes.recording.cmdlets import Ran

MAX_FILE_BYTES = 512 << 20
MAX_TEXT = 64 << 10
"""A request's body that is longer, or no text, is an upload: only its size and digest are kept."""

_HINT = "make it with `hypervouch suite compute --record FILE`"
_UPLOADS = ("application/octet-stream",)
_UNLIKE = (
    # vCenter: a guest's serial line gets a port that is free, any of them.
    (re.compile(r"<serviceURI>\w+://:\d+<"), "<serviceURI>*<"),
    # XenServer: an upload's task is named after the file of ours that is read.
    (re.compile(r"hv-config-\w{8}"), "hv-config-*"),
    # Ironic: where this machine has a disk.
    (re.compile(r'(?<="file://)[^"]*/(?=[^"/]*")'), "*/"),
    # Ironic: a config drive is a disk with the time of its making in it.
    (re.compile(r'("configdrive"\s*:\s*")[^"]*'), r"\1*"),
)
"""What differs between two runs that ask the same."""


Kind = Literal["http", "cmdlets"]


class NotRecorded(NodeFault):
    """The client asks for what the recording does not know."""


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Head(_Line):
    """What was run.

    Attributes:
        version: Of this form.
        hypervisor: Its URL.
        second: URL of the other host, or nothing.
        mark: What the run's guests were named with.
        timeout_s: Seconds for one call.
        features: Only these rows; all when empty.
        made: When, UTC.
        program: Our version.
        kind: What an exchange is: a request over HTTP, or a pipeline of cmdlets.
        grade: What the adapter was told of how real it is: some do more on a stand-in.
    """

    version: Literal[1] = Field(alias="hypervouch-recording")
    hypervisor: Annotated[str, Field(max_length=2_000)]
    second: Annotated[str, Field(max_length=2_000)] = ""
    mark: Annotated[str, Field(pattern=r"^[0-9a-f]{4}$")]
    timeout_s: Annotated[float, Field(gt=0, le=3600)]
    features: tuple[str, ...] = ()
    made: str = ""
    program: str = ""
    kind: Kind = "http"
    grade: Grade = Grade.NONE


class Asked(_Line):
    """A request: its body, or size and digest of what was uploaded."""

    method: str
    url: str
    body: str = ""
    size: Annotated[int, Field(ge=0)] = 0
    sha256: str = ""

    @cached_property
    def likeness(self) -> str:
        """Equal for two requests that ask the same.

        An upload is known by its size: a disk that is made anew may differ in a date.
        """
        body = self.body or f"{self.size} bytes"
        text = f"{self.method} {_sorted(self.url)}\n{redaction.blind(body)}"
        for pattern, instead in _UNLIKE:
            text = pattern.sub(instead, text)
        return text

    @property
    def call(self) -> str:
        """Which call it is where one URL serves them all, else nothing."""
        found = _CALL.search(self.body)
        return (found.group(1) or found.group(2)) if found else ""

    @property
    def name(self) -> str:
        """For people: method, URL, and the call."""
        return f"{self.method} {self.url}" + (f" ({self.call})" if self.call else "")

    @property
    def only_reads(self) -> bool:
        """Whether it changes nothing, by its name; what we do not know may change anything."""
        return self.method in {"GET", "HEAD"} or bool(_READS.match(self.call))


class Exchange(_Line):
    """A request and its answer; `at` seconds after the first, `cut` bytes not kept."""

    at: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    asked: Asked
    status: Annotated[int, Field(ge=100, le=599)]
    reason: str = ""
    headers: dict[str, list[str]] = Field(default_factory=dict)
    text: str = ""
    base64: str = ""
    cut: Annotated[int, Field(ge=0)] = 0

    @property
    def content(self) -> bytes:
        """The answer's body."""
        return base64.b64decode(self.base64) if self.base64 else self.text.encode()


class Foot(_Line):
    """How it ended: how many exchanges there are, and the word on each test."""

    exchanges: Annotated[int, Field(ge=0)]
    words: dict[str, str]


class Tape(_Line):
    """A whole recording: it has either exchanges or pipelines."""

    head: Head
    exchanges: tuple[Exchange, ...] = ()
    pipelines: tuple[Ran, ...] = ()
    foot: Foot


_CALL = re.compile(r"<methodName>([^<]+)<|<(?:\w+:)?Body[^>]*>\s*<(?:\w+:)?(\w+)")
_READS = re.compile(
    r"Retrieve|ContinueRetrieve|Fetch|CreateContainerView|DestroyView|SearchDatastore|Query"
    r"|(?:\w+\.)+get_|task\.destroy$"
)
Read = TypeVar("Read", bound=BaseModel)


def asked(method: str, url: str, headers: Mapping[str, str], content: bytes) -> Asked:
    """A request as it is kept, secrets and all."""
    kinds = [value for name, value in headers.items() if name.lower() == "content-type"]
    if not content:
        return Asked(method=method, url=url)
    if len(content) <= MAX_TEXT and not any(kind.startswith(_UPLOADS) for kind in kinds):
        try:
            return Asked(method=method, url=url, body=content.decode())
        except UnicodeDecodeError:
            pass
    digest = hashlib.sha256(content).hexdigest()
    return Asked(method=method, url=url, size=len(content), sha256=digest)


def write(path: Path, tape: Tape, secrets: redaction.Redaction) -> None:
    """Write a recording without its secrets; the file is replaced in one step.

    Raises:
        HypervouchBug: One of them was still in it.
    """
    lines: Sequence[BaseModel] = (tape.head, *tape.exchanges, *tape.pipelines, tape.foot)
    told = (one.model_dump(mode="json", by_alias=True, exclude_defaults=True) for one in lines)
    text = "".join(json.dumps(_cleaned(one, secrets), ensure_ascii=False) + "\n" for one in told)
    secrets.check(text)
    for one in tape.exchanges:
        if one.base64:
            secrets.check(one.content.decode("latin-1"))
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def read(path: Path) -> Tape:
    """Read a recording.

    Raises:
        ConfigError: It cannot be read, is none, or was cut off.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path} cannot be read: it is no file", hint=_HINT)
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path} has more than {MAX_FILE_BYTES} bytes", hint=_HINT)
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint=_HINT) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no recording: it is no text", hint=_HINT) from error
    head = _parsed(path, 1, lines[0], Head)
    if len(lines) < 3 or lines[-1] or '"exchanges"' not in lines[-2][:20]:  # noqa: PLR2004
        raise ConfigError(f"{path} was cut off: its last line is missing", hint="copy it again")
    foot = _parsed(path, len(lines) - 1, lines[-2], Foot)
    inner = list(enumerate(lines[1:-2], start=2))
    if foot.exchanges != len(inner):
        raise ConfigError(
            f"{path} has {len(inner)} of its {foot.exchanges} exchanges", hint="copy it again"
        )
    if head.kind == "cmdlets":
        ran = tuple(_parsed(path, number, line, Ran) for number, line in inner)
        return Tape(head=head, pipelines=ran, foot=foot)
    exchanges = tuple(_parsed(path, number, line, Exchange) for number, line in inner)
    return Tape(head=head, exchanges=exchanges, foot=foot)


def _cleaned(told: Any, secrets: redaction.Redaction) -> Any:
    """The same with placeholders in every text; before it is JSON, which would hide them."""
    if isinstance(told, str):
        return secrets.clean(told)
    if isinstance(told, dict):
        return {name: _cleaned(value, secrets) for name, value in told.items()}
    return [_cleaned(one, secrets) for one in told] if isinstance(told, list) else told


def _parsed(path: Path, number: int, line: str, kind: type[Read]) -> Read:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{path}:{number} is no line of a recording: {where and where + ': '}{first['msg']}",
            hint=_HINT,
        ) from error


def _sorted(url: str) -> str:
    """A URL with its query in order."""
    parts = urlsplit(url)
    words = sorted(parse_qsl(parts.query, keep_blank_values=True))
    return urlunsplit(parts._replace(query=urlencode(words)))
