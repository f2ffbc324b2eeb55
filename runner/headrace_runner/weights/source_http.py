"""A file behind a URL."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

from headrace_crds.source import SourceCredentials


@dataclass(frozen=True, slots=True)
class HttpOrigin:
    """``token`` gives the value of the Secret; None: requests carry none."""

    url: str = field(repr=False)
    token: Callable[[], str] | None = None

    @classmethod
    def of(cls, url: str, credentials: SourceCredentials | None, secret: Callable[..., str]) -> Self:
        if credentials is None:
            return cls(url)
        key = credentials.secret_key_ref.key
        return cls(url, lambda: secret(key))

    def authorize(self, headers: Mapping[str, str]) -> dict[str, str]:
        """A value with a space names its scheme itself, as in "Basic …" (RFC 9110, section 11.6.2)."""
        if self.token is None:
            return {}
        token = self.token()
        return {"Authorization": token if " " in token else f"Bearer {token}"}
