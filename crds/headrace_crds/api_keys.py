"""API keys: the form of a key and of its Secret. The facade judges them, the command line makes them.

hr_<id>_<43 url-safe characters>      256 random bits: a plain SHA-256 of it can be kept where others may look
Secret headrace-key-<id>, type headrace.dev/api-key
  sha256     hex, of the whole key
  namespace  the tenant
  models     optional: namespace/name, comma-separated; those alone
  expires    optional: RFC 3339
"""

import hashlib
import re
import secrets
from typing import Final

from headrace_crds.base import GROUP

SECRET_TYPE: Final = f"{GROUP}/api-key"
SECRET_PREFIX: Final = "headrace-key-"  # noqa: S105 # of a name
LABEL_KEY_NAMESPACE: Final = f"{GROUP}/key-namespace"
"""On a key's Secret: its tenant, to list by."""
ID: Final = re.compile(r"[a-z0-9]{8,32}")
KEY: Final = re.compile(r"hr_([a-z0-9]{8,32})_[A-Za-z0-9_-]{43}")
NAME: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
"""A namespace's."""
_ID_BYTES: Final = 8
_SECRET_BYTES: Final = 32


def new_key() -> tuple[str, str]:
    """An id and a key with it."""
    key_id = secrets.token_hex(_ID_BYTES)
    return key_id, f"hr_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"


def secret_name(key_id: str) -> str:
    return f"{SECRET_PREFIX}{key_id}"


def key_digest(key: str) -> str:
    """What the Secret holds of it."""
    return hashlib.sha256(key.encode()).hexdigest()
