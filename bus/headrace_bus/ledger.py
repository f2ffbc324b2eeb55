"""What a facade keeps in Redis beside the queues: one connection, made by URL and closed by its owner."""

from typing import Self

from headrace_bus.connection import Connection
from headrace_bus.settings import BusSettings


class Ledger:
    """Raises BusError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    def connect(cls, url: str, *, call_timeout_s: float) -> Self:
        """Connections are made when they are needed; close it by `aclose`."""
        settings = BusSettings(
            url=url,
            connect_timeout_s=call_timeout_s,
            socket_timeout_s=call_timeout_s,
            call_timeout_s=call_timeout_s,
        )
        return cls(Connection(settings))

    async def aclose(self) -> None:
        await self._connection.aclose()
