"""Names of keys and channels: the one place where a model's name becomes part of a Redis name.

The characters admitted here are what keeps one model's ACL pattern from matching another's keys.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple

REGISTRY_KEY: Final = "headrace:models"
CHANNEL_PREFIX: Final = "headrace:wake:"

# Kubernetes' DNS subdomain: no glob characters, no brace that would end the hash tag early.
_DNS_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_HEX: Final = re.compile(r"[0-9a-f]{16,64}", re.ASCII)
# What may become the last part of a key: uids, pod names, namespaces.
_KEY_PART: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})", re.ASCII)


class ModelKey(NamedTuple):
    """An LLMModel by namespace and name; `str()` is the hash tag of all its keys."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> "ModelKey":
        """The inverse of `str()`. Raises ValueError."""
        namespace, slash, name = text.partition("/")
        if not slash:
            raise ValueError(f"{text!r} is not namespace/name")
        return cls(namespace, name)


@lru_cache(maxsize=4096)
def key_prefix(model: ModelKey) -> str:
    """What every key of the model begins with. Raises ValueError on a name that Kubernetes would refuse."""
    for part in model:
        if not _DNS_NAME.fullmatch(part):
            raise ValueError(f"{part!r} cannot be part of a model's key")
    return f"headrace:{{{model}}}:"


def budget_prefix(namespace: str) -> str:
    """What every key of a namespace's budgets begins with; no model's keys can. Raises ValueError."""
    if not _DNS_NAME.fullmatch(namespace):
        raise ValueError(f"{namespace!r} cannot be part of a key")
    return f"headrace:budget:{{{namespace}}}:"


def rate_prefix(identity: str) -> str:
    """What every key of an identity's rates begins with. `identity` is a digest: hex digits. Raises ValueError."""
    if not _HEX.fullmatch(identity):
        raise ValueError(f"{identity!r} is no digest")
    return f"headrace:rate:{{{identity}}}:"


def session_prefix(owner: str) -> str:
    """What every key of an identity's sessions begins with. `owner` is a digest: hex digits. Raises ValueError."""
    if not _HEX.fullmatch(owner):
        raise ValueError(f"{owner!r} is no digest")
    return f"headrace:session:{{{owner}}}:"


def ticket_key(digest: str) -> str:
    """Of one ticket, by its digest. Raises ValueError."""
    if not _HEX.fullmatch(digest):
        raise ValueError("no digest")
    return f"headrace:ticket:{{{digest}}}"


def wake_channel(model: ModelKey) -> str:
    """The channel on which the operator is told to look at the model."""
    key_prefix(model)
    return f"{CHANNEL_PREFIX}{model}"


def key_part(text: str) -> str:
    """`text` when it may end a key. Raises ValueError."""
    if not _KEY_PART.fullmatch(text):
        raise ValueError(f"{text!r} cannot be part of a key")
    return text
