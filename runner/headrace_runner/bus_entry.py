"""A delivery's entry on the bus, and the words that end it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from headrace_bus import Bus, BusError, BusOutOfMemory, Failure, LeaseToken, ModelKey, StreamEvent
from headrace_crds.cost import Spend

_BUS_TRIES: Final = 5

_log = structlog.get_logger()


@dataclass(frozen=True)
class BusEntry:
    """``complete``, ``fail`` and ``release`` insist: the bus may be away for a while."""

    bus: Bus
    model: ModelKey
    token: LeaseToken
    keys: dict[str, Any]
    """Keys of its log lines."""
    reader: str = ""
    """Of a call: who waits for it."""

    async def complete(self, result: dict[str, Any] | None) -> None:
        await self._insist(lambda: self.bus.complete(self.model, self.token, result=result))

    async def fail(self, failure: Failure) -> None:
        await self._insist(lambda: self.bus.fail(self.model, self.token, failure))

    async def release(self, reason: str, spent: Spend | None = None) -> None:
        _log.info("attempt released", **self.keys, reason=str(reason))
        await self._insist(lambda: self.bus.release(self.model, self.token, str(reason), spent=spent))

    async def park(self, payload: dict[str, Any]) -> bool:
        """One try; False: the lease was lost. Raises BusError."""
        return await self.bus.park(self.model, self.token, payload)

    async def end_call(self, batches: Sequence[Sequence[dict[str, Any]]]) -> None:
        """Tells a call's reader these events, the last batch with the call's completion. Raises BusOutOfMemory."""

        async def tell() -> bool:
            for batch in batches[:-1]:
                await self.bus.stream(self.model, [StreamEvent(self.token, self.reader, event) for event in batch])
            return await self.bus.end_call(self.model, self.token, batches[-1])

        await self._insist(tell)

    async def _insist(self, call: Callable[[], Awaitable[bool]]) -> None:
        """What cannot be told runs out with the lease, and the operator looks at the object then."""
        for number in range(_BUS_TRIES):
            try:
                if not await call():
                    _log.info("entry was not ours any more", **self.keys)
                return
            except BusOutOfMemory:
                raise
            except BusError as error:
                _log.warning("bus not told", **self.keys, reason=error.reason)
                await asyncio.sleep(0.2 * 2**number)
