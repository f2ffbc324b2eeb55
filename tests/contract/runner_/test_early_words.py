"""A word about a lease whose claim is not answered yet: it waits for the flight, and ends it before it generates."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from deck_world import LEASE_MS, MODEL, Answering, LateBus, Objects, deck_of
from pod_world import until
from redis_server import RedisServer

from headrace_bus import Bus, BusSettings, Envelope, Interruption, ReturnReason, WorkClass
from headrace_crds.task import Message, Parameters, Role
from headrace_crds.work import Work
from headrace_runner.claim import Claims
from headrace_runner.inbox import listen

pytestmark = pytest.mark.contract


@pytest.mark.parametrize(
    ("word", "outcomes", "returned", "asked"),
    [
        (Interruption.CANCEL, ["Cancelled"], [], 0),
        (Interruption.SUSPEND, [], [ReturnReason.RELEASED], 0),
        (None, ["Complete"], [], 1),
    ],
)
async def test_a_word_that_overtakes_the_claim_is_kept_for_it(
    redis: RedisServer,
    bus: Bus,
    tmp_path: Path,
    word: Interruption | None,
    outcomes: list[str],
    returned: list[ReturnReason],
    asked: int,
) -> None:
    message = Message(role=Role.USER, content="hello")
    work = Work(model=str(MODEL), generation=1, messages=[message], parameters=Parameters())
    await bus.enqueue(MODEL, Envelope("a", WorkClass.TASK, "ns", "a", 1, 1, 0, 1, work.dump()))
    objects, engine = Objects(), Answering(tmp_path)
    async with LateBus(BusSettings(url=redis.url)) as late:
        claims = Claims(deck_of(late, redis.url, tmp_path, tasks=objects, engine=engine), lease_ms=LEASE_MS)
        heard = asyncio.Event()

        def hear(interrupt: Any) -> None:
            claims.interrupt(interrupt)
            heard.set()

        parts = [asyncio.create_task(claims.run()), asyncio.create_task(listen(bus, MODEL, "p-0", hear))]
        await late.taken.wait()
        if word is not None:
            assert await bus.interrupt(MODEL, "a", word) == "p-0"
            await heard.wait()
        late.let_through.set()

        async def landed() -> bool:
            return (await bus.stats(MODEL)).leased == 0

        await until(landed, 10)
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
    assert objects.outcomes == outcomes
    assert [each.reason for each in await bus.returned(MODEL)] == returned
    assert engine.asked == asked
