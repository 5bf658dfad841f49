# SPDX-License-Identifier: Apache-2.0
"""Reading hostile path and query parameters: a clear 400 or a good value."""

from starlette.exceptions import HTTPException
from starlette.requests import Request

_LONGEST = 300


def text(request: Request, name: str) -> str | None:
    """A query value, or None where it is absent or empty."""
    value = request.query_params.get(name, "").strip()
    if len(value) > _LONGEST or "\0" in value:
        raise HTTPException(400, f"The value of {name} is not acceptable.")
    return value or None


def number(request: Request, name: str, *, least: int = 1, most: int = 2**31 - 1) -> int | None:
    """A whole number from the query, or None where it is absent or empty."""
    value = text(request, name)
    return None if value is None else _parse(value, name, least, most)


def path_number(request: Request, name: str) -> int:
    """A positive whole number from the path."""
    return _parse(request.path_params[name], name, 1, 2**31 - 1)


def _parse(value: str, name: str, least: int, most: int) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 12):  # noqa: PLR2004
        raise HTTPException(400, f"{name} must be a whole number.")
    if not least <= int(value) <= most:
        raise HTTPException(400, f"{name} must lie between {least} and {most}.")
    return int(value)
