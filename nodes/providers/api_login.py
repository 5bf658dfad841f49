# SPDX-License-Identifier: Apache-2.0
"""How the API of a hypervisor is logged in to, where it has one of its own: fields of a provider.

The password is a reference in the configuration. Whoever tests gets the path of a file that only
we may read: no command line, no log and no environment of a suite holds the password itself.
"""

import os
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ci.errors import ConfigError, NodeUnavailable
from ci.layout import SecretRef
from ci.model.result import Grade
from ci.settings import resolve_secret

_SHA256 = r"^([0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2}){31})?$"


class ApiLogin(BaseModel):
    """What providers whose nodes may have such a hypervisor know besides its URL.

    Attributes:
        hypervisor_password: Of the URL's user, by reference.
        hypervisor_ca_file: Certificates that sign the API's own; this machine's by default.
        hypervisor_certificate: SHA-256 of the API's certificate: no other is taken.
        emulator_may_vote: Whether our own emulator of such an API may decide over patches.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )

    hypervisor_password: SecretRef | None = None
    hypervisor_ca_file: Path | None = None
    hypervisor_certificate: str = Field(default="", pattern=_SHA256)
    emulator_may_vote: bool = False
    grade: Grade = Grade.NONE

    @model_validator(mode="after")
    def _no_emulator_votes(self) -> Self:
        emulated = self.hypervisor_password is not None and self.grade is Grade.EMULATOR
        if emulated and not self.emulator_may_vote:
            raise ValueError(
                "an emulator of ours is no hypervisor, and what it shows would become a vote: "
                "say emulator-may-vote: true where that is wanted"
            )
        return self


def check(name: str, options: ApiLogin) -> None:
    """Look at what logging in needs, before the first node is used.

    Raises:
        ConfigError: The password or the certificates are not there.
    """
    if options.hypervisor_password is not None:
        resolve_secret(options.hypervisor_password)
    path = options.hypervisor_ca_file
    if path is not None and not path.is_file():
        raise ConfigError(
            f"provider {name}: hypervisor-ca-file {path} is not there",
            hint="put the API's certificates there, or pin its own with hypervisor-certificate",
        )


def login(options: ApiLogin, node: str, folder: Path) -> dict[str, Any]:
    """The fields of an Endpoint that say how to log in.

    Args:
        options: Of the node's provider.
        node: Its name.
        folder: Where the password's file is put, unless it is in one already.

    Raises:
        ConfigError: The password is not there.
        NodeUnavailable: Its file cannot be written.
    """
    reference = options.hypervisor_password
    file = None
    if reference is not None:
        secret = resolve_secret(reference)
        file = reference.from_file or _written(_path(node, folder), secret)
    return {
        "password_file": file.absolute() if file else None,
        "ca_file": options.hypervisor_ca_file,
        "certificate": options.hypervisor_certificate.replace(":", "").lower(),
        "marks": (folder / f"{node}.marks").absolute() if reference else None,
    }


def forget(node: str, folder: Path) -> None:
    """Remove the password's file that `login` wrote; repeatable."""
    _path(node, folder).unlink(missing_ok=True)


def _path(node: str, folder: Path) -> Path:
    return folder / f"{node}.password"


def _written(path: Path, secret: str) -> Path:
    """A file that only we may read, from its first byte on."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secret)
    except OSError as error:
        raise NodeUnavailable(
            f"{path} cannot be written: {error.strerror}",
            hint="check the state directory's space and owner",
            retryable=True,
        ) from error
    return path
