"""Redis away for longer than a lease, its clock set forward, or one worker dead: who loses its lease, and when."""

import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis_server import redis_server

from headrace_bus import Bus, BusUnavailable, Delivery, EntryState, Failure, ModelKey, ReturnReason
from headrace_bus.keys import key_prefix

pytestmark = pytest.mark.contract

SILENCE_S = 5.0
LEASE_MS = 2_000


async def take(bus: Bus, model: ModelKey, envelopes, lease_ms: int = LEASE_MS) -> Delivery:
    await bus.enqueue(model, envelopes())
    (delivery,) = await bus.claim(model, worker="w", count=1, lease_ms=lease_ms)
    return delivery


async def passes(bus: Bus, model: ModelKey, seconds: float) -> AsyncIterator[None]:
    """Reaps as the operator does; the blocking read is what takes the time."""
    end = time.monotonic() + seconds
    async with Redis.from_url(bus_url(bus)) as redis:
        while time.monotonic() < end:
            await bus.reap(model)
            yield
            await redis.blpop("never", 0.2)


def bus_url(bus: Bus) -> str:
    return bus._connection._settings.url


async def ages(redis: Redis, model: ModelKey, milliseconds: int) -> None:
    """As if the clock were so much later: every time of the leases is so much earlier."""
    prefix = key_prefix(model)
    for uid, at in await redis.zrange(f"{prefix}leases", 0, 100, withscores=True):
        await redis.zadd(f"{prefix}leases", {uid: at - milliseconds})
    for field in ("at", "grace"):
        await redis.hincrby(f"{prefix}pulse", field, -milliseconds)


async def test_an_outage_beyond_the_lease_takes_it_from_nobody(model: ModelKey, envelopes) -> None:
    with redis_server() as server:
        async with Bus.connect(server.url, call_timeout_s=1) as bus, Redis.from_url(server.url) as redis:
            delivery = await take(bus, model, envelopes)
            with server.frozen():
                frozen_since = time.monotonic()
                while time.monotonic() < frozen_since + SILENCE_S + 0.5:
                    with pytest.raises(BusUnavailable):
                        await bus.reap(model)
            assert await bus.server_time_ms() > delivery.lease_until_ms
            # What the operator sent meanwhile was carried out first.
            assert await bus.reap(model) == 0
            assert await bus.renew(model, [delivery.token], lease_ms=LEASE_MS) == [True]
            assert await bus.returned(model) == []
            assert await redis.exists(f"{key_prefix(model)}pulse") == 1
            assert await bus.complete(model, delivery.token)
            assert await redis.exists(f"{key_prefix(model)}pulse") == 0


async def test_a_restart_with_its_data_takes_it_from_nobody_either(model: ModelKey, envelopes) -> None:
    with redis_server(appendonly="yes", appendfsync="always") as server:
        async with Bus.connect(server.url) as bus, Redis.from_url(server.url) as redis:
            delivery = await take(bus, model, envelopes)
            await ages(redis, model, 60_000)
            server.stop()
            server.start()
            assert await bus.reap(model) == 0
            assert await bus.renew(model, [delivery.token], lease_ms=LEASE_MS) == [True]


async def test_whoever_is_served_first_after_the_gap_a_lease_is_granted(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    first, second = [await take(bus, model, envelopes, 60_000) for _ in range(2)]
    await ages(redis, model, 100_000)
    assert await bus.renew(model, [first.token], lease_ms=60_000) == [True]
    # That closed the gap; the other has its chance all the same.
    assert await bus.reap(model) == 0
    assert await bus.claim(model, worker="v", count=1, lease_ms=60_000) == []
    # Nor does a waiting worker spin on what is overdue.
    before = time.monotonic()
    await bus.wait_for_work(model, timeout_s=0.2)
    assert time.monotonic() - before > 0.15
    assert await bus.renew(model, [second.token], lease_ms=60_000) == [True]


async def test_after_the_grace_what_nobody_renewed_is_returned(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    dead, alive = [await take(bus, model, envelopes) for _ in range(2)]
    await ages(redis, model, 100_000)
    moved_at_ms = None
    begun_ms = await bus.server_time_ms()
    async for _ in passes(bus, model, LEASE_MS / 1000 + 1.5):
        assert await bus.renew(model, [alive.token], lease_ms=LEASE_MS) == [True]
        if moved_at_ms is None and await bus.returned(model):
            moved_at_ms = await bus.server_time_ms()
    assert moved_at_ms is not None
    assert LEASE_MS <= moved_at_ms - begun_ms < LEASE_MS + 1_000
    assert [each.uid for each in await bus.returned(model)] == [dead.token.uid]


async def test_a_dead_worker_is_noticed_when_its_lease_ends(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    # An idle model: nobody was served for long before the claim.
    await take(bus, model, envelopes)
    await bus.remove(model, "uid-1")
    alive, dead = [await take(bus, model, envelopes) for _ in range(2)]
    async for _ in passes(bus, model, LEASE_MS / 1000 + 1.0):
        await bus.renew(model, [alive.token], lease_ms=LEASE_MS)
    (returned,) = await bus.returned(model)
    assert (returned.uid, returned.reason) == (dead.token.uid, ReturnReason.LEASE_EXPIRED)
    assert 0 <= returned.returned_ms - dead.lease_until_ms < 800


@pytest.mark.parametrize("ending", ["renew", "complete", "fail", "release"])
async def test_an_overdue_lease_is_its_holders_until_a_reap_has_taken_it(
    bus: Bus, model: ModelKey, redis: Redis, envelopes, ending: str
) -> None:
    delivery = await take(bus, model, envelopes)
    await redis.zadd(f"{key_prefix(model)}leases", {delivery.token.uid: 1})

    async def end() -> bool:
        match ending:
            case "renew":
                return (await bus.renew(model, [delivery.token], lease_ms=LEASE_MS))[0]
            case "complete":
                return await bus.complete(model, delivery.token)
            case "fail":
                return await bus.fail(model, delivery.token, Failure("No", ""))
            case _:
                return await bus.release(model, delivery.token, "Drain")

    assert await end() is True
    other = await take(bus, model, envelopes)
    delivery = other
    await redis.zadd(f"{key_prefix(model)}leases", {other.token.uid: 1})
    assert await bus.reap(model) == 1
    assert await end() is False
    entry = await bus.inspect(model, other.token.uid)
    assert entry is not None
    assert entry.state is EntryState.RETURNED


async def test_the_pulse_is_not_written_with_every_reap(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    await bus.reap(model)
    assert await redis.exists(f"{key_prefix(model)}pulse") == 0
    await take(bus, model, envelopes)
    before = (await redis.info("persistence"))["rdb_changes_since_last_save"]
    for _ in range(20):
        await bus.reap(model)
    assert (await redis.info("persistence"))["rdb_changes_since_last_save"] - before < 20
