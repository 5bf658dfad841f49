# SPDX-License-Identifier: Apache-2.0
"""What a database's refusals mean to an operator, and whether the database is at fault at all.

PostgreSQL gives no code for a connection it refuses, only a sentence: what we do not know is
handed on as it is. No message ever holds a password: the driver's do not, and URLs hide it.
"""

from typing import Final

import sqlalchemy as sa

from ci.errors import ConfigError, HypervouchError, StorageError

Trouble = sa.exc.DBAPIError | sa.exc.TimeoutError
TROUBLE: Final = (sa.exc.DBAPIError, sa.exc.TimeoutError)
# The disk, the file or the server is at fault; what else derives from these is our own mistake.
_AT_FAULT = (sa.exc.OperationalError, sa.exc.DatabaseError, sa.exc.InterfaceError)
_STALLED, _NO_RIGHT, _READ_ONLY = "25P03", "42501", "25006"
# Sentence of the server or its driver, and how to mend it.
_CONNECTING = (
    (
        "password authentication failed",
        "compare database-password with the role's: ALTER ROLE name PASSWORD '...'",
    ),
    ("no password supplied", "the server asks for a password: give the key database-password"),
    ("no pg_hba.conf entry", "let this host, user and database in by a line of pg_hba.conf"),
    ("authentication failed", "compare the user and its line in the server's pg_hba.conf"),
    ("is not permitted to log in", "ALTER ROLE name LOGIN"),
    ("permission denied for database", "GRANT CONNECT ON DATABASE name TO role"),
    ("certificate verify failed", "compare sslrootcert with the server's certificate"),
    ("server does not support SSL", "switch TLS on at the server, or leave sslmode away"),
    ("could not translate host name", "correct the host in the key database"),
    ("failed to resolve host", "correct the host in the key database"),
    ("root certificate file", "name the file of the server's authority in sslrootcert"),
)
_ANY_HINT = (
    "look at the disk's free space, at the file's owner, and whether state-dir is right; "
    "for PostgreSQL, whether its server runs and lets us in"
)


def at_fault(error: Trouble) -> bool:
    """Whether the database is to blame for an error, and not a statement of ours."""
    if isinstance(error, sa.exc.TimeoutError) or error.connection_invalidated:
        return True
    # A transaction that stood still was ended by the server; a standby takes no writes.
    state = getattr(error.orig, "sqlstate", None)
    return type(error) in _AT_FAULT or state in {_STALLED, _READ_ONLY}


def refused(what: str, error: Trouble) -> StorageError:
    """A refusal in the middle of the work: it waits and is tried again."""
    return StorageError(f"{what}: {_first_line(error)}", hint=_ANY_HINT, retryable=True)


def not_opened(url: sa.URL, error: Trouble) -> HypervouchError | None:
    """A refusal at the start, with the way to mend it; None where it is our own mistake."""
    plain = url.set(drivername=url.get_backend_name())
    where, said = f"the database {plain.render_as_string()}", _first_line(error)
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    if state == _NO_RIGHT:
        return ConfigError(
            f"{where} does not let us make tables: {said}",
            hint=f'let the role own it: ALTER DATABASE "{url.database}" OWNER TO "{url.username}"',
        )
    if not at_fault(error):
        return None
    if url.get_backend_name() == "sqlite":
        return refused(f"{where} cannot be used", error)
    if "does not exist" in said:
        role = f'role "{url.username}"' in said
        make = (
            f'CREATE ROLE "{url.username}" LOGIN'
            if role
            else f'CREATE DATABASE "{url.database}" OWNER "{url.username}" ENCODING UTF8'
        )
        return ConfigError(f"{where} cannot be used: {said}", hint=f"make it: {make}")
    for sentence, hint in _CONNECTING:
        if sentence in said:
            return ConfigError(f"{where} cannot be used: {said}", hint=hint)
    return StorageError(
        f"{where} cannot be reached: {said}",
        hint="look whether the server runs, whether host and port are right, and at firewalls",
        retryable=True,
    )


def _first_line(error: Trouble) -> str:
    """The server's sentence, without the driver's words before it."""
    cause = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    text = str(cause).strip()
    line = text.splitlines()[0] if text else type(cause).__name__
    return line.rpartition("FATAL:")[2].strip() or line
