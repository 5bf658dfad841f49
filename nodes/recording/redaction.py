# SPDX-License-Identifier: Apache-2.0
"""What of a recording is secret: passwords, sessions, tokens, cookies. Pure.

A secret is learned where it is first seen (the password is told, a session's id stands in the
answer to a login) and replaced by one placeholder wherever it occurs, also encoded. A client that
is given the placeholder as its password and its session then asks with placeholders by itself,
which is how a replay needs no secret at all.
"""

import base64
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote, quote_plus

from ci.errors import ConfigError, HypervouchBug

PASSWORD = "hv-secret-1"  # noqa: S105 - what stands where a password stood
"""The password's placeholder: the first that is learned."""

SHORTEST = 8
"""A password of fewer characters could be a part of any word of an answer."""

_PLACEHOLDER = "hv-secret-"
_OUR_WORDS = "hypervouch-own hypervouch_own"
_SHORTEST_FOUND = 6
_HEADERS = frozenset(
    {
        "authorization",
        "cookie",
        "set-cookie",
        "x-auth-token",
        "x-subject-token",
        "x-admin-token",
        "vmware-api-session-id",
    }
)
_COOKIE = re.compile(r'^\s*[\w.-]+="?([^";]+)')
_WORD = r"[\w-]*(?:passwor[dt]|passwd|secret|ticket)[\w-]*"
_FIELDS = (
    # <password>...</password>, with or without a prefix and attributes.
    re.compile(rf"(<(?:\w+:)?{_WORD}(?:\s[^<>]*)?>)([^<]*)(?=</)", re.IGNORECASE),
    # XML-RPC: <name>password</name><value><string>...</string></value>.
    re.compile(rf"(<name>{_WORD}</name>\s*<value>(?:<string>)?)([^<]*)(?=</)", re.IGNORECASE),
    re.compile(rf'("{_WORD}"\s*:\s*")((?:[^"\\]|\\.)*)(?=")', re.IGNORECASE),
)
_IN_ANSWERS = (
    # vCenter's session, in the answer to a login and wherever a session is described.
    re.compile(r"<LoginResponse[^>]*>.*?<key>([^<]+)</key>", re.DOTALL),
    re.compile(r'type="UserSession"[^>]*>\s*<key>([^<]+)</key>'),
)
_XAPI_LOGIN = "<methodName>session.login_with_password<"
_XAPI_SESSION = re.compile(r"<name>Value</name>\s*<value>(?:<string>)?([^<]+)")
_NO_SECRET = re.compile(r"(?:true|false|null|\d+|\*+|hv-secret-\d+)", re.IGNORECASE)


class Redaction:
    """The secrets of one recording.

    Args:
        password: The one that the client is given.
        words: What requests hold in the clear: URLs.

    Raises:
        ConfigError: There is none, or other words would be taken for it.
    """

    def __init__(self, password: str, *words: str) -> None:
        if not password:
            raise ConfigError(
                "there is no password", hint="name a file or a variable that holds it"
            )
        if len(password) < SHORTEST:
            raise ConfigError(
                f"a password of fewer than {SHORTEST} characters cannot be kept out of a recording",
                hint="give the user of the API a longer one",
            )
        self._known: dict[str, tuple[re.Pattern[str], str]] = {}
        self._learn(password)
        if any(self.clean(word) != word for word in (*words, _OUR_WORDS)):
            raise ConfigError(
                "the password is a word that requests hold anyway: it cannot be kept out of them",
                hint="give the user of the API another one",
            )

    def __repr__(self) -> str:
        """No secrets."""
        return f"<{len(self._known)} secrets>"

    def learn(
        self,
        asked: Mapping[str, str],
        question: str,
        told: Mapping[str, Sequence[str]],
        answer: str,
    ) -> None:
        """Look for secrets in a request's headers and body, and in its answer's."""
        headers = [*asked.items(), *((name, one) for name in told for one in told[name])]
        for name, value in headers:
            if name.lower() in _HEADERS:
                self._learn_header(name.lower(), value)
        for pattern in _FIELDS:
            for text in (question, answer):
                for found in pattern.finditer(text):
                    self._learn(found.group(2))
        for pattern in _IN_ANSWERS:
            for found in pattern.finditer(answer):
                self._learn(found.group(1))
        if _XAPI_LOGIN in question and (found_one := _XAPI_SESSION.search(answer)):
            self._learn(found_one.group(1))

    def clean(self, text: str) -> str:
        """The text with placeholders, the longest secrets first."""
        for secret in sorted(self._known, key=len, reverse=True):
            pattern, placeholder = self._known[secret]
            text = pattern.sub(placeholder, text)
        return text

    def check(self, text: str) -> None:
        """Look once more, with other eyes.

        Raises:
            HypervouchBug: A secret is in it.
        """
        low = text.lower()
        for secret in self._known:
            if any(form.lower() in low for form in _forms(secret)):
                raise HypervouchBug(
                    "a secret would have been written into the recording: nothing was written",
                    hint="report it to us, please, with the hypervisor's name and version",
                )

    def _learn_header(self, name: str, value: str) -> None:
        if name == "authorization":
            self._learn(value.partition(" ")[2] or value)
        elif name == "set-cookie":
            if found := _COOKIE.match(value):
                self._learn(found.group(1))
        elif name == "cookie":
            for one in value.split(";"):
                if found := _COOKIE.match(one):
                    self._learn(found.group(1))
        else:
            self._learn(value)

    def _learn(self, secret: str) -> None:
        text = html.unescape(secret.strip())
        if len(text) < _SHORTEST_FOUND or _NO_SECRET.fullmatch(self.clean(text)):
            return
        self._known[text] = (_written(text), f"{_PLACEHOLDER}{len(self._known) + 1}")


def blind(text: str) -> str:
    """The same text whatever its fields of secrets hold: passwords may be new each time."""
    for pattern in _FIELDS:
        text = pattern.sub(r"\1*", text)
    return text


def _written(secret: str) -> re.Pattern[str]:
    """Finds a secret however each of its characters is written: XML, a URL, JSON, in any mix."""
    encoded = base64.b64encode(secret.encode()).decode()
    plain = "".join(_character(one) for one in secret)
    return re.compile(f"{plain}|{re.escape(encoded)}")


def _character(one: str) -> str:
    """One character: as it is, escaped by a backslash, percent-encoded, or as an entity."""
    if one.isascii() and one.isalnum():
        return one
    code = ord(one)
    ways = {one, json.dumps(one)[1:-1], html.escape(one), quote_plus(one), f"&#{code};"}
    ways |= {quote(one, safe=""), quote(one, safe="").lower(), f"&#x{code:x};", f"&#x{code:X};"}
    ways |= {"&apos;"} if one == "'" else {f"\\{one}"} if one == "/" else set()
    longest_first = sorted(ways, key=lambda way: (-len(way), way))
    return f"(?:{'|'.join(re.escape(way) for way in longest_first)})"


def _forms(secret: str) -> Iterator[str]:
    """How a secret may be written."""
    yield secret
    yield quote(secret, safe="")
    yield html.escape(secret)
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield base64.b64encode(secret.encode()).decode()
