"""What the facade may know of the queues: asked of Redis by a user that can change nothing.

Redis is no record here: without it tasks are created all the same, and only what stands in no object cannot be told.
"""

import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, TypeVar

from headrace_bus import BusDenied, BusError, BusReader, BusUnavailable, ModelKey, Stats

T = TypeVar("T")
CALL_TIMEOUT_S: Final = 1.0
AWAY_S: Final = 2.0
"""After a failure nobody asks again for so long: each request would wait for the same time-out."""
KEPT_S: Final = 1.0
_KEPT_MODELS: Final = 1024

NOT_SET_UP: Final = "this facade is not connected to Redis (HEADRACE_REDIS_URL_FILE)"
DENIED: Final = "Redis refuses the facade's user"
AWAY: Final = "Redis does not answer, or the operator has not set it up yet"
UNREADABLE: Final = "what Redis holds for this model cannot be read"


class QueueUnknown(Exception):
    """The message says why; it holds no address."""


class Queues:
    """Raises QueueUnknown. `reader` is None where the facade was given no Redis."""

    def __init__(self, reader: BusReader | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._reader = reader
        self._clock = clock
        self._away: tuple[str, float] = ("", 0.0)
        self._stats: dict[ModelKey, tuple[Stats, float]] = {}

    async def recent_stats(self, model: ModelKey) -> Stats:
        """Counts that may be a second old."""
        kept = self._stats.get(model)
        if kept is not None and self._clock() < kept[1]:
            return kept[0]
        stats = await self.stats(model)
        self._stats.pop(model, None)
        if len(self._stats) >= _KEPT_MODELS:
            del self._stats[next(iter(self._stats))]
        self._stats[model] = stats, self._clock() + KEPT_S
        return stats

    async def stats(self, model: ModelKey) -> Stats:
        return await self._asked(lambda reader: reader.stats(model))

    async def ahead(self, model: ModelKey, uid: str) -> int | None:
        """How many deliveries come first, about; None when the task is not queued."""
        return await self._asked(lambda reader: reader.position(model, uid))

    async def reports(self, model: ModelKey) -> dict[str, dict[str, Any]]:
        """What the model's runners say of themselves: hostile input."""
        return await self._asked(lambda reader: reader.reports(model))

    async def gpus(self, model: ModelKey, worker: str) -> list[dict[str, Any]]:
        """What a runner says of its GPUs: hostile input."""
        return await self._asked(lambda reader: reader.gpus(model, worker))

    async def condition(self) -> str:
        """ok, or why nothing can be asked."""
        try:
            await self._asked(lambda reader: reader.server_time_ms())
        except QueueUnknown as error:
            return str(error)
        return "ok"

    async def _asked(self, question: Callable[[BusReader], Awaitable[T]]) -> T:
        if self._reader is None:
            raise QueueUnknown(NOT_SET_UP)
        reason, until = self._away
        if self._clock() < until:
            raise QueueUnknown(reason)
        try:
            return await question(self._reader)
        except (BusUnavailable, BusDenied) as error:
            reason = DENIED if isinstance(error, BusDenied) else AWAY
            self._away = reason, self._clock() + AWAY_S
            raise QueueUnknown(reason) from error
        except BusError as error:
            # One model's keys, into which its runners write what they like: the others are asked about all the same.
            raise QueueUnknown(UNREADABLE) from error
        except ValueError as error:
            raise QueueUnknown("no model can have that name") from error


async def open_queues(url_file: str | None, stack: AsyncExitStack) -> Queues:
    """Connections are made when they are needed, and closed with the stack. Raises ValueError."""
    url = redis_url(url_file)
    if url is None:
        return Queues(None)
    reader = BusReader.connect(
        url,
        connect_timeout_s=CALL_TIMEOUT_S,
        socket_timeout_s=CALL_TIMEOUT_S,
        call_timeout_s=CALL_TIMEOUT_S,
    )
    return Queues(await stack.enter_async_context(reader))


def redis_url(url_file: str | None) -> str | None:
    """None where there is no file: a Secret of somebody else's has no such key. Raises ValueError."""
    if url_file is None or not Path(url_file).exists():
        return None
    url = Path(url_file).read_text(encoding="utf-8").strip()
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("HEADRACE_REDIS_URL_FILE: the file holds no redis://, rediss:// or unix:// URL")
    return url
