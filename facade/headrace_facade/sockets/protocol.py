"""uvicorn's end of a WebSocket, with the bounds that its settings do not give."""

from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MESSAGE_MAX_BYTES: Final = 256 * 1024
"""Of a client's message, all its fragments together; a larger one closes the socket with 1009."""
PING_EVERY_S: Final = 20.0
GONE_AFTER_S: Final = 5.0
"""After its end a connection whose client reads nothing is cut off."""
OPTIONS: Final[dict[str, Any]] = {
    "ws_max_size": MESSAGE_MAX_BYTES,
    "ws_ping_interval": PING_EVERY_S,
    "ws_ping_timeout": PING_EVERY_S,
    # A small message that unpacks to a large one is nobody's need here.
    "ws_per_message_deflate": False,
}
"""Of `uvicorn.Config`."""


class SocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn itself waits for ever until such a client has read what was written."""

    async def run_asgi(self) -> None:
        try:
            await super().run_asgi()
        finally:
            self.loop.call_later(GONE_AFTER_S, self.transport.abort)
