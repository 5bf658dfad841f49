# SPDX-License-Identifier: Apache-2.0
"""Notices as mail to the operator: plain text, and several that wait together in one mail."""

import smtplib
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from ci.clock import Clock, SystemClock
from ci.errors import NoticeRefused, ReporterError
from ci.layout import Model, SecretRef
from ci.model.notice import Notice
from ci.reporters.mail_text import ADDRESS, compose
from ci.reporters.trust import authorities, is_about_trust, is_loopback
from ci.settings import resolve_secret

DIGEST = 50
PORTS = {"starttls": 587, "tls": 465, "none": 25}
PERMANENT = 500


class EmailOptions(Model):
    """What the configuration may say of an `email` reporter.

    Attributes:
        name: Name of the reporter.
        host: SMTP server.
        port: Its port; 587, 465 or 25 by `security`.
        security: `starttls`, `tls` from the first byte, or `none`.
        insecure: Whether `none` may leave this machine.
        ca_file: Authorities that sign the server's certificate; the system's by default.
        user: Login; none without it.
        password: Its password.
        sender: Address that the mails come from.
        to: Who gets them.
        timeout_s: Seconds without progress until a delivery counts as failed.
    """

    name: str
    host: str = Field(pattern=r"^[A-Za-z0-9_.:-]+$", description="Host name or address")
    port: int | None = Field(default=None, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    insecure: bool = False
    ca_file: Path | None = None
    user: str | None = Field(default=None, min_length=1)
    password: SecretRef | None = None
    sender: str = Field(alias="from")
    to: tuple[str, ...] = Field(min_length=1, max_length=50)
    timeout_s: int = Field(default=15, ge=1, le=30)

    @field_validator("sender", "to")
    @classmethod
    def _addresses(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for one in (value,) if isinstance(value, str) else value:
            if not ADDRESS.fullmatch(one):
                raise ValueError(f"{one[:80]!r} is not an address such as ops@example.org")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("give both user and password, or neither")
        if self.security == "none" and not (self.insecure or is_loopback(self.host)):
            raise ValueError("use security: starttls or tls, or set insecure: true")
        return self


class EmailNotifier:
    """Sends to one SMTP server; see `ci.reporters.notifier` for the contract.

    Args:
        options: Which server, from whom and to whom.
        clock: Where time comes from.

    Raises:
        ConfigError: The password or the file of authorities is missing or of no use.
    """

    Options: ClassVar[type[EmailOptions]] = EmailOptions

    def __init__(self, options: EmailOptions, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._port = options.port or PORTS[options.security]
        self._where = f"the mail server {options.host}:{self._port} of reporter {options.name}"
        self._context = authorities(options.ca_file)
        self._password()

    @property
    def most(self) -> int:
        """A digest's worth."""
        return DIGEST

    def deliver(self, notices: Sequence[Notice]) -> str:
        """Send one mail.

        Raises:
            NoticeRefused: The server does not take this mail.
            ReporterError: It is away, or refuses us, the sender or every recipient.
            ConfigError: The password cannot be read any more.
        """
        options = self._options
        mail = compose(notices, sender=options.sender, to=options.to, at=self._clock.now())
        with self._session() as session:
            refused = session.send_message(mail, options.sender, options.to)
        if refused:
            said = ", ".join(f"{who} ({_said(*why)})" for who, why in refused.items())
            return f"sent, but refused for {said}"
        return f"sent to {', '.join(options.to)}"

    def probe(self) -> str:
        """Connect and log in; no mail is sent.

        Raises:
            ReporterError: The server is away, or refuses us.
            ConfigError: The password cannot be read any more.
        """
        with self._session() as session:
            session.noop()
        who = f"{self._options.user} logs in" if self._options.user else "no login asked for"
        return f"{self._options.host}:{self._port} answers, {who} (no mail was sent)"

    def close(self) -> None:
        """Nothing is kept open: mails are rare, and servers end idle sessions."""

    def _password(self) -> str:
        return resolve_secret(self._options.password) if self._options.password else ""

    @contextmanager
    def _session(self) -> Iterator[smtplib.SMTP]:
        """A session that is logged in; every error of it becomes one of ours."""
        password = self._password()
        try:
            session = self._connect()
            try:
                if self._options.user:
                    session.login(self._options.user, password)
                yield session
            finally:
                self._part(session)
        except OSError as error:  # smtplib's and ssl's errors are such
            raise self._trouble(error) from error
        except UnicodeError:
            # The cause might show a part of the password.
            raise ReporterError(
                f"{self._where} cannot be spoken to: host, user or password hold characters "
                "that mail servers do not take",
                hint="use ASCII for all three",
            ) from None

    def _connect(self) -> smtplib.SMTP:
        options, timeout_s = self._options, float(self._options.timeout_s)
        if options.security == "tls":
            return smtplib.SMTP_SSL(
                options.host, self._port, timeout=timeout_s, context=self._context
            )
        session = smtplib.SMTP(options.host, self._port, timeout=timeout_s)
        if options.security == "starttls":
            try:
                session.starttls(context=self._context)
            except (OSError, UnicodeError):
                session.close()
                raise
        return session

    def _part(self, session: smtplib.SMTP) -> None:
        """Say goodbye; the mail's fate was known before, whatever the server does now."""
        try:
            session.quit()
        except OSError:
            session.close()

    def _trouble(self, error: OSError) -> ReporterError:
        if isinstance(error, smtplib.SMTPAuthenticationError):
            return self._login_refused(error)
        if isinstance(error, smtplib.SMTPNotSupportedError):
            return ReporterError(
                f"{self._where} does not offer what is asked for: {error}",
                hint="set security to what the server offers, and user only where it has logins",
            )
        if isinstance(error, smtplib.SMTPRecipientsRefused):
            return self._recipients_refused(error)
        if isinstance(error, smtplib.SMTPDataError) and error.smtp_code >= PERMANENT:
            return NoticeRefused(f"{self._where} refuses the mail: {_told(error)}")
        if isinstance(error, smtplib.SMTPResponseException):
            return ReporterError(
                f"{self._where} refuses us: {_told(error)}",
                hint="check the reporter's from, and whether this machine may send there",
                retryable=error.smtp_code < PERMANENT,
            )
        return self._not_reached(error)

    def _login_refused(self, error: smtplib.SMTPAuthenticationError) -> ReporterError:
        for_now = error.smtp_code < PERMANENT
        return ReporterError(
            f"{self._where} refuses the login of {self._options.user}: {_told(error)}",
            hint="put the right password where the reporter's password points to; "
            "then `hypervouch notices test` tries it at once",
            retryable=for_now,
        )

    def _recipients_refused(self, error: smtplib.SMTPRecipientsRefused) -> ReporterError:
        answers = error.recipients.values()
        said = ", ".join(f"{who} ({_said(*why)})" for who, why in error.recipients.items())
        return ReporterError(
            f"{self._where} refuses every recipient: {said}",
            hint="check the reporter's to, and whether the server needs a login",
            retryable=any(code < PERMANENT for code, _ in answers),
        )

    def _not_reached(self, error: OSError) -> ReporterError:
        if is_about_trust(error):
            return ReporterError(
                f"the certificate of {self._where} is not trusted: {error}",
                hint="name the file of its authority as ca-file, and host as the certificate does",
            )
        if isinstance(error, ssl.SSLError):
            return ReporterError(
                f"{self._where} does not speak TLS with us: {error}",
                hint="starttls is for port 587, tls for port 465: set security to match",
            )
        return ReporterError(
            f"{self._where} does not answer: {str(error) or type(error).__name__}",
            hint="check host and port, and that the server runs",
            retryable=True,
        )


def _told(error: smtplib.SMTPResponseException) -> str:
    return _said(error.smtp_code, error.smtp_error)


def _said(code: int, text: bytes | str) -> str:
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return f"{code} {' '.join(words.split())[:200]}"
