"""What goes over an open socket: JSON both ways, bounded in time and number. A client that reads nothing ends it."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, Final

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from headrace_facade.attended import SEND_SECONDS
from headrace_facade.errors import FacadeError
from headrace_facade.shapes import native

MESSAGES_PER_SECOND: Final = 10.0
MESSAGES_AT_ONCE: Final = 60
"""A client that sends more is closed: no conversation does."""


class Over(Exception):
    """The socket ends, for this reason; `code` is None where the client has gone."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


UNSUPPORTED: Final = 1003
POLICY: Final = 1008
DEFECT: Final = 1011
# Of applications.
IDENTITY_ENDED: Final = 4401
FORBIDDEN: Final = 4403
IDLE: Final = 4408
LIFE_OVER: Final = 4410


class Talk:
    """Raises Over."""

    def __init__(
        self,
        socket: WebSocket,
        trace_id: str,
        *,
        send_s: float = SEND_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._socket = socket
        self._trace_id = trace_id
        self._send_s = send_s
        self._clock = clock
        self._sending = asyncio.Lock()
        self._budget, self._budget_at = float(MESSAGES_AT_ONCE), clock()

    async def tell(self, name: str, data: dict[str, Any], identifier: str | None = None) -> None:
        """One event."""
        message = {"event": name, "data": data} | ({"id": identifier} if identifier is not None else {})
        # As a server-sent event has it: half of a character is told as a question mark.
        text = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode(errors="replace").decode()
        try:
            async with asyncio.timeout(self._send_s), self._sending:
                await self._socket.send_text(text)
        except TimeoutError:
            raise Over(None, "the client reads nothing") from None
        except (WebSocketDisconnect, RuntimeError):
            # The server's word for a socket that it has closed already, as of a message too large.
            raise Over(None, "the client has gone") from None

    async def fail(self, error: FacadeError, identifier: str | None = None) -> None:
        await self.tell("error", native(error, self._trace_id)[1], identifier)

    async def heard(self) -> str:
        """The client's next message."""
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise Over(None, "the client has gone")
        now = self._clock()
        self._budget = min(MESSAGES_AT_ONCE, self._budget + (now - self._budget_at) * MESSAGES_PER_SECOND)
        self._budget_at = now
        self._budget -= 1
        if self._budget < 0:
            raise Over(POLICY, f"more than {MESSAGES_PER_SECOND:g} messages a second")
        text = message.get("text")
        if text is None:
            raise Over(UNSUPPORTED, "messages are JSON texts")
        return str(text)

    async def close(self, over: Over) -> None:
        """Says why, where somebody may hear it."""
        if over.code is None or self._socket.application_state is not WebSocketState.CONNECTED:
            return
        try:
            async with asyncio.timeout(1.0):
                await self._socket.close(over.code, over.reason[:120])
        except (TimeoutError, RuntimeError, WebSocketDisconnect):
            return
