# SPDX-License-Identifier: Apache-2.0
"""The demo's stage: a review server with three accounts and the driver project `acme-virt`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ci.sandbox import Sandbox
from ci.sandbox.account import ReviewServer
from ci.sandbox.author import Pusher
from ci.sandbox.demo_patches import project_files
from ci.sandbox.real.server import RealGerrit
from ci.sandbox.real.site import make_key

PROJECT = "acme-virt"
AUTHOR = "dana"
CI_USER = "hypervouch-ci"
CI_NAME = "Hypervouch CI"
PASSWORD = "demo"  # noqa: S105 - of a server on the loopback address that lives minutes


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A running review server, seen by those who act on it.

    Attributes:
        kind: What it is, for the screen.
        author: Account of the patch author.
        ci: Account of the CI.
        stop: Ends the server.
    """

    kind: str
    author: ReviewServer
    ci: ReviewServer
    stop: Callable[[], None]


def open_scene(kind: str, directory: Path) -> Scene:
    """Start a review server, with its accounts and the driver project in it.

    Args:
        kind: `sandbox` or `real`.
        directory: Everything lies below it.

    Raises:
        HypervouchError: It cannot be started here.
    """
    keys = directory / "keys"
    keys.mkdir(parents=True, exist_ok=True)
    return _real(directory) if kind == "real" else _sandbox(directory, keys)


def _sandbox(directory: Path, keys: Path) -> Scene:
    box = Sandbox(directory / "review")
    box.start()
    for user, name in (("admin", "Administrator"), (AUTHOR, "Dana Driver"), (CI_USER, CI_NAME)):
        box.add_account(
            user,
            name,
            key=make_key(keys / user),
            password=PASSWORD,
            stream_events=user == CI_USER,
            vote=user == CI_USER,
            admin=user == "admin",
        )
    box.create_project(PROJECT)

    def seen_by(user: str) -> ReviewServer:
        return ReviewServer(
            host=box.host,
            ssh_port=box.ssh_port,
            url=box.url,
            user=user,
            key_file=keys / user,
            password=PASSWORD,
            known_hosts=box.known_hosts,
        )

    _fill(seen_by("admin"), directory)
    return Scene(
        kind="sandbox review server (ours, speaks Gerrit's SSH and REST)",
        author=seen_by(AUTHOR),
        ci=seen_by(CI_USER),
        stop=box.stop,
    )


def _real(directory: Path) -> Scene:
    gerrit = RealGerrit(directory / "review")
    gerrit.start()
    gerrit.seed(ci_user=CI_USER, full_name=CI_NAME, projects=[PROJECT])
    author = gerrit.create_account(AUTHOR, "Dana Driver", stream_events=False, vote=False)
    _fill(gerrit.admin, directory)
    return Scene(kind="real Gerrit", author=author, ci=gerrit.ci, stop=gerrit.stop)


def _fill(admin: ReviewServer, directory: Path) -> None:
    """Give the project its first commit: the driver and its functional suite."""
    pusher = Pusher(admin, PROJECT, directory / "work" / "admin")
    pusher.push_branch(project_files(), subject="Add the acme-virt driver and its functional suite")
