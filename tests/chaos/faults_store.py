"""The faults of Redis, of the API server and of the way to them."""

import asyncio
import time
from typing import Final

from tests.chaos.faults import any_pod, moment
from tests.chaos.phase import Fault, Load, Phase
from tests.chaos.world import until

API_READY_SECONDS: Final = 60.0
SHORT_OUTAGE_SECONDS: Final = 5.0


async def kill_redis(phase: Phase) -> None:
    """Its file stays."""
    await moment(phase)
    strike = phase.strike()
    await phase.world.redis.kill()
    await asyncio.sleep(phase.rng.uniform(0.1, 1.0))
    await phase.world.redis.start()
    strike.since = time.monotonic()


async def flush_redis(phase: Phase) -> None:
    await moment(phase)
    phase.strike()
    await phase.world.redis.flush()


async def empty_redis(phase: Phase) -> None:
    await moment(phase)
    strike = phase.strike()
    await phase.world.redis.kill()
    phase.world.redis.forget()
    await phase.world.redis.start()
    strike.since = time.monotonic()


async def roll_back_redis(phase: Phase) -> None:
    """It comes back as it was a second ago: claims made since are forgotten, and are made again by others."""
    await phase.accepted()
    await moment(phase)
    phase.world.redis.keep_copy()
    await asyncio.sleep(1.2)
    strike = phase.strike()
    await phase.world.redis.kill()
    phase.world.redis.take_copy()
    await phase.world.redis.start()
    strike.since = time.monotonic()


async def fill_redis(phase: Phase) -> None:
    """Nothing can be handed out; what runs goes on to its outcome."""
    await moment(phase)
    redis = phase.world.redis
    strike = phase.strike()
    await redis.limit_bytes(await redis.used_bytes() + 4096)
    phase.submit(12)
    await phase.accepted()
    await asyncio.sleep(3.0)
    await redis.limit_bytes(0)
    strike.since = time.monotonic()


async def _api_away(phase: Phase, seconds: float, *meanwhile: str) -> None:
    world = phase.world
    await moment(phase)
    strike = phase.strike()
    await world.api_server.stop()
    if "flush" in meanwhile:
        await world.redis.flush()
    if "kill" in meanwhile:
        any_pod(phase).runner.kill()
    await asyncio.sleep(seconds)
    world.api_server.start()
    await until(world.api.ready, "the API server", API_READY_SECONDS)
    strike.since = time.monotonic()


async def stop_api(phase: Phase) -> None:
    await _api_away(phase, phase.world.settings.api_away_seconds)


async def stop_api_and_lose_all(phase: Phase) -> None:
    """With the API server away Redis forgets everything and a runner dies: the objects alone are left."""
    await _api_away(phase, min(phase.world.settings.api_away_seconds, SHORT_OUTAGE_SECONDS), "flush", "kill")


async def cut_off(phase: Phase) -> None:
    """A runner that reaches the API server and its engine, but not Redis, for longer than its lease."""
    world = phase.world
    assert world.partition is not None
    assert world.isolated is not None
    pods = {world.isolated.name}
    await moment(phase, pods)
    phase.strike(pods)
    world.partition.cut()
    await asyncio.sleep(world.settings.periods.recovery + 1.0)
    world.partition.heal()


REBUILT: Final = "the queue is rebuilt from the objects"
STORE_FAULTS: Final = (
    Fault("redis-kill", "what is in the file goes on", kill_redis),
    Fault("redis-flush", REBUILT, flush_redis, Load(0.5, 3.0), flushes=1),
    Fault("redis-empty", REBUILT, empty_redis, Load(0.5, 3.0), flushes=1),
    Fault(
        "redis-rollback", "an attempt that runs twice has one outcome", roll_back_redis, Load(0.3, 8.0), forgets=True
    ),
    Fault("redis-full", "work waits and is not lost", fill_redis),
    Fault("api-away", "a result outlives the outage", stop_api, bounded=False),
    Fault("api-away-flush-kill", REBUILT, stop_api_and_lose_all, bounded=False, flushes=1),
    Fault("partition", "a late commit is refused", cut_off, Load(1.0, 7.0), needs_partition=True),
)
