# SPDX-License-Identifier: Apache-2.0
"""The demo's configuration, written as the files that an operator would write."""

import json
import shlex
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

from ci.demo.scene import PROJECT, Scene

JOB = "acme-virt-functional"
PIPELINE = "check"
PASSWORD_FILE = "ci-password"  # noqa: S105 - the name of a file


@dataclass(frozen=True, kw_only=True)
class NodeChoice:
    """Where the demo's suites run.

    Attributes:
        emulator: On our own stand-in instead of a hypervisor.
        why: Why the stand-in, for the screen; empty for QEMU.
    """

    emulator: bool
    why: str = ""

    @property
    def label(self) -> str:
        """Node label of the demo's job."""
        return "emulator" if self.emulator else "qemu"


def write_config(directory: Path, scene: Scene, choice: NodeChoice, *, port: int) -> Path:
    """Write the configuration below `directory`; returns the folder to load.

    Args:
        directory: Of the demo.
        scene: The review server.
        choice: Which nodes.
        port: Of the page; a free one, known already.
    """
    folder = directory / "config"
    folder.mkdir(parents=True, exist_ok=True)
    secret = folder / PASSWORD_FILE
    secret.write_text(scene.ci.password)
    secret.chmod(0o600)
    (folder / "hypervouch.yaml").write_text(_service(scene, port))
    (folder / "layout.yaml").write_text(_layout(choice))
    (folder / "nodes.yaml").write_text(_nodes(choice))
    return folder


def _service(scene: Scene, port: int) -> str:
    return textwrap.dedent(f"""\
        - hypervouch:
            state-dir: ../state
            url: http://127.0.0.1:{port}/
            listen: 127.0.0.1:{port}
        - connection:
            name: gerrit
            server: {scene.ci.host}
            port: {scene.ci.ssh_port}
            user: {scene.ci.user}
            key-file: {scene.ci.key_file}
            known-hosts: {scene.ci.known_hosts}
            url: {scene.ci.url}/
            password: {{from-file: {PASSWORD_FILE}}}
        """)


def _layout(choice: NodeChoice) -> str:
    emulator = "\n    env: {ACME_VIRT_EMULATOR: '1'}\n    trusted: true" if choice.emulator else ""
    # On this machine itself only our own Python is sure to have pytest.
    python = shlex.quote(sys.executable) if choice.emulator else "python3"
    command = f"{python} -m pytest -v --junitxml=results/junit.xml tests/functional"
    return f"""\
- pipeline:
    name: {PIPELINE}
    connection: gerrit
    policy: vote
- job:
    name: {JOB}
    suite: driver
    run: {json.dumps(command)}
    results: [results/*.xml]
    node-label: {choice.label}
    timeout-s: 300
    irrelevant-files: ['docs/', '.*\\.md$']{emulator}
- project:
    name: {PROJECT}
    {PIPELINE}:
      jobs: [{JOB}]
"""


def _nodes(choice: NodeChoice) -> str:
    if choice.emulator:
        return textwrap.dedent("""\
            - provider:
                name: emulator
                driver: dummy
                transport: local
                label: emulator
                slots: 2
            """)
    return textwrap.dedent("""\
        - provider:
            name: qemu
            driver: qemu
            label: qemu
            slots: 2
        """)
