# SPDX-License-Identifier: Apache-2.0
"""How git is called here: which server, with which secrets, and what it may not do. Pure.

Nothing of a repository is ever executed: hooks, filters, helpers and aliases are off, the
user's and the machine's configuration is not read, and only the remote's own protocol is
allowed, so that no URL inside a repository leads elsewhere. Secrets stand in the
environment, never in an argument.
"""

import shlex
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path

# Defects of commits that old and honest tools wrote; real histories are full of them.
_HARMLESS = ("zeroPaddedFilemode", "missingSpaceBeforeDate", "badTimezone")
# Found by git before any .gitattributes of the tree: archives hold exactly what was merged.
ATTRIBUTES = (
    "* -export-ignore -export-subst -filter -ident -text -eol -working-tree-encoding "
    "!merge !conflict-marker-size\n"
)


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A Gerrit server as git sees it.

    Attributes:
        transport: `http` or `ssh`.
        url: Base URL of its web side, with a slash at the end; for `http`.
        server: Host of its SSH daemon; for `ssh`.
        port: TCP port of that.
        user: Account, or empty for anonymous fetches over HTTP.
        password: HTTP password, or empty.
        key_file: Private SSH key.
        known_hosts: File with the pinned host key.
    """

    transport: str
    url: str = ""
    server: str = ""
    port: int = 29418
    user: str = ""
    password: str = field(default="", repr=False)
    key_file: Path | None = None
    known_hosts: Path | None = None

    def project_url(self, project: str) -> str:
        """Where a project is fetched; Gerrit asks for a password below `a/` only."""
        if self.transport == "ssh":
            return f"ssh://{self.user}@{self.server}:{self.port}/{project}"
        signed_in = "a/" if self.user and self.password else ""
        return f"{self.url.rstrip('/')}/{signed_in}{project}"


def environment(remote: Remote, git_dir: Path) -> dict[str, str]:
    """Variables for every git process."""
    scheme = "ssh" if remote.transport == "ssh" else remote.url.partition(":")[0]
    settings = [
        ("protocol.allow", "never"),
        (f"protocol.{scheme}.allow", "always"),
        ("safe.directory", "*"),
        ("core.hooksPath", "/dev/null"),
        ("core.attributesFile", "/dev/null"),
        ("core.fsmonitor", "false"),
        ("credential.helper", ""),
        ("gc.auto", "0"),
        ("gc.packRefs", "false"),
        ("maintenance.auto", "false"),
        ("fetch.fsckObjects", "true"),
        *((f"fetch.fsck.{name}", "ignore") for name in _HARMLESS),
        # A hostile change could ask for a quadratic search.
        ("merge.renameLimit", "1000"),
        ("tar.umask", "0022"),
        ("http.followRedirects", "false"),
        ("http.lowSpeedLimit", "100"),
        ("http.lowSpeedTime", "60"),
    ]
    if remote.transport == "http" and remote.user and remote.password:
        secret = b64encode(f"{remote.user}:{remote.password}".encode()).decode()
        settings.append((f"http.{remote.url}.extraHeader", f"Authorization: Basic {secret}"))
    env = {
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_PROTOCOL_FROM_USER": "0",
        # Neutral values: ours may have inherited others, for instance from a hook.
        "GIT_DIR": str(git_dir),
        "GIT_OBJECT_DIRECTORY": str(git_dir / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": "",
        "GIT_NAMESPACE": "",
        "GIT_CONFIG_PARAMETERS": "",
        "GIT_CONFIG_COUNT": str(len(settings)),
    }
    for number, (key, value) in enumerate(settings):
        env[f"GIT_CONFIG_KEY_{number}"] = key
        env[f"GIT_CONFIG_VALUE_{number}"] = value
    if remote.transport == "ssh":
        env |= {"GIT_SSH_COMMAND": shlex.join(_ssh(remote)), "GIT_SSH_VARIANT": "ssh"}
    return env


def _ssh(remote: Remote) -> list[str]:
    options = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "IdentityFile": f'"{remote.key_file}"',
        "UserKnownHostsFile": f'"{remote.known_hosts}"',
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "ConnectTimeout": "15",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
    }
    return ["ssh", "-F", "/dev/null", *(f"-o{key}={value}" for key, value in options.items())]
