# SPDX-License-Identifier: Apache-2.0
"""The URL of an installation's PostgreSQL, as the configuration may give it.

Only what tells the server and how the way to it is protected may stand in the URL: the
settings of a session are the program's own, and a secret never stands in the configuration.
"""

from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, Field

SCHEME = "postgresql"
OPTIONS = frozenset(
    {"host", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "target_session_attrs"}
)


def _checked(url: str) -> str:
    """Return a URL that can be used as it is, or say what is wrong with it, without a secret."""
    if not url:
        return url
    try:
        parts = urlsplit(url)
        _port = parts.port
    except ValueError as error:
        raise ValueError("this is no URL: write postgresql://USER@HOST/NAME") from error
    if parts.scheme.startswith("sqlite"):
        raise ValueError("leave the key away: SQLite is used without it, in a file of state-dir")
    if parts.scheme != SCHEME:
        raise ValueError("only PostgreSQL can be used: write postgresql://USER@HOST/NAME")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.password is not None or "password" in options:
        raise ValueError("a password may not stand in the URL: give it in database-password")
    if unknown := sorted(set(options) - OPTIONS):
        raise ValueError(f"unknown option {', '.join(unknown)}: use {', '.join(sorted(OPTIONS))}")
    if not parts.username:
        raise ValueError("the user is missing: write postgresql://USER@HOST/NAME")
    if not parts.hostname and not options.get("host"):
        raise ValueError("the host is missing: write postgresql://USER@HOST/NAME")
    if not parts.path.strip("/") or "/" in parts.path.strip("/"):
        raise ValueError("the database's name is missing: write postgresql://USER@HOST/NAME")
    return url


DatabaseUrl = Annotated[
    str,
    AfterValidator(_checked),
    Field(description="PostgreSQL shared by all processes; without it SQLite, in state-dir"),
]
