# SPDX-License-Identifier: Apache-2.0
"""What a webhook says and how it is signed; pure.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
import json

from ci.errors import ConfigError
from ci.model.notice import Notice

SECRET_BYTES = range(24, 65)
SECRET_PREFIX = "whsec_"  # noqa: S105 - the mark before a secret, not one


def payload(notice: Notice) -> bytes:
    """The body of a post: `type`, `timestamp` and `data`, as the specification proposes."""
    body = {
        "type": f"hypervouch.{notice.kind.value}",
        "timestamp": notice.occurred_at.isoformat(),
        "data": {
            "key": notice.key,
            "subject": notice.subject,
            "text": notice.text,
            "url": notice.url,
            "facts": notice.facts,
        },
    }
    return json.dumps(body, separators=(",", ":")).encode()


def message_id(reporter: str, notice: Notice) -> str:
    """Identity of a notice for one reporter: the same however often it is posted."""
    digest = hashlib.sha256(f"{reporter}\n{notice.key}".encode("utf-8", "replace")).hexdigest()
    return f"msg_{digest[:32]}"


def signed_headers(key: bytes, message: str, timestamp: int, content: bytes) -> dict[str, str]:
    """The three headers of Standard Webhooks, and the content's type.

    Args:
        key: What both sides know.
        message: Identity of the message.
        timestamp: Now, in seconds since the epoch: receivers refuse old ones.
        content: The body, byte for byte as it is sent.
    """
    signed = f"{message}.{timestamp}.".encode() + content
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {
        "Content-Type": "application/json",
        "webhook-id": message,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }


def signing_key(secret: str, reporter: str) -> bytes:
    """The key inside a secret such as `whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw`.

    Raises:
        ConfigError: It is not base64, or not 24 to 64 bytes long.
    """
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""  # the cause would show the secret
    if len(key) not in SECRET_BYTES:
        raise ConfigError(
            f"the secret of reporter {reporter} is not base64 of 24 to 64 bytes",
            hint='make one: echo "whsec_$(head -c 32 /dev/urandom | base64)"',
        )
    return key
