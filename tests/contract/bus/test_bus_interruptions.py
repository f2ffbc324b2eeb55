"""Words from the operator to the worker that holds a lease, and what is taken away from it."""

import asyncio
from dataclasses import replace

import pytest
from redis.asyncio import Redis
from redis_server import RedisServer

from headrace_bus import (
    Bus,
    BusCorrupt,
    BusDenied,
    Delivery,
    EnqueueOutcome,
    EntryState,
    Failure,
    Interrupt,
    Interruption,
    ModelKey,
    acl_rules,
)
from headrace_bus.bus import INBOX_WORDS
from headrace_bus.keys import key_prefix

pytestmark = pytest.mark.contract

LEASE_MS = 60_000
SOON_S = 2.0


async def claimed(bus: Bus, model: ModelKey, envelopes, worker: str = "pod-1", **fields: object) -> Delivery:
    await bus.enqueue(model, envelopes(**fields))
    (delivery,) = await bus.claim(model, worker=worker, count=1, lease_ms=LEASE_MS)
    return delivery


async def told(bus: Bus, model: ModelKey, worker: str = "pod-1") -> list[Interrupt]:
    return await bus.interruptions(model, worker, timeout_s=0)


async def test_a_waiting_worker_hears_its_word(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    one = await claimed(bus, model, envelopes, uid="one", attempt=2)
    await claimed(bus, model, envelopes, worker="pod-2", uid="other")
    listening = asyncio.create_task(bus.interruptions(model, "pod-1", timeout_s=20))
    while (await redis.info("clients"))["blocked_clients"] != 1:  # noqa: ASYNC110 - the condition is Redis'
        await asyncio.sleep(0.001)
    assert await bus.interrupt(model, "other", Interruption.SUSPEND) == "pod-2"
    assert await bus.interrupt(model, "one", Interruption.CANCEL) == "pod-1"
    (word,) = await asyncio.wait_for(listening, SOON_S)
    assert word == Interrupt("one", 2, Interruption.CANCEL)
    assert word.nonce == one.token.nonce
    # Telling is all it does.
    assert await bus.renew(model, [one.token], lease_ms=LEASE_MS) == [True]
    assert await told(bus, model, "pod-2") == [Interrupt("other", 1, Interruption.SUSPEND)]
    assert await told(bus, model) == []


@pytest.mark.parametrize("state", [EntryState.QUEUED, EntryState.DELAYED, EntryState.RETURNED, None])
async def test_what_nobody_holds_is_told_to_nobody(
    bus: Bus, model: ModelKey, redis: Redis, envelopes, state: EntryState | None
) -> None:
    if state is EntryState.RETURNED:
        await bus.fail(model, (await claimed(bus, model, envelopes, uid="u")).token, Failure("No", ""))
    elif state is not None:
        later = await bus.server_time_ms() + 3_600_000
        await bus.enqueue(model, envelopes(uid="u"), not_before_ms=later if state is EntryState.DELAYED else None)
    assert await bus.interrupt(model, "u", Interruption.CANCEL) is None
    assert await bus.remove(model, "u") is (state is not None)
    assert await redis.keys("*:inbox:*") == []


async def test_what_is_told_again_stands_there_once(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    await claimed(bus, model, envelopes, uid="u")
    for _ in range(5):
        for word in (Interruption.CANCEL, Interruption.SUSPEND):
            assert await bus.interrupt(model, "u", word) == "pod-1"
    key = f"{key_prefix(model)}inbox:pod-1"
    assert await redis.llen(key) == 2
    assert 50_000 < await redis.pttl(key) <= 60_000
    words = await bus.interruptions(model, "pod-1", timeout_s=20)
    assert [each.word for each in words] == [Interruption.CANCEL, Interruption.SUSPEND]
    assert await redis.exists(key) == 0


async def test_an_inbox_that_nobody_reads_keeps_the_latest_words(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    uids = [f"u{number}" for number in range(INBOX_WORDS + 10)]
    for uid in uids:
        await claimed(bus, model, envelopes, uid=uid)
    await asyncio.gather(*(bus.interrupt(model, uid, Interruption.CANCEL) for uid in uids[:10]))
    for uid in uids[10:]:
        await bus.interrupt(model, uid, Interruption.SUSPEND)
    assert await redis.llen(f"{key_prefix(model)}inbox:pod-1") == INBOX_WORDS
    words = await bus.interruptions(model, "pod-1", timeout_s=20)
    assert [each.uid for each in words] == uids[10:]


async def test_without_a_word_the_wait_ends_in_time(bus: Bus, model: ModelKey) -> None:
    async with asyncio.timeout(SOON_S):
        assert await bus.interruptions(model, "pod-1", timeout_s=0.05) == []
        assert await bus.interruptions(model, "pod-1", timeout_s=-1) == []


async def test_a_word_that_was_taken_is_told_though_the_others_cannot_be(
    shared_server: RedisServer, bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    for uid in ("a", "b"):
        await claimed(bus, model, envelopes, uid=uid)
        await bus.interrupt(model, uid, Interruption.CANCEL)
    rules = [rule for rule in acl_rules(model) if rule != "+lpop"]
    await redis.execute_command("ACL", "SETUSER", "runner", "reset", "on", ">secret", *rules)
    async with Bus.connect(shared_server.url, username="runner", password="secret") as own:
        assert [each.uid for each in await own.interruptions(model, "pod-1", timeout_s=1)] == ["a"]
        with pytest.raises(BusDenied):
            await told(own, model)
    assert [each.uid for each in await told(bus, model)] == ["b"]


async def test_nonsense_in_an_inbox_hides_no_word(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    delivery = await claimed(bus, model, envelopes, uid="u")
    nonce = delivery.token.nonce
    key = f"{key_prefix(model)}inbox:pod-1"
    for line in (
        b"\xff\xfe",
        b"",
        b"u 1 Cancel",
        f"u 1 {nonce} Sing",
        f"u 0 {nonce} Drop",
        f"u {'9' * 400} {nonce} Drop",
        f"../u 1 {nonce} Drop",
        b"u 1 \xff Drop",
        "u 1  Drop",
        "x" * 1_000_000,
    ):
        await redis.rpush(key, line)
    await bus.interrupt(model, "u", Interruption.CANCEL)
    assert await bus.interruptions(model, "pod-1", timeout_s=1) == [Interrupt("u", 1, Interruption.CANCEL)]


async def test_an_inbox_of_another_type_is_replaced(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    key = f"{key_prefix(model)}inbox:pod-1"
    for uid in ("a", "b"):
        await claimed(bus, model, envelopes, uid=uid)
    await redis.set(key, "x")
    with pytest.raises(BusCorrupt):
        await bus.interruptions(model, "pod-1", timeout_s=1)
    with pytest.raises(BusCorrupt):
        await told(bus, model)
    assert await bus.remove(model, "a") is True
    assert await bus.interrupt(model, "b", Interruption.CANCEL) == "pod-1"
    assert [each.uid for each in await told(bus, model)] == ["a", "b"]


async def test_a_worker_that_is_none_is_told_nothing(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    prefix = key_prefix(model)
    await claimed(bus, model, envelopes, uid="u")
    for worker in (b"\xff", "x" * 300, "a b", "../elsewhere"):
        await redis.hset(f"{prefix}entry:u", "worker", worker)
        assert await bus.interrupt(model, "u", Interruption.CANCEL) is None
    assert await bus.remove(model, "u") is True
    assert await redis.delete(f"{prefix}inbox:".encode() + b"\xff") == 1
    assert await redis.exists(f"{prefix}inbox:{'x' * 300}") == 0
    assert all(each.startswith(prefix) for each in await redis.keys("*"))


async def test_a_lease_without_its_entry_is_nobodys(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    delivery = await claimed(bus, model, envelopes, uid="u")
    await redis.hset(f"{key_prefix(model)}entry:u", "state", "Returned")
    assert await bus.interrupt(model, "u", Interruption.CANCEL) is None
    assert await bus.withdraw(model, "u", 1) is True
    assert await bus.renew(model, [delivery.token], lease_ms=LEASE_MS) == [False]
    await claimed(bus, model, envelopes, uid="v")
    await redis.zrem(f"{key_prefix(model)}leases", "v")
    assert await bus.interrupt(model, "v", Interruption.CANCEL) is None
    assert await bus.withdraw(model, "v", 1) is True


async def test_whoever_holds_what_is_removed_is_told_to_drop_it(bus: Bus, model: ModelKey, envelopes) -> None:
    one = await claimed(bus, model, envelopes, uid="one")
    await bus.remove(model, "one")
    assert await told(bus, model) == [Interrupt("one", 1, Interruption.DROP)]
    assert await bus.complete(model, one.token) is False
    # Nothing is left to drop.
    await bus.remove(model, "one")
    assert await told(bus, model) == []


async def test_whoever_holds_what_is_superseded_is_told_to_drop_it(bus: Bus, model: ModelKey, envelopes) -> None:
    one = await claimed(bus, model, envelopes, uid="one")
    assert await bus.enqueue(model, one.envelope) is EnqueueOutcome.DUPLICATE
    assert await told(bus, model) == []
    assert await bus.enqueue(model, replace(one.envelope, attempt=2)) is EnqueueOutcome.SUPERSEDED
    assert await told(bus, model) == [Interrupt("one", 1, Interruption.DROP)]
    assert await bus.enqueue(model, replace(one.envelope, attempt=3)) is EnqueueOutcome.SUPERSEDED
    assert await told(bus, model) == []


@pytest.mark.parametrize("state", [EntryState.QUEUED, EntryState.DELAYED, EntryState.RETURNED, None])
@pytest.mark.parametrize("attempt", [1, 2, 3])
async def test_what_nobody_holds_is_withdrawn(
    bus: Bus, model: ModelKey, redis: Redis, envelopes, state: EntryState | None, attempt: int
) -> None:
    envelope = envelopes(uid="u", attempt=2)
    if state is EntryState.RETURNED:
        await bus.release(model, (await claimed(bus, model, lambda: envelope)).token, "Drain")
    elif state is not None:
        later = await bus.server_time_ms() + 3_600_000
        await bus.enqueue(model, envelope, not_before_ms=later if state is EntryState.DELAYED else None)
    assert await bus.withdraw(model, "u", attempt) is True
    left = {key.removeprefix(key_prefix(model)).partition(":")[0] for key in await redis.keys("*")}
    assert left <= {"requests", "service"}
    # Withdrawn is not ended: the same attempt may be queued again.
    assert await bus.enqueue(model, envelope) is EnqueueOutcome.ENQUEUED


@pytest.mark.parametrize("attempt", [1, 2])
async def test_what_somebody_holds_is_not_withdrawn(bus: Bus, model: ModelKey, envelopes, attempt: int) -> None:
    delivery = await claimed(bus, model, envelopes, uid="u", attempt=2)
    before = await bus.inspect(model, "u")
    assert await bus.withdraw(model, "u", attempt) is False
    assert await bus.inspect(model, "u") == before
    assert await told(bus, model) == []
    assert await bus.complete(model, delivery.token, result={"text": "ok"})
    assert await bus.withdraw(model, "u", attempt) is True
    assert await bus.result(model, "u") == {"text": "ok"}
    assert await bus.enqueue(model, delivery.envelope) is EnqueueOutcome.STALE


async def test_what_is_taken_from_its_holder_is_what_was_seen_there(bus: Bus, model: ModelKey, envelopes) -> None:
    delivery = await claimed(bus, model, envelopes, uid="u", attempt=2)
    before = await bus.inspect(model, "u")
    assert await bus.withdraw(model, "u", 1, seen=EntryState.LEASED) is False
    assert await bus.inspect(model, "u") == before
    assert await told(bus, model) == []
    assert await bus.withdraw(model, "u", 2, seen=EntryState.LEASED) is True
    assert await told(bus, model) == [Interrupt("u", 2, Interruption.DROP)]
    assert await bus.complete(model, delivery.token) is False
    assert await bus.withdraw(model, "u", 2, seen=EntryState.LEASED) is True, "nothing is left"


async def test_what_was_parked_meanwhile_is_not_withdrawn(bus: Bus, model: ModelKey, envelopes) -> None:
    delivery = await claimed(bus, model, envelopes, uid="u", attempt=2)
    await bus.park(model, delivery.token, {"text": "long"})
    for attempt, seen in ((2, None), (1, None), (2, EntryState.LEASED), (1, EntryState.RETURNED)):
        assert await bus.withdraw(model, "u", attempt, seen=seen) is False
        assert await bus.parked(model, "u", 2) == {"text": "long"}
    assert await bus.withdraw(model, "u", 2, seen=EntryState.RETURNED) is True
    assert await bus.inspect(model, "u") is None


async def test_what_came_back_or_was_queued_again_is_not_taken_from_a_holder(bus, model: ModelKey, envelopes) -> None:
    delivery = await claimed(bus, model, envelopes, uid="u")
    await bus.release(model, delivery.token, "Drain")
    assert await bus.withdraw(model, "u", 1, seen=EntryState.LEASED) is False
    await bus.enqueue(model, replace(delivery.envelope, attempt=2))
    assert await bus.withdraw(model, "u", 1, seen=EntryState.LEASED) is False
    entry = await bus.inspect(model, "u")
    assert entry is not None
    assert (entry.state, entry.attempt) == (EntryState.QUEUED, 2)


async def test_an_earlier_attempt_is_withdrawn_from_its_holder(bus: Bus, model: ModelKey, envelopes) -> None:
    delivery = await claimed(bus, model, envelopes, uid="u")
    assert await bus.withdraw(model, "u", 2) is True
    assert await told(bus, model) == [Interrupt("u", 1, Interruption.DROP)]
    assert await bus.inspect(model, "u") is None
    assert await bus.complete(model, delivery.token) is False


async def test_withdrawing_the_last_queued_entry_ends_the_wake_up(bus: Bus, model: ModelKey, redis, envelopes) -> None:
    await bus.enqueue(model, envelopes(uid="a"))
    await bus.enqueue(model, envelopes(uid="b"))
    await bus.withdraw(model, "a", 1)
    assert await redis.llen(f"{key_prefix(model)}wake") == 1
    await bus.withdraw(model, "b", 1)
    assert await redis.exists(f"{key_prefix(model)}wake") == 0


async def test_of_a_withdrawal_and_a_claim_one_wins(bus: Bus, model: ModelKey, envelopes) -> None:
    seen = set()
    for number in range(40):
        uid = f"u{number}"
        await bus.enqueue(model, envelopes(uid=uid))
        first = bus.withdraw(model, uid, 1)
        second = bus.claim(model, worker="pod-1", count=1, lease_ms=LEASE_MS)
        if number % 2:
            deliveries, gone = await asyncio.gather(second, first)
        else:
            gone, deliveries = await asyncio.gather(first, second)
        assert gone == (deliveries == [])
        seen.add(gone)
        await bus.remove(model, uid)
    assert seen == {True, False}
