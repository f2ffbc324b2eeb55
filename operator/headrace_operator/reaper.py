"""What is heard from Redis: ended leases, returned deliveries, changed reports, and whether it is there at all."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from headrace_bus import BusError
from headrace_operator.context import Context, bus_key
from headrace_operator.refs import ModelRef, TaskRef

RETURNED_LIMIT: Final = 100
CHECK_SECONDS: Final = 2.0
FORGET_SECONDS: Final = 30.0
"""After this long a delivery that still lies there is told to the queue again."""

_log = structlog.get_logger()


class Reaper:
    """Looks at every model now and then, and at once at those that Redis names."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._told: set[tuple[str, int]] = set()

    async def run(self) -> None:
        """Until cancelled. Raises what waiting does not cure."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reap(), name="reap")
            group.create_task(self._listen(), name="listen")
            group.create_task(self._forget(), name="forget")

    async def look(self, ref: ModelRef) -> None:
        """Ends leases that ran out, and has every returned delivery's task reconciled, once."""
        await self._ctx.bus.reap(bus_key(ref))
        for returned in await self._ctx.bus.returned(bus_key(ref), limit=RETURNED_LIMIT):
            if (returned.uid, returned.attempt) not in self._told:
                self._told.add((returned.uid, returned.attempt))
                self._ctx.tasks.add(TaskRef(returned.namespace, returned.name, returned.uid, ref))

    async def _reap(self) -> None:
        async def once() -> None:
            for ref in sorted(self._ctx.memory.registered):
                await self.look(ref)

        await every(self._ctx.settings.reap_seconds, "reap", once)

    async def _listen(self) -> None:
        async def once() -> None:
            async for key in self._ctx.bus.operator_wakeups():
                ref = ModelRef(key.namespace, key.name)
                self._ctx.models.add(ref)
                await self.look(ref)

        await every(CHECK_SECONDS, "listen", once)

    async def _forget(self) -> None:
        while True:
            await asyncio.sleep(FORGET_SECONDS)
            self._told.clear()


async def watch_redis(ctx: Context) -> None:
    """Notices a Redis that lost its users and what was not on disk, and says so when there is none."""
    while True:
        await check_redis(ctx)
        await asyncio.sleep(CHECK_SECONDS)


async def check_redis(ctx: Context) -> bool:
    """Whether Redis answers and keeps what it is given."""
    try:
        state = await ctx.bus.check()
    except BusError as error:
        if ctx.health.redis_problem != (problem := f"{error.reason}: {error}"):
            _log.error("redis is not usable", reason=error.reason, error=str(error))
        ctx.health.redis_problem = problem
        ctx.metrics.redis_up.set(0)
        return False
    if ctx.health.redis_problem:
        _log.info("redis is usable", version=state.version)
    ctx.health.redis_problem = ""
    ctx.metrics.redis_up.set(1)
    if ctx.memory.redis_run_id != state.run_id:
        if ctx.memory.redis_run_id:
            _log.warning("redis started anew: users are granted again, everything is looked at")
        ctx.memory.redis_run_id = state.run_id
        ctx.memory.registered.clear()
        ctx.enqueue_everything()
    return True


async def every(seconds: float, what: str, once: Callable[[], Awaitable[None]]) -> None:
    """Again and again; what the bus refuses is logged once per kind until it works again."""
    problem = ""
    while True:
        try:
            await once()
            problem = ""
        except BusError as error:
            if error.reason != problem:
                _log.warning("loop is held up", loop=what, reason=error.reason, error=str(error))
            problem = error.reason
        await asyncio.sleep(seconds)
