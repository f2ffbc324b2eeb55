"""A token bucket over all connections of a download."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

BURST_SECONDS: Final = 0.25
"""So much may come at once after a pause."""


class Bandwidth:
    """``take`` before the next read: it returns when the bytes taken so far fit the rate."""

    def __init__(
        self,
        bytes_per_second: int | None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """None: no limit."""
        self._rate, self._monotonic, self._sleep = bytes_per_second, monotonic, sleep
        self._paid_until = monotonic()

    async def take(self, count: int) -> None:
        if self._rate is None:
            return
        now = self._monotonic()
        self._paid_until = max(self._paid_until, now - BURST_SECONDS) + count / self._rate
        if self._paid_until > now:
            await self._sleep(self._paid_until - now)
