"""Tickets: what stands for an identity once, for a browser that cannot send a header with a WebSocket.

A key is `headrace:ticket:{digest}`, a string with the identity as its facade knows it, TTL 30 s: the digest is the
ticket's SHA-256, so that Redis holds no ticket. Whoever takes it takes it away.
"""

from typing import Any, Final

from headrace_bus.arguments import positive
from headrace_bus.envelope import bounded_json
from headrace_bus.keys import ticket_key
from headrace_bus.ledger import Ledger
from headrace_bus.replies import document

TICKET_MAX_BYTES: Final = 64 * 1024


class TicketLedger(Ledger):
    """Raises BusError, BusOutOfMemory at `maxmemory`, and ValueError for what is no digest."""

    async def put(self, digest: str, identity: dict[str, Any], *, ttl_ms: int) -> None:
        """A repetition puts the same once more. Raises PayloadTooLarge."""
        data = bounded_json("ticket", identity, TICKET_MAX_BYTES)
        await self._connection.command("SET", ticket_key(digest), data, "PX", positive(ttl_ms))

    async def take(self, digest: str) -> dict[str, Any] | None:
        """None: never put, taken before, or too late. One whose reply is lost is gone: its holder gets another."""
        data = await self._connection.command("GETDEL", ticket_key(digest))
        return None if data is None else document(data)
