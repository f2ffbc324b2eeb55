"""Whether Redis is there and remembers: for readiness, and for what has to be done again when it does not."""

import asyncio
from typing import Final

import structlog

from headrace_bus import BusError
from headrace_operator.context import Context

CHECK_SECONDS: Final = 2.0

_log = structlog.get_logger()


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
