# SPDX-License-Identifier: Apache-2.0
"""Notices as signed HTTP posts: one JSON object each, with the headers of Standard Webhooks."""

from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import urlsplit

import httpx
from pydantic import Field, field_validator, model_validator

from ci.clock import Clock, SystemClock
from ci.errors import NoticeRefused, ReporterError
from ci.layout import Model, SecretRef
from ci.model.notice import Notice
from ci.reporters.standard_webhooks import message_id, payload, signed_headers, signing_key
from ci.reporters.trust import authorities, is_about_trust, is_loopback
from ci.settings import resolve_secret

REPLY_LIMIT_BYTES = 64 * 1024
REPLY_S = 20.0
LONGEST_PAUSE_S = 3600.0
# Nothing is wrong with the notice: the address, the secret or the receiver's rules are.
_NOT_THE_NOTICE = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
        HTTPStatus.GONE,
    }
)
_LATER = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.CONFLICT,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)
_HINTS = {
    HTTPStatus.UNAUTHORIZED: "give both sides the same secret",
    HTTPStatus.FORBIDDEN: "give both sides the same secret, or let the receiver allow us",
    HTTPStatus.NOT_FOUND: "check the reporter's url",
    HTTPStatus.METHOD_NOT_ALLOWED: "check the reporter's url: it must take POST",
    HTTPStatus.GONE: "the receiver wants no more notices: remove this reporter, or ask its owner",
}


class WebhookOptions(Model):
    """What the configuration may say of a `webhook` reporter.

    Attributes:
        name: Name of the reporter.
        url: Where to post to.
        secret: Signs every post; the receiver has the same one.
        insecure: Whether plain http may leave this machine.
        ca_file: Authorities that sign the receiver's certificate; the system's by default.
        timeout_s: Seconds without progress until a post counts as failed.
    """

    name: str
    url: str = Field(pattern=r"^https?://[^\s/@]+(/\S*)?$", description="https://HOST/PATH")
    secret: SecretRef
    insecure: bool = False
    ca_file: Path | None = None
    timeout_s: int = Field(default=10, ge=1, le=30)

    @field_validator("url")
    @classmethod
    def _can_be_asked(cls, url: str) -> str:
        try:
            valid = bool(httpx.URL(url).host) and urlsplit(url).port != 0
        except (httpx.InvalidURL, ValueError) as error:
            raise ValueError(f"not a URL: {error}") from error
        if not valid:
            raise ValueError("not a URL that can be asked")
        return url

    @model_validator(mode="after")
    def _encrypted(self) -> Self:
        if self.url.startswith("http:") and not (
            self.insecure or is_loopback(urlsplit(self.url).hostname or "")
        ):
            raise ValueError("url should begin with https://, or set insecure: true")
        return self


class WebhookNotifier:
    """Posts to one URL; see `ci.reporters.notifier` for the contract.

    Args:
        options: Where to and with which secret.
        clock: Where time comes from.

    Raises:
        ConfigError: The secret or the file of authorities is missing or of no use.
    """

    Options: ClassVar[type[WebhookOptions]] = WebhookOptions

    def __init__(self, options: WebhookOptions, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._where = f"the webhook of reporter {options.name} at {urlsplit(options.url).netloc}"
        self._key()
        self._client = httpx.Client(
            timeout=float(options.timeout_s),
            follow_redirects=False,
            headers={"User-Agent": "hypervouch", "Accept": "application/json"},
            # A proxy from the environment must not stand between us and this very machine.
            trust_env=not is_loopback(urlsplit(options.url).hostname or ""),
            verify=authorities(options.ca_file),
        )

    @property
    def most(self) -> int:
        """One: a receiver looks at the type of each."""
        return 1

    def deliver(self, notices: Sequence[Notice]) -> str:
        """Post one notice, signed anew for this moment.

        Raises:
            NoticeRefused: The receiver answered that it is no good.
            ReporterError: It is away, or refuses us.
            ConfigError: The secret cannot be read any more.
        """
        (notice,) = notices
        content = payload(notice)
        headers = signed_headers(
            self._key(),
            message_id(self._options.name, notice),
            int(self._clock.now().timestamp()),
            content,
        )
        status, said = self._send("POST", content, headers)
        if status // 100 != 2:  # noqa: PLR2004 - any answer of success
            raise self._error(status, said)
        return f"the receiver answered {status}"

    def probe(self) -> str:
        """Ask for the headers alone; a receiver that only takes posts may say so.

        Raises:
            ReporterError: No answer, a redirect, or an error of the server.
            ConfigError: The secret cannot be read any more.
        """
        self._key()
        status, said = self._send("HEAD", b"", {})
        if status // 100 in {3, 5} or status == HTTPStatus.GONE:
            raise self._error(status, said)
        return (
            f"{urlsplit(self._options.url).netloc} answers ({status} to HEAD, nothing was posted)"
        )

    def close(self) -> None:
        """Close kept connections."""
        self._client.close()

    def _key(self) -> bytes:
        return signing_key(resolve_secret(self._options.secret), self._options.name)

    def _send(
        self, method: str, content: bytes, headers: dict[str, str]
    ) -> tuple[int, httpx.Headers]:
        """Send it and read a bounded part of the reply; returns status and headers."""
        until_s = self._clock.monotonic_s() + REPLY_S
        try:
            with self._client.stream(
                method, self._options.url, content=content, headers=headers
            ) as reply:
                size = 0
                for piece in reply.iter_raw():
                    size += len(piece)
                    # The status is known: what a receiver says beyond is nobody's loss.
                    if size > REPLY_LIMIT_BYTES or self._clock.monotonic_s() > until_s:
                        break
                return reply.status_code, reply.headers
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.HTTPError) -> ReporterError:
        why = str(error) or type(error).__name__
        if is_about_trust(error):
            return ReporterError(
                f"the certificate of {self._where} is not trusted: {why}",
                hint="let the receiver renew it, or name its authority's file as ca-file",
            )
        return ReporterError(
            f"{self._where} does not answer: {why}",
            hint="check that it runs, and the reporter's url",
            retryable=True,
        )

    def _error(self, status: int, headers: httpx.Headers) -> ReporterError:
        message = f"{self._where} answered {status}"
        if status in _LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR or status < 200:  # noqa: PLR2004
            return ReporterError(
                message,
                hint="look at the receiver's own log",
                retryable=True,
                pause_s=self._pause_s(headers.get("retry-after", "")),
            )
        if 300 <= status < 400:  # noqa: PLR2004
            return ReporterError(
                message, hint="url must be the address that answers without a redirect"
            )
        if status in _NOT_THE_NOTICE:
            return ReporterError(message, hint=_HINTS.get(HTTPStatus(status), ""))
        return NoticeRefused(
            message, hint="look at the receiver's own log; many say 400 to a wrong secret"
        )

    def _pause_s(self, said: str) -> float:
        """What `Retry-After` asks for: seconds or a date."""
        try:
            pause_s = float(int(said))
        except ValueError:
            try:
                pause_s = (parsedate_to_datetime(said) - self._clock.now()).total_seconds()
            except (ValueError, TypeError):
                return 0.0
        return min(max(pause_s, 0.0), LONGEST_PAUSE_S)
