"""Lost replies, a full, frozen or restarted server: one effect, no half effect, no vendor error."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from redis.asyncio import Redis
from redis_server import RedisServer, redis_server
from reply_thief import ReplyThief, reply_thief

from headrace_bus import (
    Bus,
    BusMisconfigured,
    BusOutOfMemory,
    BusUnavailable,
    EnqueueOutcome,
    EntryState,
    Failure,
    Interruption,
    ModelKey,
    ReturnReason,
    Stats,
)
from headrace_bus.connection import Connection
from headrace_bus.keys import key_prefix
from headrace_bus.settings import BusSettings

pytestmark = pytest.mark.contract

LEASE_MS = 60_000
FAILURE = Failure("EngineError", "no")


@pytest.fixture
async def thief(shared_server: RedisServer, redis: Redis) -> AsyncIterator[ReplyThief]:
    async with reply_thief(shared_server.port) as thief:
        yield thief


@pytest.fixture
async def robbed(thief: ReplyThief) -> AsyncIterator[Bus]:
    """A bus whose replies `thief` may steal."""
    async with Bus.connect(thief.url) as bus:
        yield bus


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


async def warm(robbed: Bus, bus: Bus, envelopes) -> None:
    """Every script is loaded and a connection stands, so that a stolen reply is a transition's."""
    warm_up = ModelKey("warm", "up")
    for _ in range(4):
        await bus.enqueue(warm_up, envelopes())
    one, two, three, four = await bus.claim(warm_up, worker="w", count=4, lease_ms=LEASE_MS)
    await bus.park(warm_up, four.token, {})
    await bus.interrupt(warm_up, four.token.uid, Interruption.DROP)
    await bus.withdraw(warm_up, four.token.uid, 1)
    await bus.complete(warm_up, one.token)
    await bus.fail(warm_up, two.token, FAILURE)
    await bus.release(warm_up, three.token, "Drain")
    await bus.reap(warm_up)
    await bus.remove(warm_up, one.envelope.uid)
    await bus.purge(warm_up)
    await robbed.server_time_ms()


async def test_a_repeated_enqueue_has_one_effect(bus, robbed: Bus, thief: ReplyThief, model, envelopes) -> None:
    await warm(robbed, bus, envelopes)
    envelope = envelopes()
    thief.steal(1)
    # Not Duplicate: the caller learns what its request did.
    assert await robbed.enqueue(model, envelope) is EnqueueOutcome.ENQUEUED
    assert thief.stolen == 1
    thief.steal(1)
    assert await robbed.enqueue(model, replace(envelope, attempt=2)) is EnqueueOutcome.SUPERSEDED
    assert thief.stolen == 1
    assert (await bus.stats(model)).queued == 1


async def test_a_repeated_claim_takes_nothing_more(bus, robbed: Bus, thief: ReplyThief, model, envelopes) -> None:
    await warm(robbed, bus, envelopes)
    made = [envelopes() for _ in range(5)]
    for envelope in made:
        await bus.enqueue(model, envelope)
    thief.steal(1)
    deliveries = await robbed.claim(model, worker="w", count=2, lease_ms=LEASE_MS)
    assert thief.stolen == 1
    assert [delivery.envelope for delivery in deliveries] == made[:2]
    stats = await bus.stats(model)
    assert (stats.leased, stats.queued) == (2, 3)
    assert await bus.renew(model, [delivery.token for delivery in deliveries], lease_ms=LEASE_MS) == [True, True]


@pytest.mark.parametrize(
    "transition", ["complete", "fail", "interrupt", "park", "release", "remove", "renew", "withdraw"]
)
async def test_a_repeated_transition_has_one_effect_and_one_answer(
    bus, robbed: Bus, thief: ReplyThief, model, envelopes, transition: str
) -> None:
    await warm(robbed, bus, envelopes)
    await bus.enqueue(model, envelopes())
    (delivery,) = await bus.claim(model, worker="w", count=1, lease_ms=LEASE_MS)
    thief.steal(1)
    match transition:
        case "complete":
            assert await robbed.complete(model, delivery.token, result={"n": 1}) is True
        case "fail":
            assert await robbed.fail(model, delivery.token, FAILURE) is True
        case "release":
            assert await robbed.release(model, delivery.token, "Drain") is True
        case "remove":
            assert await robbed.remove(model, delivery.envelope.uid) is True
        case "park":
            assert await robbed.park(model, delivery.token, {"n": 1}) is True
        case "withdraw":
            assert await robbed.withdraw(model, delivery.token.uid, 2) is True
        case "interrupt":
            assert await robbed.interrupt(model, delivery.token.uid, Interruption.CANCEL) == "w"
        case "renew":
            assert await robbed.renew(model, [delivery.token], lease_ms=LEASE_MS) == [True]
    assert thief.stolen == 1
    stats = await bus.stats(model)
    assert stats.returned == (1 if transition in ("fail", "park", "release") else 0)
    assert stats.leased == (1 if transition in ("interrupt", "renew") else 0)
    words = await bus.interruptions(model, "w", timeout_s=0)
    assert len(words) == (1 if transition in ("interrupt", "remove", "withdraw") else 0)


async def test_a_repeated_reap_answers_what_the_first_did(bus, robbed: Bus, thief, model, redis, envelopes) -> None:
    await warm(robbed, bus, envelopes)
    await bus.enqueue(model, envelopes(uid="u"))
    await bus.claim(model, worker="w", count=1, lease_ms=LEASE_MS)
    await redis.zadd(f"{key_prefix(model)}leases", {"u": 1})
    thief.steal(1)
    assert await robbed.reap(model) == 1
    assert thief.stolen == 1


async def test_after_two_lost_replies_the_caller_is_told(bus, robbed: Bus, thief, model, envelopes) -> None:
    await warm(robbed, bus, envelopes)
    thief.steal(2)
    with pytest.raises(BusUnavailable):
        await robbed.enqueue(model, envelopes())
    assert thief.stolen == 2
    assert (await bus.stats(model)).queued == 1


async def test_a_repetition_is_known_by_its_request_alone(
    shared_server, redis: Redis, bus: Bus, model, envelopes
) -> None:
    """Below the door: another request for the same thing is another request."""
    await bus.enqueue(model, envelopes(uid="u"))
    (delivery,) = await bus.claim(model, worker="w", count=1, lease_ms=LEASE_MS)
    connection = Connection(BusSettings(shared_server.url))
    parts = (delivery.token.uid, delivery.token.attempt, delivery.token.nonce)
    prefix = key_prefix(model)
    assert [await connection.run("complete", prefix, request, *parts) for request in ("r1", "r1", "r2")] == [
        b"1",
        b"1",
        b"0",
    ]
    await connection.aclose()


async def test_a_reply_is_kept_for_thirty_seconds_at_least(
    shared_server, redis: Redis, bus: Bus, model, envelopes
) -> None:
    connection = Connection(BusSettings(shared_server.url))
    prefix = key_prefix(model)
    await bus.enqueue(model, envelopes(uid="u"))
    assert await connection.run("remove", prefix, "r1", "u") == b"1"
    # As if the bucket's 30 s had just gone by.
    (bucket,) = await redis.keys(f"{prefix}requests:*")
    await redis.rename(bucket, f"{prefix}requests:{int(bucket.rpartition(':')[2]) - 1}")
    assert await connection.run("remove", prefix, "r1", "u") == b"1"
    await connection.aclose()


async def test_a_repeated_claim_hands_out_no_lease_that_was_lost(shared_server, bus: Bus, model, envelopes) -> None:
    connection = Connection(BusSettings(shared_server.url))
    request = ("r1", "w", 3, LEASE_MS, 1, 4, 100)
    made = [envelopes() for _ in range(3)]
    for envelope in made:
        await bus.enqueue(model, envelope)
    _, rows = await connection.run("claim", key_prefix(model), *request)
    assert len(rows) == 3
    await bus.remove(model, made[0].uid)
    await bus.enqueue(model, replace(made[1], attempt=2))
    _, rows = await connection.run("claim", key_prefix(model), *request)
    assert [row[0].decode() for row in rows] == [made[2].uid]
    await connection.aclose()


async def test_a_claim_that_was_never_answered_comes_back_with_the_next(
    bus, robbed: Bus, thief: ReplyThief, model, redis: Redis, envelopes
) -> None:
    await warm(robbed, bus, envelopes)
    made = [envelopes() for _ in range(5)]
    for envelope in made:
        await bus.enqueue(model, envelope)
    thief.steal(2)
    with pytest.raises(BusUnavailable):
        await robbed.claim(model, worker="w", count=3, lease_ms=LEASE_MS)
    assert thief.stolen == 2
    # Half a lease later.
    prefix = key_prefix(model)
    await redis.zincrby(f"{prefix}leases", -LEASE_MS / 2, made[0].uid)
    deliveries = await robbed.claim(model, worker="w", count=2, lease_ms=LEASE_MS)
    assert [delivery.envelope for delivery in deliveries] == made[:2]
    assert deliveries[0].lease_until_ms > await bus.server_time_ms() + LEASE_MS - 10_000
    # There is no room for the third: it goes back at once, and charges nobody.
    (returned,) = await bus.returned(model)
    assert (returned.uid, returned.reason) == (made[2].uid, ReturnReason.RELEASED)
    # The next one is a claim of its own.
    deliveries = await robbed.claim(model, worker="w", count=5, lease_ms=LEASE_MS)
    assert [delivery.envelope for delivery in deliveries] == made[3:]


async def test_a_cancelled_claim_comes_back_with_the_next(own_server: RedisServer, model: ModelKey, envelopes) -> None:
    async with Bus.connect(own_server.url) as bus, Bus.connect(own_server.url) as other:
        envelope = envelopes()
        await bus.enqueue(model, envelope)
        await bus.claim(model, worker="w", count=1, lease_ms=LEASE_MS)
        await other.enqueue(model, second := envelopes())
        with own_server.frozen():
            call = asyncio.create_task(bus.claim(model, worker="w", count=1, lease_ms=LEASE_MS))
            await asyncio.wait({call}, timeout=0.2)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        # What was sent has its effect before this is answered.
        await other.server_time_ms()
        (delivery,) = await bus.claim(model, worker="w", count=1, lease_ms=LEASE_MS)
        assert delivery.envelope == second
        assert await bus.renew(model, [delivery.token], lease_ms=LEASE_MS) == [True]


async def test_one_invalid_row_loses_no_other(
    bus, robbed: Bus, thief: ReplyThief, model, redis: Redis, envelopes, monkeypatch
) -> None:
    await warm(robbed, bus, envelopes)
    made = [envelopes() for _ in range(3)]
    for envelope in made:
        await bus.enqueue(model, envelope)
    await redis.set(f"{key_prefix(model)}envelope:{made[1].uid}", "{")
    run = robbed._connection.run

    async def then_gone(name, *args):
        if name == "fail":
            thief.steal(2)
        return await run(name, *args)

    monkeypatch.setattr(robbed._connection, "run", then_gone)
    deliveries = await robbed.claim(model, worker="w", count=3, lease_ms=LEASE_MS)
    assert thief.stolen == 2
    assert [delivery.envelope for delivery in deliveries] == [made[0], made[2]]


async def test_a_call_ends_within_its_limit(own_server: RedisServer, model: ModelKey) -> None:
    async with Bus.connect(own_server.url, call_timeout_s=0.3) as bus:
        await bus.stats(model)
        with own_server.frozen(), pytest.raises(BusUnavailable, match=r"0\.3 s"):
            async with asyncio.timeout(2):
                await bus.stats(model)
        assert (await bus.stats(model)).queued == 0


async def test_a_late_server_runs_a_claim_once(own_server: RedisServer, model: ModelKey, envelopes) -> None:
    async with Bus.connect(own_server.url) as patient:
        for _ in range(3):
            await patient.enqueue(model, envelopes())
        await patient.claim(model, worker="w", count=1, lease_ms=LEASE_MS)
        async with Bus.connect(own_server.url, socket_timeout_s=0.2, connect_timeout_s=0.2) as hasty:
            await hasty.server_time_ms()
            with own_server.frozen(), pytest.raises(BusUnavailable):
                await hasty.claim(model, worker="w", count=1, lease_ms=LEASE_MS)
        # The server has read what was sent to it before it answers this.
        assert (await patient.stats(model)).leased <= 2


async def test_a_restarted_server_is_another_and_empty(own_server: RedisServer, model: ModelKey, envelopes) -> None:
    async with Bus.connect(own_server.url) as bus:
        first = await bus.check()
        await bus.enqueue(model, envelopes())
        own_server.stop()
        with pytest.raises(BusUnavailable):
            await bus.stats(model)
        own_server.start()
        second = await bus.check()
        assert first.run_id != second.run_id
        assert await bus.stats(model) == Stats(0, 0, 0, 0, None, {})
        # The scripts' cache is gone as well.
        assert await bus.enqueue(model, envelopes()) is EnqueueOutcome.ENQUEUED


async def test_a_cancelled_call_spoils_no_connection(own_server: RedisServer, model: ModelKey, envelopes) -> None:
    async with Bus.connect(own_server.url) as bus:
        await bus.enqueue(model, envelopes())
        with own_server.frozen():
            call = asyncio.create_task(bus.stats(model))
            await asyncio.wait({call}, timeout=0.1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        # On a spoilt connection this would read the reply of stats.
        assert await bus.position(model, "uid-1") == 0


async def test_a_policy_that_evicts_is_refused() -> None:
    with redis_server(maxmemory="64mb", maxmemory_policy="allkeys-lru") as server:
        async with Bus.connect(server.url) as bus:
            with pytest.raises(BusMisconfigured, match="allkeys-lru"):
                await bus.check()


async def test_nobody_there_is_unavailable() -> None:
    async with Bus.connect("redis://127.0.0.1:1/0", connect_timeout_s=0.5) as bus:
        with pytest.raises(BusUnavailable) as caught:
            await bus.server_time_ms()
        assert caught.value.retryable


async def test_a_full_server_refuses_the_whole_enqueue_and_lets_work_drain(
    own_server: RedisServer, model: ModelKey, envelopes
) -> None:
    async with Bus.connect(own_server.url) as bus, Redis.from_url(own_server.url) as redis:
        made = [envelopes() for _ in range(6)]
        for envelope in made:
            await bus.enqueue(model, envelope)
        delayed = envelopes()
        await bus.enqueue(model, delayed, not_before_ms=await bus.server_time_ms() + 3_600_000)
        await redis.config_set("maxmemory", 1)

        before = await redis.dbsize()
        with pytest.raises(BusOutOfMemory) as caught:
            await bus.enqueue(model, envelopes())
        assert caught.value.retryable
        with pytest.raises(BusOutOfMemory):
            await bus.enqueue(model, replace(made[0], attempt=2))
        assert await redis.dbsize() == before
        entry = await bus.inspect(model, made[0].uid)
        assert entry is not None
        assert (entry.state, entry.attempt) == (EntryState.QUEUED, 1)

        deliveries = await bus.claim(model, worker="w", count=5, lease_ms=LEASE_MS)
        tokens = [delivery.token for delivery in deliveries]
        assert await bus.renew(model, tokens, lease_ms=LEASE_MS) == [True] * 5
        assert await bus.complete(model, tokens[0], result={"text": "ok"})
        assert await bus.result(model, tokens[0].uid) is None
        assert await bus.fail(model, tokens[1], FAILURE)
        assert await bus.release(model, tokens[2], "Drain")
        assert await bus.interrupt(model, tokens[3].uid, Interruption.CANCEL) == "w"
        assert len(await bus.interruptions(model, "w", timeout_s=1)) == 1
        assert await bus.remove(model, tokens[3].uid)
        assert await bus.withdraw(model, tokens[4].uid, 1) is False
        await bus.set_weights(model, {"team-a": 2})
        await bus.report(model, "w", {"free": 0}, ttl_ms=1_000)
        assert await bus.reap(model) == 0
        assert await bus.position(model, made[5].uid) == 0
        stats = await bus.stats(model)
        assert (stats.queued, stats.delayed, stats.leased, stats.returned) == (1, 1, 1, 2)
        await bus.wait_for_work(model, timeout_s=0.01)
        await bus.purge(model)

        await redis.config_set("maxmemory", 0)
        assert await bus.enqueue(model, made[0]) is EnqueueOutcome.ENQUEUED


async def test_filling_up_leaves_every_entry_whole(model: ModelKey, envelopes) -> None:
    with redis_server(maxmemory="6mb") as server:
        async with Bus.connect(server.url) as bus:
            accepted = []
            with contextlib.suppress(BusOutOfMemory):
                while len(accepted) < 1_000:
                    envelope = envelopes(payload={"prompt": "x" * 100_000})
                    await bus.enqueue(model, envelope)
                    accepted.append(envelope.uid)
            assert (await bus.stats(model)).queued == len(accepted)
            assert 5 < len(accepted) < 1_000
            assert set((await bus.uids(model)).attempts) == set(accepted)
            claimed = []
            while deliveries := await bus.claim(model, worker="w", count=4, lease_ms=LEASE_MS):
                for delivery in deliveries:
                    claimed.append(delivery.envelope.uid)
                    assert await bus.complete(model, delivery.token, result={"text": "y"})
            assert claimed == accepted
            assert await bus.enqueue(model, envelopes()) is EnqueueOutcome.ENQUEUED
