"""Signatures as Standard Webhooks has them (github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md):
`v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`, one per key, separated by spaces.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

PREFIX: Final = "whsec_"
KEY_BYTES: Final = range(24, 65)
KEYS_LIMIT: Final = 8
_TEXT_LIMIT: Final = 4096


class KeyUnusable(ValueError):
    """The Secret's value does not hold signing keys. Never quotes it."""


def parse_keys(value: bytes) -> list[bytes]:
    """One key per line, `whsec_` and base64 of 24 to 64 bytes; blank lines are skipped. Raises KeyUnusable."""
    try:
        lines = [line for each in value.decode("ascii").splitlines() if (line := each.strip())]
    except UnicodeDecodeError:
        raise KeyUnusable("it is not text") from None
    if not lines or len(lines) > KEYS_LIMIT or len(value) > _TEXT_LIMIT:
        raise KeyUnusable(f"it needs 1 to {KEYS_LIMIT} lines, a signing key on each")
    return [_key(line, number) for number, line in enumerate(lines, 1)]


def _key(line: str, number: int) -> bytes:
    try:
        if not line.startswith(PREFIX):
            raise ValueError
        key = base64.b64decode(line.removeprefix(PREFIX), validate=True)
        if len(key) not in KEY_BYTES:
            raise ValueError
    except (ValueError, binascii.Error):
        size = f"{KEY_BYTES.start} to {KEY_BYTES.stop - 1}"
        raise KeyUnusable(f"key {number} is not {PREFIX} and the base64 of {size} bytes") from None
    return key


def headers(keys: Sequence[bytes], *, id_: str, timestamp: int, body: bytes) -> dict[str, str]:
    """`timestamp`: of this attempt, in seconds since the epoch."""
    signed = f"{id_}.{timestamp}.".encode() + body
    digests = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests),
    }
