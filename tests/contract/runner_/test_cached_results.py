"""A runner with a real bus gives a deterministic task's result again, and another namespace none of it."""

import asyncio
from pathlib import Path

import pytest
from deck_world import LEASE_MS, MODEL, Answering, Objects, deck_of
from pod_world import until
from redis_server import RedisServer

from headrace_bus import Bus, Envelope, WorkClass
from headrace_crds.cache import CacheUse
from headrace_crds.task import Message, Parameters, Role
from headrace_crds.work import Work
from headrace_runner.claim import Claims

pytestmark = pytest.mark.contract


async def test_the_engine_is_asked_once_for_each_namespace(redis: RedisServer, bus: Bus, tmp_path: Path) -> None:
    work = Work(
        model=str(MODEL),
        generation=1,
        messages=[Message(role=Role.USER, content="canary")],
        parameters=Parameters(temperature="0", max_tokens=4),
        cache=CacheUse(incarnation="u/1", ttl_seconds=60, max_entries=4),
    )
    objects, engine = Objects(), Answering(tmp_path)
    claims = Claims(deck_of(bus, redis.url, tmp_path, tasks=objects, engine=engine), lease_ms=LEASE_MS)
    claiming = asyncio.create_task(claims.run())
    try:
        for done, (namespace, asked) in enumerate([("ns", 1), ("ns", 1), ("other", 2), ("ns", 2)], 1):
            name = f"t{done}"
            await bus.enqueue(MODEL, Envelope(name, WorkClass.TASK, namespace, name, 1, 1, 0, 1, work.dump()))

            async def ended(done: int = done) -> bool:
                return len(objects.outcomes) == done and (await bus.stats(MODEL)).leased == 0

            await until(ended, 10)
            assert engine.asked == asked
        assert objects.outcomes == ["Complete"] * 4
    finally:
        claiming.cancel()
        await asyncio.wait({claiming})
