# SPDX-License-Identifier: Apache-2.0
"""Sessions `lint types tests docs`, run in the environment that scripts/setup made.

Nox makes no environments here: there is one, hash-pinned by the lock files.
"""

import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "docs"]

PYTHON = sys.executable
BIN = Path(PYTHON).parent


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format, and who may import whom."""
    session.run(PYTHON, "-m", "ruff", "check", ".")
    session.run(PYTHON, "-m", "ruff", "format", "--check", ".")
    session.run(str(BIN / "lint-imports"), "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    session.run(PYTHON, "-m", "mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, or those named after `--`."""
    session.run(PYTHON, "-m", "pytest", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documents against the code."""
    session.run(PYTHON, "-m", "pytest", "-q", "tests/unit/test_docs.py", "tests/unit/test_house.py")
