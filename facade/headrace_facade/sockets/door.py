"""Who may open a WebSocket: pages by their origin, identities by a header or a ticket, and so many of each."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from starlette.datastructures import Headers
from starlette.websockets import WebSocket

from headrace_facade.caller import Caller
from headrace_facade.errors import Forbidden, SocketLimit, Unauthenticated, Unavailable
from headrace_facade.sockets.origins import is_admitted
from headrace_facade.sockets.tickets import Tickets

SOCKETS_MOST: Final = 256
"""At one replica; each may hold a message and what its client has not read."""
EACH_MOST: Final = 32
"""Of one identity."""
LIFE_S: Final = 3600.0
TICKET_LIFE_S: Final = 600.0
"""Whose identity cannot be asked for again: it is as it was when the ticket was given."""
PROTOCOL: Final = "headrace.v1"
_TICKET: Final = "headrace.ticket."


class Authenticating(Protocol):
    async def authenticate(self, headers: Headers, *, namespace: str | None = None) -> Caller: ...


@dataclass(frozen=True)
class Guest:
    """Who opened a socket. `again` raises Unauthenticated, Forbidden or Unavailable."""

    caller: Caller
    again: Callable[[], Awaitable[Caller]]
    until: float
    """Of the clock: then it ends."""
    subprotocol: str | None


class Door:
    """Raises FacadeError, before the socket is accepted."""

    def __init__(
        self,
        callers: Authenticating,
        tickets: Tickets,
        origins: Collection[str] = (),
        *,
        most: int = SOCKETS_MOST,
        each: int = EACH_MOST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._callers = callers
        self._tickets = tickets
        self._origins = origins
        self._most = most
        self._each = each
        self.clock = clock
        self._held: Counter[str] = Counter()

    @property
    def held(self) -> int:
        return self._held.total()

    async def guest(self, socket: WebSocket) -> Guest:
        headers = socket.headers
        origins = headers.getlist("Origin")
        if len(origins) > 1 or not is_admitted(origins[0] if origins else None, headers.get("Host"), self._origins):
            raise Forbidden("this page may not open WebSockets here: have its origin listed (facade.allowedOrigins)")
        if self.held >= self._most:
            raise Unavailable("this replica has as many WebSockets as it may: try again")
        subprotocols: list[str] = socket.scope.get("subprotocols", [])
        subprotocol = PROTOCOL if PROTOCOL in subprotocols else None
        given = socket.query_params.getlist("ticket")
        given += [each.removeprefix(_TICKET) for each in subprotocols if each.startswith(_TICKET)]
        if len(given) > 1:
            raise Unauthenticated("the request has two tickets: send one")
        if given:
            caller = await self._tickets.take(given[0])

            async def as_it_was() -> Caller:
                return caller

            return Guest(caller, as_it_was, self.clock() + TICKET_LIFE_S, subprotocol)
        namespace = socket.query_params.get("namespace")

        async def asked() -> Caller:
            return await self._callers.authenticate(headers, namespace=namespace)

        return Guest(await asked(), asked, self.clock() + LIFE_S, subprotocol)

    @contextmanager
    def seat(self, caller: Caller) -> Iterator[None]:
        """Raises SocketLimit and Unavailable."""
        if self.held >= self._most:
            raise Unavailable("this replica has as many WebSockets as it may: try again")
        if self._held[caller.name] >= self._each:
            raise SocketLimit(f"you have {self._each} WebSockets at this replica: close one")
        self._held[caller.name] += 1
        try:
            yield
        finally:
            self._held[caller.name] -= 1
            if not self._held[caller.name]:
                # Counters keep what is zero.
                del self._held[caller.name]
