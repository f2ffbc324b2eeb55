"""An object of S3, or of a store that speaks its protocol: path-style URL, signed where there are keys."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self
from urllib.parse import urlsplit

from headrace_crds.hosts import DEFAULT_PORTS, split
from headrace_crds.source import S3_KEYS, S3_SESSION_TOKEN, S3Source
from headrace_runner.weights.signature_v4 import encoded_path, signed_headers


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class S3Origin:
    """``secret`` gives a key of the Secret; None: requests are not signed."""

    url: str = field(repr=False)
    region: str
    secret: Callable[..., str] | None = field(default=None, repr=False)
    now: Callable[[], datetime] = _now

    @classmethod
    def of(cls, source: S3Source, secret: Callable[..., str]) -> Self:
        endpoint = source.endpoint or f"https://s3.{source.region}.amazonaws.com"
        url = endpoint + encoded_path(f"/{source.bucket}/{source.key}")
        return cls(url, source.region, secret if source.credentials is not None else None)

    def authorize(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Raises WeightsFailure where the Secret lacks a key."""
        if self.secret is None:
            return {}
        key_id, secret_key = (self.secret(name) for name in S3_KEYS)
        parts = split(self.url)
        host = f"{parts.host}" if parts.port == DEFAULT_PORTS[parts.scheme] else f"{parts.host}:{parts.port}"
        return signed_headers(
            "GET",
            host,
            urlsplit(self.url).path,
            headers,
            key_id=key_id,
            secret_key=secret_key,
            session_token=self.secret(S3_SESSION_TOKEN, needed=False),
            region=self.region,
            at=self.now(),
        )
