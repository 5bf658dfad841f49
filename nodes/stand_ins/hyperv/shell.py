# SPDX-License-Identifier: Apache-2.0
"""One runspace pool on the server's side: PSRP's messages in, pipelines run, messages out."""

import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psrpcore
from psrpcore import types as ps

from nodes.stand_ins.hyperv.host import CMDLETS, Given, Host
from nodes.stand_ins.hyperv.objects import CmdletError, record, written

FRAGMENT_BYTES = 32768
_AUTOMATION = "System.Management.Automation."


@dataclass
class Conduct:
    """How hosts are told to misbehave, and what they have been asked.

    Attributes:
        rules: Each for one cmdlet: an error, a delay, an end of the process.
        commands: Names of all cmdlets that were asked for.
        scripts: Script texts that came.
        requests: HTTP requests.
        logins: Those with an Authorization header.
    """

    rules: list[dict[str, Any]] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    requests: int = 0
    logins: int = 0

    def misbehave(self, command: str) -> None:
        """Follow the first rule for a cmdlet.

        Raises:
            CmdletError: The rule names one.
        """
        rule = next((one for one in self.rules if one.get("cmdlet") == command), None)
        if rule is None:
            return
        rule["times"] = int(rule.get("times", 1)) - 1
        if rule["times"] <= 0:
            self.rules.remove(rule)
        if rule.get("die"):
            os._exit(1)
        time.sleep(float(rule.get("delay_s", 0)))
        if "error_id" in rule:
            category = str(rule.get("category", "InvalidOperation"))
            raise CmdletError(str(rule.get("message", "as asked")), rule["error_id"], category)


@dataclass
class Pipe:
    """One pipeline; `done` once it has ended."""

    pipeline: Any
    done: bool = False


class Shell:
    """One runspace pool.

    Attributes:
        out: Messages that wait, by pipeline; those of the pool itself under None.
        ready: Told whenever there is more.
    """

    def __init__(self, host: Host, conduct: Conduct, name: str) -> None:
        self.host = host
        self.name = name
        self.out: dict[str | None, list[bytes]] = {}
        self.pipes: dict[str, Pipe] = {}
        self.ready = threading.Condition()
        self._conduct = conduct
        self._pool = psrpcore.ServerRunspacePool()

    def feed(self, data: bytes, *, is_prompt: bool = False, command: str = "") -> None:
        """Take a message; a pipeline that it starts runs in a thread of its own."""
        stream = psrpcore.StreamType.prompt_response if is_prompt else psrpcore.StreamType.default
        with self.ready:
            if command:
                psrpcore.ServerPipeline(self._pool, uuid.UUID(command))
            self._pool.receive_data(psrpcore.PSRPPayload(data, stream, None))
            while (event := self._pool.next_event()) is not None:
                if isinstance(event, psrpcore.CreatePipelineEvent):
                    pipe = Pipe(self._pool.pipeline_table[event.pipeline_id])
                    self.pipes[str(event.pipeline_id).upper()] = pipe
                    work = (pipe, event.pipeline)
                    threading.Thread(target=self._run, args=work, daemon=True).start()
            self._flush()

    def forget(self, command: str) -> None:
        """End what is known of a pipeline."""
        with self.ready:
            self.pipes.pop(command, None)
            self.out.pop(command, None)

    def take(self, command: str | None, timeout_s: float) -> tuple[list[bytes], bool] | None:
        """Messages that wait, and whether their pipeline ended; None when time is up."""
        with self.ready:
            if not self.ready.wait_for(lambda: self._has(command), timeout_s):
                return None
            pipe = self.pipes.get(command or "")
            return self.out.pop(command, []), bool(pipe and pipe.done)

    def _has(self, command: str | None) -> bool:
        pipe = self.pipes.get(command or "")
        return bool(self.out.get(command) or (pipe and pipe.done))

    def _flush(self) -> None:
        while (data := self._pool.data_to_send(FRAGMENT_BYTES)) is not None:
            key = str(data.pipeline_id).upper() if data.pipeline_id else None
            self.out.setdefault(key, []).append(data.data)
        self.ready.notify_all()

    def _run(self, pipe: Pipe, told: Any) -> None:
        pipe.pipeline.start()
        failed = None
        try:
            objects: list[Any] = []
            for at, command in enumerate(told.commands):
                objects = self._one(pipe.pipeline, command, objects, is_first=at == 0)
            with self.ready:
                for one in objects:
                    pipe.pipeline.write_output(written(one))
        except CmdletError as error:
            failed = record(error)
        except Exception as error:  # noqa: BLE001 - a mistake of the model, said as one
            failed = record(CmdletError(f"the model failed: {error!r}", "ModelError"))
        with self.ready:
            if failed is None:
                pipe.pipeline.complete()
            else:
                # psrpcore has no public way to end a pipeline with an error.
                state = ps.PSInvocationState.Failed
                pipe.pipeline._change_state(state, error=failed)  # noqa: SLF001
            pipe.done = True
            self._flush()

    def _one(self, pipeline: Any, command: Any, piped: list[Any], *, is_first: bool) -> list[Any]:
        name = str(command.command_text)
        if command.is_script:
            self._conduct.scripts.append(name)
            message = "This stand-in runs structured pipelines, no script text."
            raise CmdletError(message, "ParserError", "ParserError", name, f"{_AUTOMATION}Parse")
        self._conduct.commands.append(name)
        if name.lower() not in CMDLETS:
            message = f"The term '{name}' is not recognized as the name of a cmdlet."
            kind = f"{_AUTOMATION}CommandNotFoundException"
            identity = "CommandNotFoundException"
            raise CmdletError(message, identity, "ObjectNotFound", name, kind)
        function, accepted = CMDLETS[name.lower()]
        given = dict(_bound(command.parameters))
        stops = str(given.pop("erroraction", "Continue")).lower() == "stop"
        try:
            _check(given, accepted)
            self._conduct.misbehave(name)
            if not piped and not is_first:
                return []
            with self.host.lock:
                return list(function(self.host, given, piped))
        except CmdletError as error:
            error.command = name
            if stops:
                raise
            with self.ready:
                pipeline.prepare_message(record(error), message_type=ps.PSRPMessageType.ErrorRecord)
            return []


def _bound(parameters: Any) -> Iterator[tuple[str, Any]]:
    """Parameters by their names in lower case; switches are True."""
    for name, value in parameters:
        if name is None:
            message = "Arguments without a name are not understood here."
            raise CmdletError(message, "PositionalParameterNotFound", "InvalidArgument")
        yield str(name).lower(), True if value is None else _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, ps.PSString):
        return str(value)
    return value


def _check(given: Given, accepted: frozenset[str]) -> None:
    """See that a cmdlet is given only what it takes."""
    if strange := sorted(set(given) - accepted):
        message = f"A parameter cannot be found that matches parameter name '{strange[0]}'."
        kind = f"{_AUTOMATION}ParameterBindingException"
        raise CmdletError(message, "NamedParameterNotFound", "InvalidArgument", kind=kind)
