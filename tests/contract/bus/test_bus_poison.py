"""Whoever has the password of a model's runners writes what it likes into its keys: it costs that model only."""

import asyncio
import contextlib
import json
from dataclasses import replace

import pytest
from redis.asyncio import Redis
from redis_server import RedisServer

from headrace_bus import (
    Bus,
    BusCorrupt,
    BusDenied,
    BusError,
    BusUnavailable,
    EnqueueOutcome,
    EntryState,
    Failure,
    Interruption,
    ModelKey,
    UidState,
    WorkClass,
)
from headrace_bus.keys import key_prefix

pytestmark = pytest.mark.contract

LEASE_MS = 60_000
HEALTHY = ModelKey("platform", "healthy")
TOP_KEYS = (
    "index",
    "ring:Call",
    "ring:Task",
    "finish:Task",
    "clock",
    "seq",
    "weights",
    "queued",
    "delayed",
    "leases",
    "pulse",
    "returned",
    "wake",
    "done",
    "results",
    "workers",
    "parked",
    "service",
)
HUGE = "9" * 400


async def fill(bus: Bus, model: ModelKey, envelopes) -> list[str]:
    """One entry each that is returned, leased, queued and delayed; their uids."""
    await bus.register(model)
    uids = []
    for _ in range(3):
        envelope = envelopes()
        await bus.enqueue(model, envelope)
        uids.append(envelope.uid)
    failed, held = await bus.claim(model, worker="pod-1", count=2, lease_ms=LEASE_MS)
    await bus.interrupt(model, held.token.uid, Interruption.CANCEL)
    await bus.set_weights(model, {"team-a": 2})
    await bus.fail(model, failed.token, Failure("EngineError", "no"))
    delayed = envelopes()
    await bus.enqueue(model, delayed, not_before_ms=await bus.server_time_ms() + 3_600_000)
    await bus.report(model, "pod-1", {"busy": 1}, ttl_ms=60_000)
    return [*uids, delayed.uid]


async def park(bus: Bus, model: ModelKey, envelopes) -> str:
    """An entry that came back as parked; its uid."""
    await bus.enqueue(model, envelopes(kind=WorkClass.CALL))
    (delivery,) = await bus.claim(model, worker="pod-1", count=1, lease_ms=LEASE_MS)
    assert await bus.park(model, delivery.token, {"text": "long"})
    return delivery.token.uid


async def everything(bus: Bus, model: ModelKey, uid: str) -> None:
    """All that operator and runner do: nothing but BusError comes out."""
    for call in (
        bus.reap(model),
        bus.returned(model),
        bus.uids(model),
        bus.stats(model),
        bus.reports(model),
        bus.inspect(model, uid),
        bus.position(model, uid),
        bus.result(model, uid),
        bus.parked(model, uid, 1),
        bus.interrupt(model, uid, Interruption.DROP),
        bus.interruptions(model, "pod-1", timeout_s=0.01),
        bus.set_weights(model, {"team-a": 3}),
        bus.wait_for_work(model, timeout_s=0.01),
        bus.withdraw(model, uid, 1),
        bus.remove(model, uid),
    ):
        with contextlib.suppress(BusError):
            await call
    with contextlib.suppress(BusError):
        for delivery in await bus.claim(model, worker="pod-2", count=3, lease_ms=LEASE_MS):
            with contextlib.suppress(BusError):
                await bus.park(model, delivery.token, {"text": "long"})
            with contextlib.suppress(BusError):
                await bus.complete(model, delivery.token)


async def is_healthy(bus: Bus, uids: list[str]) -> None:
    assert await bus.reap(HEALTHY) == 0
    assert [each.uid for each in await bus.returned(HEALTHY)] == uids[:1]
    assert set((await bus.uids(HEALTHY)).entries) == set(uids)
    stats = await bus.stats(HEALTHY)
    assert (stats.queued, stats.delayed, stats.leased, stats.returned) == (1, 1, 1, 1)
    assert HEALTHY in await bus.models()


@pytest.mark.parametrize("kind", ["string", "hash", "list"])
@pytest.mark.parametrize("key", TOP_KEYS)
async def test_a_key_of_another_type_is_a_bus_error_and_purged(
    bus: Bus, model: ModelKey, redis: Redis, envelopes, key: str, kind: str
) -> None:
    healthy, poisoned = await fill(bus, HEALTHY, envelopes), await fill(bus, model, envelopes)
    parked = await park(bus, model, envelopes)
    # The bucket of ten minutes.
    name = key_prefix(model) + (f"done:{(await redis.time())[0] // 600}" if key == "done" else key)
    await redis.delete(name)
    match kind:
        case "string":
            await redis.set(name, b"\xff\x00")
        case "hash":
            await redis.hset(name, HUGE, b"\xff")
        case "list":
            await redis.rpush(name, b"\xfe")
    await everything(bus, model, poisoned[0])
    await everything(bus, model, parked)
    await is_healthy(bus, healthy)
    await bus.purge(model)
    assert await redis.keys(f"{key_prefix(model)}*") == []
    assert await bus.models() == {HEALTHY}
    await is_healthy(bus, healthy)


async def test_a_key_of_another_type_says_which_model(bus: Bus, model: ModelKey, redis: Redis) -> None:
    await redis.set(f"{key_prefix(model)}leases", "secret")
    with pytest.raises(BusCorrupt, match=str(model)) as caught:
        await bus.reap(model)
    assert "secret" not in str(caught.value)
    assert not caught.value.retryable


async def test_rows_that_are_none_hide_no_others(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    uids = await fill(bus, model, envelopes)
    prefix = key_prefix(model)
    for uid in ("u*1", b"\xff\xfe", "x" * 300, "../other", "nothing"):
        await redis.hset(f"{prefix}index", uid, 1)
    sound = {"attempt": 1, "state": "Returned", "namespace": "n", "name": "n", "since": 1, "worker": "w", "claimed": 1}
    sound |= {"reason": "Failed", "failure": json.dumps({"reason": "No", "message": ""})}
    bad = {
        "state": ["Bogus", b"\xff"],
        "attempt": ["x", "-1", HUGE, "1e3", "2000000000", "nan"],
        "name": ["../../secrets", b"\xff", "x" * 40_000],
        "since": ["", HUGE, "inf", "253402300800000"],
        "reason": ["Whatever"],
    }
    for field, values in bad.items():
        for number, value in enumerate(values):
            uid = f"a-{field}-{number}"
            await redis.hset(f"{prefix}entry:{uid}", mapping={**sound, field: value})
            await redis.hset(f"{prefix}index", uid, 1)
            await redis.zadd(f"{prefix}returned", {uid: 1})
            assert await bus.inspect(model, uid) is None
    # A failure nobody wrote is none, but the delivery came back all the same.
    for number, failure in enumerate([b"\xff", "[" * 30_000, '{"reason":"\\ud800","message":"x"}', "1"]):
        uid = f"b-{number}"
        await redis.hset(f"{prefix}entry:{uid}", mapping={**sound, "failure": failure})
        await redis.zadd(f"{prefix}returned", {uid: 2})
    returned = await bus.returned(model, limit=5)
    assert [(each.uid, each.failure is None) for each in returned] == [
        ("b-0", True),
        ("b-1", True),
        ("b-2", True),
        ("b-3", True),
        (uids[0], False),
    ]
    # The first page holds nothing that can be read.
    assert [each.uid for each in await bus.returned(model, limit=1)] == ["b-0"]
    held = {uid: state for uid, state in (await bus.uids(model)).entries.items() if uid in uids}
    assert held == {
        uids[0]: UidState(1, EntryState.RETURNED),
        uids[1]: UidState(1, EntryState.LEASED),
        uids[2]: UidState(1, EntryState.QUEUED),
        uids[3]: UidState(1, EntryState.DELAYED),
    }
    for worker, report in (("p 1", "{}"), (b"\xff", "{}"), ("deep", "[" * 60_000), ("nan", "NaN"), ("list", "[]")):
        await redis.zadd(f"{prefix}workers", {worker: 2**50})
        await redis.set(
            f"{prefix}report:".encode() + (worker if isinstance(worker, bytes) else worker.encode()), report
        )
    assert await bus.reports(model) == {"pod-1": {"busy": 1}}


@pytest.mark.parametrize("poison", ["state", "attempt", "type"])
async def test_what_is_no_entry_is_replaced_by_the_next_enqueue(
    bus: Bus, model: ModelKey, redis: Redis, envelopes, poison: str
) -> None:
    envelope, other = envelopes(), envelopes()
    await bus.enqueue(model, envelope)
    await bus.enqueue(model, other)
    key = f"{key_prefix(model)}entry:{envelope.uid}"
    if poison == "type":
        await redis.set(key, "x")
    else:
        await redis.hset(key, poison, "Bogus")
    assert await bus.inspect(model, envelope.uid) is None
    again = envelopes(uid=envelope.uid, attempt=2, created_ms=1)
    assert await bus.enqueue(model, again) in (EnqueueOutcome.ENQUEUED, EnqueueOutcome.SUPERSEDED)
    deliveries = await bus.claim(model, worker="w", count=5, lease_ms=LEASE_MS)
    assert [delivery.envelope for delivery in deliveries] == [again, other]


async def test_one_without_a_place_in_its_queue_is_given_another_priority_all_the_same(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    envelope = envelopes()
    await bus.enqueue(model, envelope)
    await redis.hdel(f"{key_prefix(model)}entry:{envelope.uid}", "member")
    assert await bus.move(model, replace(envelope, priority=1))
    assert await bus.enqueue(model, replace(envelope, priority=2)) is EnqueueOutcome.DUPLICATE


async def test_sweeping_drops_what_is_no_entry(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    prefix = key_prefix(model)
    uids = await fill(bus, model, envelopes)
    for key in ("leases", "delayed"):
        await redis.zadd(f"{prefix}{key}", {"nothing": 1, b"\xff": 2})
    await redis.zadd(f"{prefix}leases", {uids[1]: 3})
    assert await bus.reap(model) == 5
    assert {each.uid for each in await bus.returned(model)} == {uids[0], uids[1]}
    assert await redis.zrange(f"{prefix}leases", 0, 10) == []


async def test_a_poisoned_envelope_costs_the_claim_nothing_else(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    prefix = key_prefix(model)
    made = [envelopes() for _ in range(7)]
    for envelope in made:
        await bus.enqueue(model, envelope)
    await redis.set(f"{prefix}envelope:{made[0].uid}", "[" * 100_000)
    await redis.set(f"{prefix}envelope:{made[1].uid}", '{"version":1e999}')
    await redis.delete(f"{prefix}envelope:{made[2].uid}")
    await redis.rpush(f"{prefix}envelope:{made[2].uid}", "x")
    await redis.hset(f"{prefix}entry:{made[3].uid}", "attempt", "x")
    await redis.hset(f"{prefix}entry:{made[4].uid}", "since", "inf")
    await redis.hset(f"{prefix}entry:{made[5].uid}", "cost", "nan")
    deliveries = await bus.claim(model, worker="w", count=7, lease_ms=LEASE_MS)
    assert [delivery.envelope for delivery in deliveries] == made[5:]
    assert {each.uid for each in await bus.returned(model)} == {made[number].uid for number in (0, 1, 2, 4)}


async def test_a_writer_that_goes_on_does_not_hold_up_the_purge(bus: Bus, model: ModelKey, redis: Redis) -> None:
    prefix = key_prefix(model)
    await bus.register(model)
    ended = asyncio.Event()

    # Ended by an event: redis-py can swallow a cancellation, and this loop would then go on for ever.
    async def write() -> None:
        number = 0
        while not ended.is_set():
            async with redis.pipeline(transaction=False) as pipeline:
                for _ in range(1_000):
                    number += 1
                    pipeline.hset(f"{prefix}index", f"u{number}", 1)
                await pipeline.execute()

    writer = asyncio.create_task(write())
    try:
        await redis.blpop("never", 0.1)
        assert await redis.exists(f"{prefix}index")
        await asyncio.wait_for(bus.purge(model), 20)
    finally:
        ended.set()
        await writer
    assert await bus.models() == set()


async def test_revoking_ends_blocked_connections(bus: Bus, shared_server: RedisServer, model: ModelKey, redis) -> None:
    await bus.grant(model, "r", "secret")
    async with Bus.connect(shared_server.url, username="r", password="secret") as own:
        waiting = asyncio.create_task(own.wait_for_work(model, timeout_s=30))
        while (await redis.info("clients"))["blocked_clients"] == 0:
            pass
        await bus.revoke("r")
        with pytest.raises((BusUnavailable, BusDenied)):
            await asyncio.wait_for(waiting, 5)
    assert [each for each in await redis.client_list() if each["user"] == "r"] == []


async def test_another_password_ends_connections_and_the_same_does_not(
    bus: Bus, shared_server: RedisServer, model: ModelKey, redis: Redis
) -> None:
    async def ids() -> list[str]:
        return [each["id"] for each in await redis.client_list() if each["user"] == "r"]

    await bus.grant(model, "r", "one")
    async with Bus.connect(shared_server.url, username="r", password="one") as own:
        await own.stats(model)
        before = await ids()
        await bus.grant(model, "r", "one")
        await own.stats(model)
        assert await ids() == before != []
        await bus.grant(model, "r", "two")
        assert await ids() == []
        with pytest.raises(BusDenied):
            await own.stats(model)


async def test_what_says_leased_without_a_lease_can_be_taken(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    envelope = envelopes()
    await bus.enqueue(model, envelope)
    await bus.claim(model, worker="w", count=1, lease_ms=LEASE_MS)
    await redis.zrem(f"{key_prefix(model)}leases", envelope.uid)
    assert await bus.withdraw(model, envelope.uid, 1, seen=EntryState.LEASED) is True
    assert await bus.inspect(model, envelope.uid) is None
