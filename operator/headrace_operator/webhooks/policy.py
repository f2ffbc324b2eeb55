"""What an administrator says about webhooks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from headrace_crds.hosts import AllowedHost


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Nothing named: public https receivers, and no signing key, which means no delivery."""

    allowed_hosts: tuple[AllowedHost, ...] = ()
    """Hosts that may have private addresses and speak http."""
    secret_namespaces: tuple[str, ...] = ()
    """Where the operator may read Secrets that carry the label of signing keys."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Raises ValueError that names the variable."""
        name = "HEADRACE_WEBHOOK_ALLOWED_HOSTS"
        try:
            allowed = tuple(AllowedHost.parse(entry) for entry in _words(environment.get(name, "")))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        return cls(allowed, _words(environment.get("HEADRACE_WEBHOOK_SECRET_NAMESPACES", "")))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for part in text.split(",") if (word := part.strip()))
