"""Chats that go on: what was said in a session, for the identity and the namespace that made it. Transitions are Lua.

Keys begin with `headrace:session:{digest}:`, a digest of namespace and identity. They hold prompts and answers, on
purpose: facades alone may touch them (docs/decisions/0015).

| key       | type | holds                                                                   | ends                    |
|-----------|------|-------------------------------------------------------------------------|-------------------------|
| `of:<id>` | hash | version, first, last, bytes, system, made, request; `e<n>`: exchange n, | TTL, 24 h after the     |
|           |      | JSON; `n<n>`: its name                                                  | last exchange           |
| `ends`    | zset | id → ms at which the session ends, 100 at most                          | with the last session   |
| `sizes`   | hash | id → its bytes                                                          | with the last session   |

A session has 256 KiB and 1,000 exchanges at most, all of one identity 8 MiB: beyond a session's bound its oldest
exchanges go, and beyond the identity's the oldest of the session that grows. An append is atomic, and named: a
repetition appends nothing. `version` counts appends; who saw an older one is told that others came between.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from headrace_bus.arguments import positive, request_id
from headrace_bus.envelope import bounded_json
from headrace_bus.errors import BusCorrupt
from headrace_bus.keys import key_part, session_prefix
from headrace_bus.ledger import Ledger
from headrace_bus.replies import document

SESSION_BYTES: Final = 256 * 1024
SESSIONS_MOST: Final = 100
"""Of one identity in one namespace."""
SESSIONS_BYTES: Final = 8 * 1024 * 1024
"""Of all of them."""


@dataclass(frozen=True)
class SessionFacts:
    """Times are ms of Redis' clock."""

    id: str
    version: int
    made_ms: int
    ends_ms: int
    size_bytes: int
    exchanges: int


@dataclass(frozen=True)
class SessionText:
    """What was said, oldest exchange first. What an exchange holds is the facade's affair."""

    facts: SessionFacts
    system: str
    exchanges: list[dict[str, Any]]


@dataclass(frozen=True)
class Appended:
    """`overlapped`: others were appended since the version that was seen."""

    version: int
    overlapped: bool


class SessionExists(Exception):
    """One of that id is there."""


class SessionsFull(Exception):
    """No room for another session, or for an exchange in all that the identity may keep."""


class SessionLedger(Ledger):
    """Raises BusError, BusOutOfMemory at `maxmemory`, and ValueError for what is no digest or id."""

    async def create(self, owner: str, session: str, *, system: str, ttl_ms: int) -> None:
        """Raises SessionExists and SessionsFull."""
        reply = await self._connection.run(
            "session/create",
            session_prefix(owner),
            key_part(session),
            request_id(),
            system,
            positive(ttl_ms),
            SESSIONS_MOST,
            SESSIONS_BYTES,
        )
        if reply == 0:
            raise SessionExists
        if reply != 1:
            raise SessionsFull

    async def append(
        self, owner: str, session: str, name: str, exchange: dict[str, Any], *, seen: int, system: str, ttl_ms: int
    ) -> Appended | None:
        """Appends once for each name; None where there is no such session. An empty `system` leaves what it was.

        Raises SessionsFull, and PayloadTooLarge for an exchange that no session has room for.
        """
        data = bounded_json("exchange", exchange, SESSION_BYTES)
        done, version, overlapped = await self._connection.run(
            "session/append",
            session_prefix(owner),
            key_part(session),
            key_part(name),
            seen,
            data,
            system,
            positive(ttl_ms),
            SESSION_BYTES,
            SESSIONS_BYTES,
        )
        if done == 0:
            return None
        if done != 1:
            raise SessionsFull
        return Appended(int(version), bool(overlapped))

    async def get(self, owner: str, session: str) -> SessionText | None:
        """None where there is no such session."""
        reply = await self._connection.run("session/get", session_prefix(owner), key_part(session))
        if reply is None:
            return None
        version, made, ends, size, system, *exchanges = reply
        facts = _facts(session, [version, made, ends, size, len(exchanges)])
        return SessionText(facts, system.decode(), [document(each) for each in exchanges if each is not None])

    async def owned(self, owner: str) -> list[SessionFacts]:
        """The one that ends last first."""
        reply = await self._connection.run("session/list", session_prefix(owner))
        rows = [reply[at : at + 6] for at in range(0, len(reply), 6)]
        return [_facts(identifier.decode(), rest) for identifier, *rest in rows]

    async def delete(self, owner: str, session: str) -> bool:
        """False where there was none."""
        return bool(await self._connection.run("session/delete", session_prefix(owner), key_part(session)))


def _facts(session: str, numbers: Sequence[bytes | int]) -> SessionFacts:
    try:
        version, made, ends, size, exchanges = (int(each) for each in numbers)
    except ValueError as error:
        raise BusCorrupt("a session cannot be read") from error
    return SessionFacts(session, version, made, ends, size, exchanges)
