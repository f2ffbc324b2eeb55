"""Redis' clock, without a question to Redis for every look at it."""

from collections.abc import Callable
from typing import Final

from headrace_bus import Bus

_SAMPLE_SECONDS: Final = 1.0


class RedisClock:
    """Sampled at most every second, carried on by the process' monotonic clock in between."""

    def __init__(self, bus: Bus, monotonic: Callable[[], float]) -> None:
        self._bus = bus
        self._monotonic = monotonic
        self._sample: tuple[int, float] | None = None

    async def now_ms(self) -> int:
        """Raises BusError: without Redis there is no time that all parts agree on."""
        now = self._monotonic()
        if self._sample is None or now - self._sample[1] > _SAMPLE_SECONDS:
            self._sample = (await self._bus.server_time_ms(), self._monotonic())
        at_ms, at = self._sample
        return at_ms + int((now - at) * 1000 if now > at else 0)
