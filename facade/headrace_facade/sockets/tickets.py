"""Tickets for browsers, which can send no header with a WebSocket: good once, for half a minute, of all replicas.

Redis holds a ticket's SHA-256 and whose it is; no token and no key.
"""

import hashlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from headrace_bus import BusError, TicketLedger
from headrace_facade.caller import Caller
from headrace_facade.errors import SocketLimit, Unauthenticated, Unavailable
from headrace_facade.queues import CALL_TIMEOUT_S, redis_url

TICKET_S: Final = 30
EACH_MOST: Final = 32
"""Of one identity in 30 s, at one replica."""
_FORM: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_REFUSED: Final = (
    "this ticket is not accepted: it was used, is too old or never was; POST /api/v1/tickets gives another"
)


class Tickets:
    """Raises Unauthenticated, SocketLimit and Unavailable. `ledger` is None where there is no Redis."""

    def __init__(self, ledger: TicketLedger | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._clock = clock
        self._given: dict[str, list[float]] = {}

    async def give(self, caller: Caller) -> str:
        self._count(caller.name)
        ticket = secrets.token_urlsafe(32)
        identity = {
            "namespace": caller.namespace,
            "name": caller.name,
            "models": None if caller.models is None else sorted(caller.models),
        }
        try:
            await self._of_redis().put(_digest(ticket), identity, ttl_ms=TICKET_S * 1000)
        except BusError as error:
            raise Unavailable("Redis, which keeps tickets, does not answer or is full: try again") from error
        return ticket

    async def take(self, ticket: str) -> Caller:
        """Whose it was. What needs the cluster's token it cannot do."""
        if not _FORM.fullmatch(ticket):
            raise Unauthenticated(_REFUSED)
        try:
            found = await self._of_redis().take(_digest(ticket))
        except BusError as error:
            raise Unavailable("Redis, which keeps tickets, does not answer: get another ticket") from error
        if found is None:
            raise Unauthenticated(_REFUSED)
        models = found["models"]
        return Caller(str(found["namespace"]), str(found["name"]), None if models is None else frozenset(models))

    def _of_redis(self) -> TicketLedger:
        if self._ledger is None:
            raise Unavailable("this facade is not connected to Redis, which keeps tickets")
        return self._ledger

    def _count(self, name: str) -> None:
        now = self._clock()
        for each in [each for each, times in self._given.items() if times[-1] <= now - TICKET_S]:
            del self._given[each]
        times = [at for at in self._given.get(name, []) if at > now - TICKET_S]
        if len(times) >= EACH_MOST:
            raise SocketLimit(f"you were given {EACH_MOST} tickets within {TICKET_S} seconds: use them", TICKET_S)
        self._given[name] = [*times, now]


@asynccontextmanager
async def open_tickets(url_file: str | None) -> AsyncIterator[Tickets]:
    """Raises ValueError for a file without a URL."""
    url = redis_url(url_file)
    async with AsyncExitStack() as stack:
        ledger = None
        if url is not None:
            ledger = TicketLedger.connect(url, call_timeout_s=CALL_TIMEOUT_S)
            stack.push_async_callback(ledger.aclose)
        yield Tickets(ledger)


def _digest(ticket: str) -> str:
    return hashlib.sha256(ticket.encode()).hexdigest()
