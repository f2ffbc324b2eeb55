"""API keys: what a key's Secret says of it. A Secret holds the key's SHA-256 and never the key."""

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from headrace_crds.api_keys import KEY, NAME, SECRET_TYPE, secret_name
from headrace_facade.errors import NotFound
from headrace_facade.own_account import OwnAccount

KEY_KEPT_S: Final = 5.0
"""A key that is revoked is refused after this at the latest, by every replica."""
MODELS_MOST: Final = 1000


@dataclass(frozen=True)
class KeyFacts:
    """Of a key that is good."""

    id: str
    namespace: str
    models: frozenset[str] | None
    expires: datetime | None


class ApiKeys:
    """Asks each time; `Kept` remembers. Raises Unavailable."""

    def __init__(self, account: OwnAccount, namespace: str) -> None:
        self._account = account
        self._namespace = namespace

    async def facts(self, key: str, digest: bytes) -> KeyFacts | None:
        """None: no such key, another key's id, or a Secret that cannot be read. The caller looks at `expires`."""
        match = KEY.fullmatch(key)
        if match is None:
            return None
        name = secret_name(match[1])
        path = f"/api/v1/namespaces/{quote(self._namespace, safe='')}/secrets/{quote(name, safe='')}"
        try:
            secret = await self._account.get(path)
        except NotFound:
            secret = {}
        return facts_of(match[1], secret, digest)


_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def facts_of(key_id: str, secret: Mapping[str, Any], digest: bytes) -> KeyFacts | None:
    """What the Secret says, if it is this key's. What cannot be read, a date or a list of models, admits nobody."""
    if secret and secret.get("type") != SECRET_TYPE:
        return None
    data = {name: _text(value) for name, value in (secret.get("data") or {}).items()}
    wanted = data.get("sha256") or ""
    # Compared also where there is nothing to compare with: the time taken tells no id.
    same = hmac.compare_digest(wanted.strip().encode(), digest.hex().encode())
    namespace, models, expires = data.get("namespace"), data.get("models", ""), data.get("expires", "")
    if not same or not _SHA256.fullmatch(wanted.strip()):
        return None
    if namespace is None or models is None or expires is None or not NAME.fullmatch(namespace.strip()):
        return None
    named = [each for each in (part.strip() for part in models.split(",")) if each]
    if len(named) > MODELS_MOST or any(each.count("/") != 1 for each in named):
        return None
    ends = None
    if expires.strip():
        try:
            ends = datetime.fromisoformat(expires.strip())
        except ValueError:
            return None
        if ends.tzinfo is None:
            return None
    # A member without a name is a mistake, and no "every model".
    if "models" in data and not named:
        return None
    return KeyFacts(key_id, namespace.strip(), frozenset(named) if named else None, ends)


def _text(value: object) -> str | None:
    try:
        return base64.b64decode(str(value), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
