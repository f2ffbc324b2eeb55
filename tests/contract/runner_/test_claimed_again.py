"""An attempt that its own runner claims again, because Redis has forgotten the first claim: it starts afresh."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import redis.asyncio
from deck_world import LEASE_MS, MODEL, Answering, Objects, deck_of
from pod_world import until
from redis_server import RedisServer

from headrace_bus import Bus, Envelope, WorkClass
from headrace_crds.task import Message, Parameters, Role
from headrace_crds.work import Work
from headrace_runner.claim import Claims
from headrace_runner.engine.protocol import Generate, GenerationResult

pytestmark = pytest.mark.contract


class Slow(Answering):
    """Brings its second generation to an end, and takes one of an id at a time, as an EngineClient does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.running: set[str] = set()

    async def generate(
        self, request: Generate, *, on_progress: Callable[[int], None] | None = None
    ) -> GenerationResult:
        if request.id in self.running:
            raise ValueError(f"generation {request.id!r} is running already")
        self.running.add(request.id)
        try:
            result = await super().generate(request)
            if self.asked == 1:
                await asyncio.Event().wait()
            return result
        finally:
            self.running.remove(request.id)


async def test_the_first_claim_gives_way_to_the_second(redis: RedisServer, bus: Bus, tmp_path: Path) -> None:
    message = Message(role=Role.USER, content="hello")
    work = Work(model=str(MODEL), generation=1, messages=[message], parameters=Parameters())
    envelope = Envelope("a", WorkClass.TASK, "ns", "a", 1, 1, 0, 1, work.dump())
    objects, engine = Objects(), Slow(tmp_path)
    claims = Claims(deck_of(bus, redis.url, tmp_path, tasks=objects, engine=engine), lease_ms=LEASE_MS)
    claiming = asyncio.create_task(claims.run())

    async def asked() -> bool:
        return engine.asked == 1

    async def ended() -> bool:
        return bool(objects.outcomes) and (await bus.stats(MODEL)).leased == 0

    await bus.enqueue(MODEL, envelope)
    await until(asked, 10)
    async with redis_client(redis) as client:
        await client.flushall()
    await bus.enqueue(MODEL, envelope)
    await until(ended, 20)
    claiming.cancel()
    await asyncio.gather(claiming, return_exceptions=True)
    assert objects.outcomes == ["Complete"]
    assert engine.asked == 2
    # Nobody is charged for what Redis forgot.
    assert await bus.returned(MODEL) == []


def redis_client(server: RedisServer) -> redis.asyncio.Redis:
    return redis.asyncio.Redis.from_url(server.url)
