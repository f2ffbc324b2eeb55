"""Requests and tokens per minute on a real Redis, asked by the facade's own user from two replicas."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from headrace_bus import FACADE_ACL, Bus, ModelKey, RateLedger
from headrace_bus.scripts import script
from tests.contract.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.contract
ALICE, BOB = "a" * 32, "b" * 32


@pytest.fixture
async def redis() -> AsyncIterator[RedisServer]:
    with redis_server() as server:
        async with Bus.connect(server.url) as bus:
            await bus.grant(ModelKey("ns", "m"), "ns/m", "secret")
        client = Redis.from_url(server.url)
        await client.execute_command("ACL", "SETUSER", "facade", "reset", "on", ">secret", *FACADE_ACL)
        await client.aclose()
        yield server


@pytest.fixture
async def replicas(redis: RedisServer) -> AsyncIterator[tuple[RateLedger, RateLedger]]:
    url = f"redis://facade:secret@127.0.0.1:{redis.port}/0"
    first, second = (RateLedger.connect(url, call_timeout_s=5.0) for _ in range(2))
    yield first, second
    await first.aclose()
    await second.aclose()


async def test_requests_are_counted_over_all_replicas(replicas: tuple[RateLedger, RateLedger]) -> None:
    waits = await asyncio.gather(
        *(replicas[n % 2].take(ALICE, requests_per_minute=10, tokens_per_minute=0) for n in range(30))
    )
    # Within a few seconds no other becomes due.
    assert sum(wait == 0 for wait in waits) == 10
    assert all(0 < wait <= 6_000 for wait in waits if wait)
    assert await replicas[0].take(BOB, requests_per_minute=10, tokens_per_minute=0) == 0


async def test_tokens_are_a_debt_that_is_waited_for(replicas: tuple[RateLedger, RateLedger]) -> None:
    first, second = replicas
    rates = {"requests_per_minute": 0, "tokens_per_minute": 600}
    assert await first.take(ALICE, **rates) == 0
    await first.charge(ALICE, 599, tokens_per_minute=600)
    assert await second.take(ALICE, **rates) == 0
    await second.charge(ALICE, 601, tokens_per_minute=600)
    wait = await first.take(ALICE, **rates)
    assert 55_000 < wait <= 60_200
    await first.charge(ALICE, 10**15, tokens_per_minute=600)
    assert await first.take(ALICE, **rates) <= 3_600_000
    await first.charge(BOB, -5, tokens_per_minute=600)
    assert await first.take(BOB, **rates) == 0


async def test_what_is_admitted_again_is_told_to_the_millisecond(replicas: tuple[RateLedger, RateLedger]) -> None:
    rates = {"requests_per_minute": 600, "tokens_per_minute": 0}
    while not (wait := await replicas[0].take(ALICE, **rates)):
        pass
    assert wait <= 100
    await asyncio.sleep(wait / 1000)
    assert await replicas[0].take(ALICE, **rates) == 0


async def test_a_full_bucket_leaves_nothing(replicas: tuple[RateLedger, RateLedger], redis: RedisServer) -> None:
    await replicas[0].take(ALICE, requests_per_minute=6_000, tokens_per_minute=0)
    async with Redis.from_url(redis.url) as client:
        assert 0 < await client.pttl(f"headrace:rate:{{{ALICE}}}:full") <= 10
        while await client.keys("headrace:rate:*"):
            pass


async def test_the_facades_user_writes_rates_and_no_model(
    replicas: tuple[RateLedger, RateLedger], redis: RedisServer
) -> None:
    async with Redis.from_url(f"redis://facade:secret@127.0.0.1:{redis.port}/0") as facade:
        with pytest.raises(ResponseError, match="no prefix of rates"):
            await facade.execute_command("EVALSHA", script("rate/charge").sha, 1, "headrace:{ns/m}:", 1, 1)
    with pytest.raises(ValueError, match="no digest"):
        await replicas[0].take("x}:{y", requests_per_minute=1, tokens_per_minute=0)
