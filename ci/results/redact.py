# SPDX-License-Identifier: Apache-2.0
"""Secrets taken out of output while it streams, also where a chunk's border splits one. Pure."""

from collections.abc import Sequence
from urllib.parse import quote

MARK = b"[redacted]"
MIN_SECRET = 6


class Redactor:
    """Replaces every secret in a stream of bytes by `[redacted]`.

    Bytes that may be the beginning of a secret are held back until the next `feed` or
    `flush` tells; everything else passes at once. The URL-quoted form of a secret is taken
    out too. Not thread-safe: one per stream.

    Args:
        secrets: What must not be seen. Those under `MIN_SECRET` characters are left alone:
            they occur by chance, and marks all over a log would give them away.
    """

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        forms = {form for text in secrets for form in (text, quote(text, safe=""))}
        raw = {form.encode() for form in forms if len(form) >= MIN_SECRET}
        # The longest first: a secret inside another one must not leave the rest of it behind.
        self._secrets = sorted(raw, key=lambda secret: (-len(secret), secret))
        self._reach = max((len(secret) for secret in raw), default=1) - 1
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """The next part of the stream; returns what may be shown now."""
        if not self._secrets:
            return chunk
        text = self._held + chunk
        cut = self._cut(text)
        self._held = text[cut:]
        return self._replace(text[:cut])

    def flush(self) -> bytes:
        """The stream has ended: returns what was held back."""
        text, self._held = self._held, b""
        return self._replace(text)

    def _replace(self, text: bytes) -> bytes:
        for secret in self._secrets:
            text = text.replace(secret, MARK)
        return text

    def _cut(self, text: bytes) -> int:
        """How far `text` can be decided: no secret may begin before and end behind that."""
        cut = self._first_open(text)
        moved = cut < len(text)
        while moved:
            moved = False
            for secret in self._secrets:
                at = text.rfind(secret, max(0, cut - len(secret) + 1), cut + len(secret) - 1)
                if 0 <= at < cut:
                    cut, moved = at, True
        return cut

    def _first_open(self, text: bytes) -> int:
        """Where the earliest unfinished secret at the end of `text` may begin."""
        start = max(0, len(text) - self._reach)
        first = len(text)
        for secret in self._secrets:
            at = text.find(secret[:1], max(start, len(text) - len(secret) + 1))
            while 0 <= at < first:
                if secret.startswith(text[at:]):
                    first = at
                    break
                at = text.find(secret[:1], at + 1)
        return first
