"""A stop while a claim waits for its answer: what the claim took is given back, not left with nobody."""

import asyncio
from pathlib import Path

import pytest
from deck_world import LEASE_MS, MODEL, LateBus, deck_of
from pod_world import until
from redis_server import RedisServer

from headrace_bus import Bus, BusSettings, EntryState, Envelope, ReturnReason, WorkClass
from headrace_crds.task import Message, Parameters, Role
from headrace_crds.work import Work
from headrace_runner.claim import Claims

pytestmark = pytest.mark.contract


async def test_what_a_claim_took_while_the_runner_stops_is_released(
    redis: RedisServer, bus: Bus, tmp_path: Path
) -> None:
    message = Message(role=Role.USER, content="hello")
    work = Work(model=str(MODEL), generation=1, messages=[message], parameters=Parameters())
    await bus.enqueue(MODEL, Envelope("a", WorkClass.TASK, "ns", "a", 1, 1, 0, 1, work.dump()))
    async with LateBus(BusSettings(url=redis.url)) as late:
        claims = Claims(deck_of(late, redis.url, tmp_path), lease_ms=LEASE_MS)
        running = asyncio.create_task(claims.run())
        await late.taken.wait()
        stopping = asyncio.create_task(claims.stop(finish_seconds=30, commit_seconds=30))

        async def waits() -> bool:
            return claims.stopping

        await until(waits, 5)
        entry = await bus.inspect(MODEL, "a")
        assert entry is not None
        assert entry.state is EntryState.LEASED
        assert not stopping.done()
        late.let_through.set()
        await stopping
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    (back,) = await bus.returned(MODEL)
    assert back.reason is ReturnReason.RELEASED


async def test_a_claim_that_is_never_answered_does_not_hold_the_stop(
    redis: RedisServer, bus: Bus, tmp_path: Path
) -> None:
    await bus.enqueue(MODEL, Envelope("a", WorkClass.TASK, "ns", "a", 1, 1, 0, 1, {}))
    async with LateBus(BusSettings(url=redis.url)) as late:
        claims = Claims(deck_of(late, redis.url, tmp_path), lease_ms=LEASE_MS)
        running = asyncio.create_task(claims.run())
        await late.taken.wait()
        async with asyncio.timeout(10):
            await claims.stop(finish_seconds=0.1, commit_seconds=0.1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
