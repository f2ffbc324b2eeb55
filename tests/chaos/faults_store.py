"""The faults of Redis, of the API server and of the way to them."""

import asyncio
import signal
import time
from collections import defaultdict
from typing import Final

from tests.chaos.faults import any_pod, moment
from tests.chaos.phase import Fault, Load, Phase
from tests.chaos.world import until

API_READY_SECONDS: Final = 60.0
SHORT_OUTAGE_SECONDS: Final = 5.0
QUEUED_SECONDS: Final = 30.0
RETRIES: Final = 2


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
    """It comes back as it was a moment ago: claims made since are forgotten, and the same attempts are claimed again.

    No runner claims while the batch is queued and the file copied, so that every one of its claims is forgotten. One
    sleeps until others have committed attempts that it holds too: it wakes with results of them, and with work that it
    has no lease for any more.
    """
    world = phase.world
    await phase.accepted()
    await phase.finished()
    for pod in world.pods:
        pod.runner.signal(signal.SIGSTOP)
    # Long enough to see one that goes on for a lease beside its successor, however late that begins.
    long = 2.0 * world.settings.periods.lease
    longs = []
    for _ in range(4):
        # In turns, so that whoever takes several has both kinds.
        longs += phase.submit(1, Load(long + 2.0, long + 3.0), by_facade=0.0)
        await asyncio.gather(*longs, *phase.submit(1, Load(0.6, 1.5), by_facade=0.0))
    await phase.accepted()
    await until(lambda: world.queued_at_least(8), "a queue that is full", QUEUED_SECONDS)
    world.redis.keep_copy()
    for pod in world.pods:
        pod.runner.signal(signal.SIGCONT)
    await phase.some_run(at_least=8)
    strike = phase.strike()
    long_uids = {each.result().accepted_uid for each in longs}
    kinds: dict[str, list[bool]] = defaultdict(list)
    for victim in strike.victims:
        kinds[victim.pod].append(victim.uid in long_uids)
    sleeper = max(kinds, key=lambda pod: (len(set(kinds[pod])), len(kinds[pod])))
    phase.struck("no runner has long and short work", len(set(kinds[sleeper])) == 2)
    world.pod(sleeper).runner.signal(signal.SIGSTOP)
    try:
        await world.redis.kill()
        world.redis.take_copy()
        await world.redis.start()
        strike.since = time.monotonic()
        theirs = {victim.uid for victim in strike.victims if victim.pod == sleeper}

        async def one_is_over() -> bool:
            world.journal.read()
            again = {each.uid for each in world.journal.executions.values() if each.pod != sleeper} & theirs
            return any(version.outcome for uid in again if (version := world.latest(uid)) is not None)

        await until(one_is_over, "an attempt that another runner commits", QUEUED_SECONDS)
    finally:
        world.pod(sleeper).runner.signal(signal.SIGCONT)


async def flush_counters(phase: Phase) -> None:
    """When tasks that always fail have used up their retries but for one."""
    world = phase.world
    await phase.accepted()

    async def tried() -> bool:
        latest = [world.latest(each.accepted_uid) for each in phase.submissions()]
        return sum((each is not None and each.retries == RETRIES) for each in latest) * 2 >= len(latest)

    await until(tried, "tasks that are tried for the last time", QUEUED_SECONDS)
    phase.strike(bystanders=True)
    await world.redis.flush()


async def fill_redis(phase: Phase) -> None:
    """Nothing can be handed out; what runs goes on to its outcome."""
    await moment(phase)
    redis = phase.world.redis
    strike, refused_before = phase.strike(), await phase.world.redis.refused_for_memory()
    # Far below: what ends meanwhile must not make room.
    await redis.limit_bytes(await redis.used_bytes() // 2)
    phase.submit(12)
    await phase.accepted()
    await asyncio.sleep(3.0)
    phase.struck("no command was refused for memory", await redis.refused_for_memory() > refused_before)
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
    Fault("redis-kill", "what is in the file goes on", kill_redis, least=2),
    Fault("redis-flush", REBUILT, flush_redis, Load(0.5, 3.0), flushes=1, least=2),
    Fault("redis-empty", REBUILT, empty_redis, Load(0.5, 3.0), flushes=1, least=2),
    Fault("redis-rollback", "an attempt that runs twice has one outcome", roll_back_redis, forgets=True, most=3),
    Fault(
        "redis-flush-retries",
        "retries are counted in the object",
        flush_counters,
        Load(0.05, 0.2, {"backoffLimit": RETRIES}, "fail"),
        flushes=1,
        needs_victims=False,
    ),
    Fault("redis-full", "work waits and is not lost", fill_redis, least=2),
    Fault("api-away", "a result outlives the outage", stop_api, bound=None, most=2),
    Fault("api-away-flush-kill", REBUILT, stop_api_and_lose_all, bound=None, flushes=1),
    Fault("partition", "a late commit is refused", cut_off, Load(1.0, 7.0), needs_partition=True, least=2),
)
