"""Waking up without polling: runners by the wake list, the operator by its channel."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator

import pytest
from redis.asyncio import Redis
from redis_server import RedisServer, redis_server

from headrace_bus import Bus, BusUnavailable, Failure, ModelKey

pytestmark = pytest.mark.contract

LONG_S = 20.0
SOON_S = 2.0


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


async def blocked(redis: Redis, clients: int = 1) -> None:
    """Until so many clients block on a list."""
    while (await redis.info("clients"))["blocked_clients"] != clients:  # noqa: ASYNC110 - the condition is Redis'
        await asyncio.sleep(0.001)


async def calls(redis: Redis, command: str) -> int:
    stats = (await redis.info("commandstats")).get(f"cmdstat_{command}", {"calls": 0})
    return int(stats["calls"])


async def test_a_waiter_wakes_at_once_and_never_polls(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    await bus.stats(model)
    await redis.config_resetstat()
    waiter = asyncio.create_task(bus.wait_for_work(model, timeout_s=LONG_S))
    await blocked(redis)
    await asyncio.wait({waiter}, timeout=0.3)
    assert not waiter.done()
    # One look before the wait (a second one where Redis had to be given the script), none during it.
    assert await calls(redis, "evalsha") + await calls(redis, "eval") <= 2
    before = time.monotonic()
    await bus.enqueue(model, envelopes())
    await asyncio.wait_for(waiter, SOON_S)
    assert time.monotonic() - before < 0.5
    assert len(await bus.claim(model, worker="w", count=1, lease_ms=60_000)) == 1


async def test_queued_work_lets_nobody_wait(bus: Bus, model: ModelKey, envelopes) -> None:
    await bus.enqueue(model, envelopes())
    for _ in range(3):
        await asyncio.wait_for(bus.wait_for_work(model, timeout_s=LONG_S), SOON_S)


async def test_without_work_the_timeout_ends_it(bus: Bus, model: ModelKey) -> None:
    before = time.monotonic()
    await bus.wait_for_work(model, timeout_s=0.15)
    assert 0.1 < time.monotonic() - before < SOON_S
    await bus.wait_for_work(model, timeout_s=0)


async def test_whoever_leaves_work_behind_wakes_the_next(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    done: list[str] = []

    async def worker(name: str) -> None:
        while not (deliveries := await bus.claim(model, worker=name, count=1, lease_ms=60_000)):
            await bus.wait_for_work(model, timeout_s=LONG_S)
        done.append(deliveries[0].envelope.uid)

    workers = [asyncio.create_task(worker(f"pod-{number}")) for number in range(6)]
    await blocked(redis, 6)
    for _ in range(6):
        await bus.enqueue(model, envelopes())
    await asyncio.wait_for(asyncio.gather(*workers), SOON_S)
    assert len(set(done)) == 6


async def test_the_wake_list_stays_one_long_and_ends_with_the_work(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    wake = f"headrace:{{{model}}}:wake"
    for _ in range(50):
        await bus.enqueue(model, envelopes())
    assert await redis.llen(wake) == 1
    await bus.claim(model, worker="w", count=49, lease_ms=60_000)
    assert await redis.llen(wake) == 1
    await bus.claim(model, worker="w", count=1, lease_ms=60_000)
    assert await redis.llen(wake) == 0


async def test_a_delay_that_is_due_ends_the_wait(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    """Known before the wait or told during it."""
    await bus.enqueue(model, envelopes(), not_before_ms=await bus.server_time_ms() + 150)
    async with asyncio.timeout(SOON_S):
        while not await bus.claim(model, worker="w", count=1, lease_ms=60_000):
            await bus.wait_for_work(model, timeout_s=LONG_S)

    async def wait_and_claim() -> None:
        while not await bus.claim(model, worker="w", count=1, lease_ms=60_000):
            await bus.wait_for_work(model, timeout_s=LONG_S)

    waiter = asyncio.create_task(wait_and_claim())
    await blocked(redis)
    await bus.enqueue(model, envelopes(), not_before_ms=await bus.server_time_ms() + 150)
    await asyncio.wait_for(waiter, SOON_S)


async def test_a_lease_that_runs_out_ends_the_wait(bus: Bus, model: ModelKey, envelopes) -> None:
    await bus.enqueue(model, envelopes())
    await bus.claim(model, worker="w", count=1, lease_ms=120)
    async with asyncio.timeout(SOON_S):
        while not await bus.returned(model):
            await bus.wait_for_work(model, timeout_s=LONG_S)
            await bus.claim(model, worker="w", count=1, lease_ms=60_000)


async def test_a_waiter_on_a_dead_server_is_told(own_server: RedisServer, model: ModelKey) -> None:
    async with Bus.connect(own_server.url) as bus, Redis.from_url(own_server.url) as redis:
        waiter = asyncio.create_task(bus.wait_for_work(model, timeout_s=LONG_S))
        await blocked(redis)
        own_server.stop()
        with pytest.raises(BusUnavailable):
            await asyncio.wait_for(waiter, SOON_S)


async def test_a_waiter_on_a_silent_server_is_told(own_server: RedisServer, model: ModelKey) -> None:
    async with (
        Bus.connect(own_server.url, socket_timeout_s=0.3, connect_timeout_s=0.1) as bus,
        Redis.from_url(own_server.url) as redis,
    ):
        waiter = asyncio.create_task(bus.wait_for_work(model, timeout_s=0.2))
        await blocked(redis)
        with own_server.frozen(), pytest.raises(BusUnavailable, match="BLPOP"):
            await asyncio.wait_for(waiter, SOON_S)


async def test_closing_ends_a_wait(own_server: RedisServer, model: ModelKey) -> None:
    async with Bus.connect(own_server.url) as bus, Redis.from_url(own_server.url) as redis:
        waiter = asyncio.create_task(bus.wait_for_work(model, timeout_s=LONG_S))
        await blocked(redis)
        await bus.aclose()
        with pytest.raises(BusUnavailable):
            await asyncio.wait_for(waiter, SOON_S)


async def following(wakeups: AsyncGenerator[ModelKey, None], wanted: ModelKey) -> None:
    """Until the model is named."""
    async with asyncio.timeout(10):
        async for model in wakeups:
            if model == wanted:
                return


async def subscribed(redis: Redis) -> None:
    while await redis.pubsub_numpat() != 1:  # noqa: ASYNC110 - the condition is Redis'
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("transition", ["fail", "release", "reap", "claim sees an expired lease", "report"])
async def test_the_operator_is_woken(bus: Bus, model: ModelKey, redis: Redis, envelopes, transition: str) -> None:
    await bus.enqueue(model, envelopes(uid="u"))
    (delivery,) = await bus.claim(model, worker="w", count=1, lease_ms=60_000)
    wakeups = bus.operator_wakeups()
    heard = asyncio.create_task(following(wakeups, model))
    await subscribed(redis)
    match transition:
        case "fail":
            await bus.fail(model, delivery.token, Failure("No", ""))
        case "release":
            await bus.release(model, delivery.token, "Drain")
        case "report":
            await bus.report(model, "w", {"free": 1}, ttl_ms=1_000)
        case _:
            await redis.zadd(f"headrace:{{{model}}}:leases", {"u": 1})
            if transition == "reap":
                await bus.reap(model)
            else:
                await bus.claim(model, worker="w", count=1, lease_ms=60_000)
    await asyncio.wait_for(heard, SOON_S)
    await wakeups.aclose()


async def test_a_claim_that_takes_all_of_several_namespaces_leaves_nobody_to_wake(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    for namespace in ("team-a", "team-a", "team-b"):
        await bus.enqueue(model, envelopes(namespace=namespace))
    assert len(await bus.claim(model, worker="w", count=8, lease_ms=60_000)) == 3
    assert await redis.llen(f"headrace:{{{model}}}:wake") == 0


async def test_the_same_report_again_wakes_nobody(bus: Bus, model: ModelKey, redis: Redis) -> None:
    other = ModelKey("platform", "other")
    await bus.report(model, "w", {"free": 1}, ttl_ms=60_000)
    wakeups = bus.operator_wakeups()
    first = asyncio.ensure_future(anext(wakeups))
    await subscribed(redis)
    await bus.report(model, "w", {"free": 1}, ttl_ms=60_000)
    await bus.report(other, "w", {"free": 1}, ttl_ms=60_000)
    assert await asyncio.wait_for(first, SOON_S) == other
    await wakeups.aclose()


async def test_a_listener_outlives_a_restart_and_then_looks_at_every_model(own_server: RedisServer) -> None:
    one, two = ModelKey("ns", "one"), ModelKey("ns", "two")
    async with Bus.connect(own_server.url) as bus, Redis.from_url(own_server.url) as redis:
        await bus.register(one)
        wakeups = bus.operator_wakeups()
        assert await asyncio.wait_for(anext(wakeups), SOON_S) == one
        again = asyncio.create_task(following(wakeups, two))
        await subscribed(redis)
        own_server.stop()
        own_server.start()
        await bus.register(two)
        await again
        await wakeups.aclose()


async def test_nonsense_on_the_channel_ends_nothing(bus: Bus, model: ModelKey, redis: Redis) -> None:
    wakeups = bus.operator_wakeups()
    heard = asyncio.ensure_future(anext(wakeups))
    await subscribed(redis)
    await redis.publish("headrace:wake:nonsense", "{}")
    await redis.publish(f"headrace:wake:{model}", "")
    assert await asyncio.wait_for(heard, SOON_S) == model
    await wakeups.aclose()


async def test_listening_ends_with_the_bus(own_server: RedisServer) -> None:
    async with Bus.connect(own_server.url) as bus, Redis.from_url(own_server.url) as redis:
        heard = asyncio.ensure_future(anext(bus.operator_wakeups(), None))
        await subscribed(redis)
        await bus.aclose()
        assert await asyncio.wait_for(heard, SOON_S) is None
