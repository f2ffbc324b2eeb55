"""Results that may be given again, by the digest of what was asked. What they hold is their callers' affair."""

from typing import Any, Final

from headrace_bus import replies
from headrace_bus.arguments import positive
from headrace_bus.connection import Connection
from headrace_bus.envelope import bounded_json
from headrace_bus.errors import BusCorrupt
from headrace_bus.keys import ModelKey, key_part, key_prefix

CACHED_MAX_BYTES: Final = 64 * 1024


class CacheBus:
    """Part of the bus."""

    _connection: Connection

    async def cached(self, model: ModelKey, digest: str) -> dict[str, Any] | None:
        """What was kept under the digest, while its TTL lasts; None also for nonsense and what is too long."""
        data = await self._connection.run("cache/get", key_prefix(model), key_part(digest), CACHED_MAX_BYTES)
        try:
            return None if data is None else replies.document(data)
        except BusCorrupt:
            return None

    async def cache(
        self, model: ModelKey, digest: str, value: dict[str, Any], *, ttl_seconds: int, max_entries: int
    ) -> None:
        """Keeps it; beyond `max_entries` of the model the one that ends first goes. Raises EnvelopeInvalid above 64
        KiB, BusOutOfMemory when Redis is at `maxmemory`.
        """
        data = bounded_json("cached result", value, CACHED_MAX_BYTES)
        ttl_ms = positive(ttl_seconds) * 1000
        await self._connection.run(
            "cache/put", key_prefix(model), key_part(digest), data, ttl_ms, positive(max_entries)
        )
