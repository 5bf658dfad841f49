# SPDX-License-Identifier: Apache-2.0
"""URLs of hypervisors that have an API of their own: what all of them refuse, in the same words."""

from collections.abc import Collection
from urllib.parse import SplitResult, parse_qsl, urlsplit

from nodes.hypervisors.faults import CallerFault


def split(url: str, default_port: int, example: str) -> tuple[SplitResult, str, int]:
    """Take a URL apart.

    Args:
        url: As the user wrote it.
        default_port: Where it names none.
        example: A right one, for the hint.

    Returns:
        Its parts, its host (perhaps empty) and its port.

    Raises:
        CallerFault: It is no URL, or holds a password.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or default_port
    except ValueError as error:
        raise CallerFault(f"{url!r} is no URL: {error}", hint=example) from error
    if parts.password:
        raise CallerFault(f"the URL of {host} holds a password", hint="name a file or a variable")
    return parts, host, port


def options(url: str, parts: SplitResult, known: Collection[str]) -> dict[str, str]:
    """What stands after the question mark.

    Raises:
        CallerFault: One of them is unknown.
    """
    found = dict(parse_qsl(parts.query, keep_blank_values=True))
    if strange := sorted(set(found) - set(known)):
        names = ", ".join(sorted(known))
        raise CallerFault(f"{url!r} has an unknown option {strange[0]}", hint=f"use {names}")
    return found
