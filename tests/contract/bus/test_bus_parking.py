"""Results too large for the runner to commit: kept as long as their entry, for the operator."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
from redis.asyncio import Redis
from redis_server import redis_server

from headrace_bus import (
    PARKED_KEPT,
    PARKED_MAX_BYTES,
    Bus,
    BusCorrupt,
    BusOutOfMemory,
    Delivery,
    EntryState,
    Failure,
    LeaseToken,
    ModelKey,
    PayloadTooLarge,
    ReturnReason,
    TooManyParked,
)
from headrace_bus.keys import key_prefix

pytestmark = pytest.mark.contract

LEASE_MS = 60_000
PAYLOAD = {"text": 'said "Grüße"\n', "tokens": [1, 2]}


async def claimed(bus: Bus, model: ModelKey, envelopes, **fields: object) -> Delivery:
    await bus.enqueue(model, envelopes(**fields))
    (delivery,) = await bus.claim(model, worker="pod-1", count=1, lease_ms=LEASE_MS)
    return delivery


async def parked_keys(redis: Redis, model: ModelKey) -> set[str]:
    prefix = key_prefix(model)
    return {key.removeprefix(prefix) for key in await redis.keys(f"{prefix}parked*")}


async def test_a_parked_result_waits_for_the_operator(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    delivery = await claimed(bus, model, envelopes, uid="u", attempt=2)
    wakeups = bus.operator_wakeups()
    heard = asyncio.ensure_future(anext(wakeups))
    while await redis.pubsub_numpat() != 1:  # noqa: ASYNC110 - the condition is Redis'
        await asyncio.sleep(0.001)
    assert await bus.parked(model, "u", 2) is None
    assert await bus.park(model, delivery.token, PAYLOAD) is True
    assert await asyncio.wait_for(heard, 2) == model
    await wakeups.aclose()

    (returned,) = await bus.returned(model)
    assert (returned.uid, returned.attempt, returned.reason) == ("u", 2, ReturnReason.PARKED)
    assert (returned.worker, returned.claimed_ms, returned.failure) == ("pod-1", delivery.claimed_ms, None)
    assert await bus.parked(model, "u", 2) == PAYLOAD
    assert [await bus.parked(model, "u", attempt) for attempt in (1, 3)] == [None, None]
    assert await redis.pttl(f"{key_prefix(model)}parked:u") == -1
    assert await redis.exists(f"{key_prefix(model)}envelope:u") == 0
    # The lease is over.
    assert await bus.park(model, delivery.token, PAYLOAD) is False
    assert await bus.complete(model, delivery.token) is False


@pytest.mark.parametrize("end", ["remove", "withdraw", "enqueue", "purge"])
async def test_a_payload_goes_with_its_entry(bus: Bus, model: ModelKey, redis: Redis, envelopes, end: str) -> None:
    delivery = await claimed(bus, model, envelopes, uid="u")
    await bus.park(model, delivery.token, PAYLOAD)
    assert await parked_keys(redis, model) == {"parked", "parked:u"}
    match end:
        case "remove":
            assert await bus.remove(model, "u")
        case "withdraw":
            assert await bus.withdraw(model, "u", 1, seen=EntryState.RETURNED)
        case "enqueue":
            await bus.enqueue(model, replace(delivery.envelope, attempt=2))
        case "purge":
            await bus.purge(model)
            assert await redis.keys(f"{key_prefix(model)}*") == []
    assert await parked_keys(redis, model) == set()
    assert await bus.parked(model, "u", 1) is None


async def test_who_lost_the_lease_parks_nothing(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    delivery = await claimed(bus, model, envelopes, uid="u")
    assert await bus.park(model, replace(delivery.token, nonce="0" * 32), PAYLOAD) is False
    assert await bus.park(model, LeaseToken("none", 1, delivery.token.nonce), PAYLOAD) is False
    await bus.enqueue(model, replace(delivery.envelope, attempt=2))
    assert await bus.park(model, delivery.token, PAYLOAD) is False
    assert await parked_keys(redis, model) == set()
    assert (await bus.stats(model)).queued == 1


async def test_the_bound_counts_the_encoded_payload(bus: Bus, model: ModelKey, envelopes) -> None:
    delivery = await claimed(bus, model, envelopes, uid="u")
    frame = len('{"t":""}')
    # A quote takes two bytes in JSON.
    with pytest.raises(PayloadTooLarge, match=str(PARKED_MAX_BYTES)):
        await bus.park(model, delivery.token, {"t": '"' * (PARKED_MAX_BYTES // 2)})
    largest = {"t": "x" * (PARKED_MAX_BYTES - frame)}
    with pytest.raises(PayloadTooLarge):
        await bus.park(model, delivery.token, {"t": largest["t"] + "x"})
    assert await bus.park(model, delivery.token, largest) is True
    assert await bus.parked(model, "u", 1) == largest


async def test_a_model_parks_so_many_and_a_place_is_taken_again(bus: Bus, model: ModelKey, envelopes) -> None:
    tokens = [(await claimed(bus, model, envelopes)).token for _ in range(PARKED_KEPT + 1)]
    for token in tokens[:-1]:
        assert await bus.park(model, token, PAYLOAD)
    with pytest.raises(TooManyParked) as caught:
        await bus.park(model, tokens[-1], PAYLOAD)
    assert caught.value.retryable
    # The lease goes on, and so does another model.
    assert await bus.renew(model, [tokens[-1]], lease_ms=LEASE_MS) == [True]
    other = ModelKey("platform", "other")
    assert await bus.park(other, (await claimed(bus, other, envelopes)).token, PAYLOAD)
    # The operator has committed one.
    await bus.remove(model, tokens[0].uid)
    assert await bus.park(model, tokens[-1], PAYLOAD)
    await bus.purge(model)
    assert await bus.parked(model, tokens[-1].uid, 1) is None


async def test_at_maxmemory_nothing_is_parked_and_the_lease_goes_on(model: ModelKey, envelopes) -> None:
    with redis_server() as server:
        async with Bus.connect(server.url) as bus, Redis.from_url(server.url) as redis:
            delivery = await claimed(bus, model, envelopes, uid="u")
            with contextlib.suppress(Exception):
                await bus.park(model, LeaseToken("u", 1, "0"), PAYLOAD)
            await redis.config_set("maxmemory", 1)
            before = await redis.dbsize()
            with pytest.raises(BusOutOfMemory):
                await bus.park(model, delivery.token, PAYLOAD)
            assert await redis.dbsize() == before
            entry = await bus.inspect(model, "u")
            assert entry is not None
            assert entry.state is EntryState.LEASED
            assert await bus.fail(model, delivery.token, Failure("OutOfMemory", ""))


@pytest.mark.parametrize(
    "data", [b"\xff", b"[]", b"{", b"[" * 100_000, b'{"t":NaN}', b'{"t":"%s"}' % (b"x" * PARKED_MAX_BYTES), None]
)
async def test_what_a_runner_wrote_instead_is_corrupt(
    bus: Bus, model: ModelKey, redis: Redis, envelopes, data: bytes | None
) -> None:
    key = f"{key_prefix(model)}parked:u"
    await bus.park(model, (await claimed(bus, model, envelopes, uid="u")).token, PAYLOAD)
    await redis.delete(key)
    assert await bus.parked(model, "u", 1) is None
    await (redis.rpush(key, "x") if data is None else redis.set(key, data))
    with pytest.raises(BusCorrupt):
        await bus.parked(model, "u", 1)
    assert await bus.remove(model, "u")
    assert await parked_keys(redis, model) == set()


async def test_service_time_is_a_mean_in_which_the_latest_count_most(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    async def serve(took_ms: int, park: bool) -> float:
        delivery = await claimed(bus, model, envelopes)
        claimed_ms = await bus.server_time_ms() - took_ms
        await redis.hset(f"{key_prefix(model)}entry:{delivery.token.uid}", "claimed", claimed_ms)
        if park:
            await bus.park(model, delivery.token, PAYLOAD)
        else:
            await bus.complete(model, delivery.token)
        mean_ms = (await bus.stats(model)).mean_service_ms
        assert mean_ms is not None
        return mean_ms

    assert (await bus.stats(model)).mean_service_ms is None
    # What passes between the clock's reading and the transition is far below what is told apart here.
    assert 1_000_000 <= await serve(1_000_000, park=False) < 1_010_000
    assert 2_000_000 <= await serve(3_000_000, park=True) < 2_010_000
    for _ in range(10):
        await serve(2_000_000, park=False)
    assert 2_100_000 <= await serve(3_000_000, park=False) < 2_110_000
    # Who fails has served nobody.
    await bus.fail(model, (await claimed(bus, model, envelopes)).token, Failure("No", ""))
    assert await redis.hget(f"{key_prefix(model)}service", "count") == "13"


async def test_a_service_time_of_another_type_costs_no_completion(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    key = f"{key_prefix(model)}service"
    await redis.set(key, "x")
    assert (await bus.stats(model)).mean_service_ms is None
    assert await bus.complete(model, (await claimed(bus, model, envelopes)).token, result={"text": "ok"})
    assert await redis.hget(key, "count") == "1"


async def test_what_lies_there_without_having_been_parked_is_nothing(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    key = f"{key_prefix(model)}parked:u"
    delivery = await claimed(bus, model, envelopes, uid="u")
    await redis.set(key, '{"text":"early"}')
    assert await bus.parked(model, "u", 1) is None
    await bus.release(model, delivery.token, "Drain")
    assert await bus.parked(model, "u", 1) is None
    assert await bus.remove(model, "u") is True
    assert await redis.exists(key) == 0
    await redis.set(key, '{"text":"late"}')
    assert await bus.parked(model, "u", 1) is None
    assert await bus.remove(model, "u") is True
    assert await redis.exists(key) == 0


@pytest.mark.parametrize("mean", ["nan", "inf", "-1", "x", b"\xff", "9" * 400])
async def test_a_service_time_that_is_none_is_not_told(bus: Bus, model: ModelKey, redis: Redis, mean) -> None:
    await redis.hset(f"{key_prefix(model)}service", mapping={"mean_ms": mean, "count": mean})
    assert (await bus.stats(model)).mean_service_ms is None
