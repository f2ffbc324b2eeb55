"""Calls: work whose waiting reader is its only record."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from redis.asyncio import Redis
from redis_server import RedisServer

from headrace_bus import (
    FACADE_ACL,
    FIRST,
    OPERATOR_ACL,
    Bus,
    BusOutOfMemory,
    CallBus,
    EntryState,
    Failure,
    Interruption,
    ModelKey,
    StreamEvent,
    Token,
    WorkClass,
)
from headrace_bus.keys import key_prefix

pytestmark = pytest.mark.contract

READER = "facade-1"
LEASE_MS = 10_000


@pytest.fixture
async def facade(shared_server: RedisServer, redis: Redis) -> AsyncIterator[CallBus]:
    """With the rights of a facade, and no others."""
    await redis.execute_command("ACL", "SETUSER", "facade", "reset", "on", ">secret", *FACADE_ACL)
    async with CallBus.connect(shared_server.url, username="facade", password="secret") as bus:
        yield bus


@pytest.fixture
async def runner(shared_server: RedisServer, bus: Bus, model: ModelKey) -> AsyncIterator[Bus]:
    """With the rights of a runner, and no others."""
    await bus.grant(model, "runner", "secret")
    async with Bus.connect(shared_server.url, username="runner", password="secret") as own:
        yield own


@pytest.fixture
def call(envelopes):
    def make(**fields):
        made = envelopes(kind=WorkClass.CALL, **fields)
        return replace(made, name=made.uid)

    return make


async def ask(facade: CallBus, model: ModelKey, envelope) -> None:
    await facade.call(model, envelope, reader=READER, lease_ms=LEASE_MS)


async def told(facade: CallBus, model: ModelKey) -> list[Token]:
    found = await facade.tokens(READER, {model: FIRST}, timeout_s=0.01)
    return found[model][1] if model in found else []


async def left(redis: Redis, model: ModelKey) -> set[str]:
    """What the model's keys hold beside the streams, which end by themselves."""
    prefix = key_prefix(model)
    names = {key.removeprefix(prefix) for key in await redis.keys(f"{prefix}*")}
    return {each for each in names if not each.startswith(("requests:", "tokens:", "replay:", "waiter:", "inbox:"))}


async def test_a_call_is_queued_claimed_told_and_gone(facade, runner, model, redis, call) -> None:
    one, other = call(), call()
    await ask(facade, model, one)
    await ask(facade, model, other)
    assert await facade.position(model, other.uid) == 1
    assert (await facade.stats(model)).by_namespace == {"team-a": 2}
    deliveries = await runner.claim(model, worker="w", count=1, lease_ms=LEASE_MS)
    assert [each.envelope for each in deliveries] == [one]
    assert await facade.waiting(model, READER, [one.uid, other.uid, "none"], lease_ms=LEASE_MS) == [
        EntryState.LEASED,
        EntryState.QUEUED,
        None,
    ]
    token = deliveries[0].token
    assert await runner.stream(model, [StreamEvent(token, READER, {"attempt": 1, "text": "Hel"})]) == [True]
    assert await runner.end_call(model, token, [{"attempt": 1, "end": "a", "more": True}, {"attempt": 1, "end": "b"}])
    events = await told(facade, model)
    assert [each.event for each in events] == [
        {"attempt": 1, "text": "Hel"},
        {"attempt": 1, "end": "a", "more": True},
        {"attempt": 1, "end": "b"},
    ]
    assert [each.before for each in events] == [FIRST, events[0].id, events[1].id]
    assert [each.event for each in await facade.replay(model, one.uid)] == [each.event for each in events]
    assert not await runner.end_call(model, token, [{"attempt": 1, "end": "again"}])
    assert await facade.waiting(model, READER, [one.uid], lease_ms=LEASE_MS) == [None]
    assert await facade.hang_up(model, other.uid, reader=READER)
    assert await left(redis, model) <= {"service"}
    assert (await facade.stats(model)).mean_service_ms is not None


async def test_who_hangs_up_ends_a_waiting_call_and_has_a_running_one_dropped(
    facade, runner, model, redis, call
) -> None:
    running, waiting = call(), call()
    await ask(facade, model, running)
    (delivery,) = await runner.claim(model, worker="w", count=1, lease_ms=LEASE_MS)
    await ask(facade, model, waiting)
    assert not await facade.hang_up(model, running.uid, reader="facade-2")
    assert await facade.hang_up(model, running.uid, reader=READER)
    assert await facade.hang_up(model, waiting.uid, reader=READER)
    assert not await facade.hang_up(model, waiting.uid, reader=READER)
    words = await runner.interruptions(model, "w", timeout_s=1)
    assert [(each.uid, each.word, each.nonce) for each in words] == [
        (running.uid, Interruption.DROP, delivery.token.nonce)
    ]
    assert await runner.renew(model, [delivery.token], lease_ms=LEASE_MS) == [False]
    assert not await runner.end_call(model, delivery.token, [{"end": ""}])
    assert await runner.claim(model, worker="w", count=4, lease_ms=LEASE_MS) == []
    assert await told(facade, model) == []
    assert not await left(redis, model)


@pytest.mark.parametrize(
    ("how", "reason"), [("fail", "Failed"), ("release", "Released"), ("vanish", "LeaseExpired")], ids=str
)
async def test_a_delivery_that_comes_back_is_told_to_its_reader_alone(
    facade, runner, bus, model, redis, call, how, reason
) -> None:
    asked = call()
    await ask(facade, model, asked)
    lease_ms = 1 if how == "vanish" else LEASE_MS
    (delivery,) = await runner.claim(model, worker="w", count=1, lease_ms=lease_ms)
    failure = Failure("DecodeFailed", "llama.cpp refused", retryable=True)
    if how == "fail":
        assert await runner.fail(model, delivery.token, failure)
    elif how == "release":
        assert await runner.release(model, delivery.token, "RunnerStopped")
    else:
        await asyncio.sleep(0.02)
        assert await bus.reap(model) == 1
    (event,) = [each.event for each in await told(facade, model)]
    assert (event["attempt"], event["returned"]) == (1, reason)
    said = json.loads(event["failure"]) if event["failure"] else {}
    assert said.get("reason") == {"fail": "DecodeFailed", "release": "RunnerStopped", "vanish": None}[how]
    # The operator learns nothing of it.
    assert await bus.returned(model) == []
    assert not await left(redis, model)
    # The next attempt is its reader's.
    await ask(facade, model, replace(asked, attempt=2))
    (delivery,) = await runner.claim(model, worker="w", count=1, lease_ms=LEASE_MS)
    assert delivery.token.attempt == 2


async def test_a_call_that_nobody_waits_for_is_not_delivered_and_its_lease_not_renewed(
    facade, runner, model, redis, call
) -> None:
    claimed, queued, others = call(), call(), call()
    await ask(facade, model, claimed)
    (delivery,) = await runner.claim(model, worker="w", count=1, lease_ms=LEASE_MS)
    await ask(facade, model, queued)
    await facade.call(model, others, reader="facade-2", lease_ms=LEASE_MS)
    # As its TTL does.
    await redis.delete(f"{key_prefix(model)}waiter:{READER}")
    assert await runner.renew(model, [delivery.token], lease_ms=LEASE_MS) == [False]
    assert [each.envelope.uid for each in await runner.claim(model, worker="w", count=4, lease_ms=LEASE_MS)] == [
        others.uid
    ]
    assert await facade.waiting(model, READER, [claimed.uid, queued.uid], lease_ms=LEASE_MS) == [None, None]


async def test_a_waiters_key_ends_by_itself_and_is_renewed_by_asking(facade, model, redis, call) -> None:
    await ask(facade, model, call())
    key = f"{key_prefix(model)}waiter:{READER}"
    assert 0 < await redis.pttl(key) <= LEASE_MS
    await facade.waiting(model, READER, [], lease_ms=2 * LEASE_MS)
    await facade.waiting(model, READER, ["x"], lease_ms=2 * LEASE_MS)
    assert LEASE_MS < await redis.pttl(key) <= 2 * LEASE_MS


async def test_after_a_flush_it_is_known_that_nothing_is_known(facade, bus, model, redis, call) -> None:
    asked = call()
    await ask(facade, model, asked)
    await redis.flushall()
    assert await facade.waiting(model, READER, [asked.uid], lease_ms=LEASE_MS) == [None]
    await ask(facade, model, replace(asked, attempt=2))
    assert await facade.waiting(model, READER, [asked.uid], lease_ms=LEASE_MS) == [EntryState.QUEUED]


async def test_the_operator_sees_no_call(facade, bus, runner, model, redis, call, envelopes) -> None:
    await redis.execute_command("ACL", "SETUSER", "operator", "reset", "on", ">secret", *OPERATOR_ACL)
    await ask(facade, model, call())
    await bus.enqueue(model, envelopes(uid="task"))
    assert (await bus.uids(model)).attempts == {"task": 1}
    assert len(await runner.claim(model, worker="w", count=2, lease_ms=LEASE_MS)) == 2
    assert (await bus.uids(model)).attempts == {"task": 1}
    await bus.purge(model)
    assert not await left(redis, model)


async def test_a_second_attempt_takes_the_place_of_the_first(facade, runner, model, redis, call) -> None:
    asked = call()
    await ask(facade, model, asked)
    await ask(facade, model, replace(asked, attempt=2))
    deliveries = await runner.claim(model, worker="w", count=4, lease_ms=LEASE_MS)
    assert [each.token.attempt for each in deliveries] == [2]
    await ask(facade, model, replace(asked, attempt=3))
    assert await runner.renew(model, [deliveries[0].token], lease_ms=LEASE_MS) == [False]
    assert [each.token.attempt for each in await runner.claim(model, worker="w", count=4, lease_ms=LEASE_MS)] == [3]


async def test_a_facade_enqueues_no_task(facade, model, envelopes) -> None:
    with pytest.raises(ValueError, match="operator"):
        await ask(facade, model, envelopes())


async def test_a_full_redis_refuses_a_call_and_its_end_and_lets_it_fail(facade, runner, model, redis, call) -> None:
    asked = call()
    await ask(facade, model, asked)
    (delivery,) = await runner.claim(model, worker="w", count=1, lease_ms=LEASE_MS)
    before = (await redis.config_get("maxmemory"))["maxmemory"]
    await redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(BusOutOfMemory):
            await ask(facade, model, call())
        with pytest.raises(BusOutOfMemory):
            await runner.end_call(model, delivery.token, [{"end": "x"}])
        assert await runner.renew(model, [delivery.token], lease_ms=LEASE_MS) == [True]
        assert await runner.fail(model, delivery.token, Failure("QueueOutOfMemory", ""))
    finally:
        await redis.config_set("maxmemory", before)
    assert [each.event["returned"] for each in await told(facade, model)] == ["Failed"]


@pytest.mark.parametrize("garbage", ["x" * 300, "", "{}:*"], ids=["long", "empty", "odd"])
async def test_nonsense_in_an_entry_stops_nobody(facade, runner, bus, model, redis, call, garbage) -> None:
    asked, other = call(), call()
    await ask(facade, model, asked)
    await ask(facade, model, other)
    await redis.hset(f"{key_prefix(model)}entry:{asked.uid}", mapping={"reader": garbage, "told": garbage})
    deliveries = await runner.claim(model, worker="w", count=4, lease_ms=LEASE_MS)
    assert other.uid in {each.token.uid for each in deliveries}
    for each in deliveries:
        await runner.fail(model, each.token, Failure("No", ""))
    await facade.waiting(model, READER, [asked.uid], lease_ms=LEASE_MS)
    with contextlib.suppress(ValueError):
        await facade.hang_up(model, asked.uid, reader=READER)
    assert (await facade.stats(model)).queued == 0
