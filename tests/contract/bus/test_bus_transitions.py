"""Each transition against a real Redis: what it answers, and what it leaves behind."""

import asyncio
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from headrace_bus import (
    Bus,
    EnqueueOutcome,
    EntryState,
    EnvelopeTooNew,
    Failure,
    LeaseToken,
    ModelKey,
    PayloadTooLarge,
    ReturnReason,
)

pytestmark = pytest.mark.contract

LEASE_MS = 60_000
FAILURE = Failure("EngineError", "the engine said no", retryable=False)


async def claim_one(bus: Bus, model: ModelKey, worker: str = "pod-1", lease_ms: int = LEASE_MS):
    (delivery,) = await bus.claim(model, worker=worker, count=1, lease_ms=lease_ms)
    return delivery


async def expire(redis: Redis, model: ModelKey, uid: str) -> None:
    """The lease's time is over: what waiting would bring about."""
    assert await redis.zadd(f"headrace:{{{model}}}:leases", {uid: 1}, xx=True, ch=True) == 1


async def keys_left(redis: Redis, model: ModelKey) -> set[str]:
    """All but the replies kept for repeated requests, which must have a TTL."""
    prefix = f"headrace:{{{model}}}:"
    left = set()
    for key in await redis.keys(f"{prefix}*"):
        if key.startswith(f"{prefix}requests:"):
            assert 0 < await redis.pttl(key) <= 60_000
        else:
            left.add(key)
    return left


async def test_an_envelope_goes_through(bus: Bus, model: ModelKey, envelopes) -> None:
    envelope = envelopes(payload={"prompt": "Grüße", "parameters": {"temperature": "0"}})
    before = await bus.server_time_ms()
    assert await bus.enqueue(model, envelope) is EnqueueOutcome.ENQUEUED

    entry = await bus.inspect(model, envelope.uid)
    assert entry is not None
    assert (entry.state, entry.attempt, entry.namespace, entry.name) == (EntryState.QUEUED, 1, "team-a", envelope.name)

    delivery = await claim_one(bus, model)
    assert delivery.envelope == envelope
    assert (delivery.token.uid, delivery.token.attempt) == (envelope.uid, 1)
    assert before <= delivery.enqueued_ms <= delivery.claimed_ms
    assert delivery.lease_until_ms == delivery.claimed_ms + LEASE_MS
    entry = await bus.inspect(model, envelope.uid)
    assert entry is not None
    assert (entry.state, entry.worker, entry.since_ms) == (EntryState.LEASED, "pod-1", delivery.claimed_ms)

    assert await bus.complete(model, delivery.token, result={"text": "ok"})
    assert await bus.inspect(model, envelope.uid) is None
    assert await bus.result(model, envelope.uid) == {"text": "ok"}


async def test_enqueue_is_idempotent_by_uid_and_attempt(bus: Bus, model: ModelKey, envelopes) -> None:
    envelope = envelopes()
    outcomes = await asyncio.gather(*(bus.enqueue(model, envelope) for _ in range(20)))
    assert sorted(outcomes).count(EnqueueOutcome.ENQUEUED) == 1
    assert sorted(outcomes).count(EnqueueOutcome.DUPLICATE) == 19

    delivery = await claim_one(bus, model)
    assert await bus.enqueue(model, envelope) is EnqueueOutcome.DUPLICATE
    assert await bus.renew(model, [delivery.token], lease_ms=LEASE_MS) == [True]
    await bus.fail(model, delivery.token, FAILURE)
    assert await bus.enqueue(model, envelope) is EnqueueOutcome.DUPLICATE
    assert (await bus.stats(model)).queued == 0


async def test_an_enqueue_that_comes_after_the_completion_is_stale(bus: Bus, model: ModelKey, envelopes) -> None:
    envelope = envelopes()
    await bus.enqueue(model, envelope)
    await bus.complete(model, (await claim_one(bus, model)).token)
    assert await bus.enqueue(model, envelope) is EnqueueOutcome.STALE
    assert await bus.enqueue(model, replace(envelope, attempt=2)) is EnqueueOutcome.ENQUEUED


@pytest.mark.parametrize("state", list(EntryState))
async def test_a_later_attempt_supersedes_in_every_state(
    bus: Bus, model: ModelKey, envelopes, state: EntryState
) -> None:
    envelope = envelopes()
    later = await bus.server_time_ms() + 3_600_000
    await bus.enqueue(model, envelope, not_before_ms=later if state is EntryState.DELAYED else None)
    token = LeaseToken(envelope.uid, 1, "none")
    if state in (EntryState.LEASED, EntryState.RETURNED):
        token = (await claim_one(bus, model)).token
    if state is EntryState.RETURNED:
        await bus.release(model, token, "Drain")
    entry = await bus.inspect(model, envelope.uid)
    assert entry is not None
    assert entry.state is state

    second = replace(envelope, attempt=2, payload={"prompt": "again"})
    assert await bus.enqueue(model, second) is EnqueueOutcome.SUPERSEDED
    assert await bus.enqueue(model, envelope) is EnqueueOutcome.STALE
    assert await bus.stats(model) == replace(await bus.stats(model), queued=1, delayed=0, leased=0, returned=0)
    assert await bus.renew(model, [token], lease_ms=LEASE_MS) == [False]
    assert await bus.complete(model, token) is False
    delivery = await claim_one(bus, model)
    assert delivery.envelope == second


async def test_two_workers_never_get_the_same_lease(bus: Bus, model: ModelKey, envelopes) -> None:
    made = [envelopes() for _ in range(200)]
    await asyncio.gather(*(bus.enqueue(model, envelope) for envelope in made))

    async def work(worker: str) -> list[str]:
        got: list[str] = []
        while deliveries := await bus.claim(model, worker=worker, count=3, lease_ms=LEASE_MS):
            got += [delivery.envelope.uid for delivery in deliveries]
        return got

    shares = await asyncio.gather(*(work(f"pod-{number}") for number in range(8)))
    claimed = [uid for share in shares for uid in share]
    assert sorted(claimed) == sorted(envelope.uid for envelope in made)
    assert sum(1 for share in shares if share) > 1


async def test_a_lease_ends_by_the_servers_clock_and_its_holder_is_fenced(bus: Bus, model: ModelKey, envelopes) -> None:
    envelope = envelopes()
    await bus.enqueue(model, envelope)
    delivery = await claim_one(bus, model, lease_ms=30)
    assert await bus.reap(model) == 0 or await bus.server_time_ms() >= delivery.lease_until_ms
    while await bus.server_time_ms() < delivery.lease_until_ms:
        pass
    await bus.reap(model)
    assert await bus.renew(model, [delivery.token], lease_ms=LEASE_MS) == [False]
    assert await bus.complete(model, delivery.token, result={"text": "late"}) is False
    assert await bus.fail(model, delivery.token, FAILURE) is False
    assert await bus.release(model, delivery.token, "Drain") is False

    (returned,) = await bus.returned(model)
    assert (returned.uid, returned.attempt, returned.reason) == (envelope.uid, 1, ReturnReason.LEASE_EXPIRED)
    assert (returned.worker, returned.claimed_ms, returned.failure) == ("pod-1", delivery.claimed_ms, None)
    assert returned.returned_ms >= delivery.lease_until_ms
    assert await bus.result(model, envelope.uid) is None
    assert await bus.claim(model, worker="pod-2", count=1, lease_ms=LEASE_MS) == []


async def test_a_renewed_lease_lasts(bus: Bus, model: ModelKey, envelopes) -> None:
    for _ in range(3):
        await bus.enqueue(model, envelopes())
    deliveries = await bus.claim(model, worker="pod-1", count=3, lease_ms=200)
    tokens = [delivery.token for delivery in deliveries]
    wrong = [
        replace(tokens[0], nonce="0" * 32),
        replace(tokens[1], attempt=2),
        LeaseToken("uid-none", 1, tokens[0].nonce),
    ]
    assert await bus.renew(model, [*tokens, *wrong], lease_ms=LEASE_MS) == [True] * 3 + [False] * 3
    while await bus.server_time_ms() <= deliveries[0].lease_until_ms:
        pass
    assert await bus.reap(model) == 0
    assert await bus.renew(model, tokens, lease_ms=LEASE_MS) == [True] * 3


async def test_a_token_of_an_earlier_claim_of_the_same_attempt_is_lost(bus: Bus, model: ModelKey, envelopes) -> None:
    envelope = envelopes()
    await bus.enqueue(model, envelope)
    first = await claim_one(bus, model)
    await bus.remove(model, envelope.uid)
    await bus.enqueue(model, envelope)
    second = await claim_one(bus, model)
    assert first.token.nonce != second.token.nonce
    assert await bus.complete(model, first.token) is False
    assert await bus.complete(model, second.token) is True


async def test_fail_and_release_hand_the_attempt_back(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    for _ in range(2):
        await bus.enqueue(model, envelopes())
    failed, released = await bus.claim(model, worker="pod-1", count=2, lease_ms=LEASE_MS)
    assert await bus.fail(model, failed.token, FAILURE)
    assert await bus.release(model, released.token, "Drain")
    assert await bus.fail(model, failed.token, FAILURE) is False

    by_reason = {each.reason: each for each in await bus.returned(model)}
    assert by_reason[ReturnReason.FAILED].failure == FAILURE
    assert by_reason[ReturnReason.FAILED].uid == failed.envelope.uid
    assert by_reason[ReturnReason.RELEASED].failure == Failure("Drain", "")
    entry = await bus.inspect(model, failed.envelope.uid)
    assert entry is not None
    assert (entry.state, entry.worker) == (EntryState.RETURNED, None)
    assert entry.returned == by_reason[ReturnReason.FAILED]
    assert len(await bus.returned(model, limit=1)) == 1
    # What comes back gives its envelope's memory back.
    assert not [key for key in await keys_left(redis, model) if ":envelope:" in key]


async def test_reap_moves_at_most_its_limit(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    for _ in range(5):
        await bus.enqueue(model, envelopes())
    for delivery in await bus.claim(model, worker="pod-1", count=5, lease_ms=LEASE_MS):
        await expire(redis, model, delivery.envelope.uid)
    assert [await bus.reap(model, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert (await bus.stats(model)).returned == 5


async def test_returned_deliveries_are_told_in_pages(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    made = [envelopes(uid=f"u{number:02}") for number in range(25)]
    for envelope in made:
        await bus.enqueue(model, envelope)
    for delivery in await bus.claim(model, worker="pod-1", count=25, lease_ms=LEASE_MS):
        await expire(redis, model, delivery.envelope.uid)
    # In one step: all came back in the same millisecond.
    assert await bus.reap(model) == 25
    page = await bus.returned(model, limit=10)
    uids = [each.uid for each in page]
    # One of the page is dealt with meanwhile.
    await bus.remove(model, page[4].uid)
    while len(page) == 10:
        page = await bus.returned(model, limit=10, after=page[-1])
        uids += [each.uid for each in page]
    assert uids == [envelope.uid for envelope in made]
    last = (await bus.returned(model, limit=10))[-1]
    await bus.remove(model, last.uid)
    assert [each.uid for each in await bus.returned(model, limit=100, after=last)][-1] == "u24"


async def test_a_delayed_entry_waits_for_its_time(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    envelope = envelopes()
    due = await bus.server_time_ms() + 3_600_000
    assert await bus.enqueue(model, envelope, not_before_ms=due) is EnqueueOutcome.ENQUEUED
    assert (await bus.stats(model)).delayed == 1
    assert await bus.position(model, envelope.uid) is None
    assert await bus.claim(model, worker="pod-1", count=1, lease_ms=LEASE_MS) == []
    assert await bus.reap(model) == 0

    await redis.zadd(f"headrace:{{{model}}}:delayed", {envelope.uid: 1})
    assert await bus.reap(model) == 1
    assert (await claim_one(bus, model)).envelope == envelope


async def test_a_claim_sees_by_itself_what_is_due(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    first, second = envelopes(), envelopes()
    await bus.enqueue(model, first)
    await claim_one(bus, model)
    await expire(redis, model, first.uid)
    await bus.enqueue(model, second, not_before_ms=await bus.server_time_ms() + 30)
    while not (deliveries := await bus.claim(model, worker="pod-2", count=1, lease_ms=LEASE_MS)):
        pass
    assert deliveries[0].envelope == second
    assert [each.uid for each in await bus.returned(model)] == [first.uid]


async def test_a_time_in_the_past_delays_nothing(bus: Bus, model: ModelKey, envelopes) -> None:
    await bus.enqueue(model, envelopes(), not_before_ms=await bus.server_time_ms())
    await claim_one(bus, model)


@pytest.mark.parametrize("state", [*EntryState, None])
async def test_remove_leaves_no_key(
    bus: Bus, model: ModelKey, redis: Redis, envelopes, state: EntryState | None
) -> None:
    envelope = envelopes()
    later = await bus.server_time_ms() + 3_600_000
    await bus.enqueue(model, envelope, not_before_ms=later if state is EntryState.DELAYED else None)
    token = LeaseToken(envelope.uid, 1, "none")
    if state not in (EntryState.QUEUED, EntryState.DELAYED):
        token = (await claim_one(bus, model)).token
    if state is EntryState.RETURNED:
        await bus.fail(model, token, FAILURE)
    if state is None:
        await bus.complete(model, token, result={"text": "ok"})
        # The model's, not the entry's.
        await redis.delete(f"headrace:{{{model}}}:service")

    assert await bus.remove(model, envelope.uid) is True
    told = await redis.delete(f"headrace:{{{model}}}:inbox:pod-1")
    assert told == (state is EntryState.LEASED)
    assert await keys_left(redis, model) == set()
    assert await bus.remove(model, envelope.uid) is False
    assert await bus.renew(model, [token], lease_ms=LEASE_MS) == [False]
    assert await bus.fail(model, token, FAILURE) is False
    assert await bus.result(model, envelope.uid) is None
    assert await keys_left(redis, model) == set()


async def test_a_completed_entry_leaves_only_its_result_and_that_ends(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    await bus.enqueue(model, envelopes(uid="u"))
    await bus.complete(model, (await claim_one(bus, model)).token, result={"a": [1]}, result_ttl_ms=120_000)
    prefix = f"headrace:{{{model}}}:"
    assert await redis.delete(f"{prefix}service") == 1
    (done,) = await redis.keys(f"{prefix}done:*")
    ttl_ms = {done.removeprefix(prefix): 1_200_000, "result:u": 120_000, "results": 120_000}
    assert await keys_left(redis, model) == {prefix + key for key in ttl_ms}
    for key, longest in ttl_ms.items():
        assert longest - 10_000 < await redis.pttl(prefix + key) <= longest


async def test_an_end_is_remembered_for_ten_minutes_at_least_and_then_forgotten(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    prefix = f"headrace:{{{model}}}:done:"
    envelope = envelopes()

    async def minutes_pass() -> None:
        """The bucket of ten minutes that is written to has just gone by."""
        (bucket,) = await redis.keys(f"{prefix}*")
        await redis.rename(bucket, f"{prefix}{int(bucket.removeprefix(prefix)) - 1}")

    await bus.enqueue(model, envelope)
    await bus.complete(model, (await claim_one(bus, model)).token)
    await minutes_pass()
    assert await bus.enqueue(model, envelope) is EnqueueOutcome.STALE
    assert await redis.pttl((await redis.keys(f"{prefix}*"))[0]) > 600_000
    await minutes_pass()
    assert await bus.enqueue(model, envelope) is EnqueueOutcome.ENQUEUED
    await bus.complete(model, (await claim_one(bus, model)).token)
    # What ended lately stands apart from what ended long ago, and either goes as a whole.
    assert sorted([await redis.hlen(key) for key in await redis.keys(f"{prefix}*")]) == [1, 1]


async def test_what_is_too_large_is_not_sent(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    with pytest.raises(PayloadTooLarge, match="envelope"):
        await bus.enqueue(model, envelopes(payload={"prompt": "x" * 1_100_000}))
    with pytest.raises(PayloadTooLarge, match="report"):
        await bus.report(model, "pod-1", {"x": "x" * 70_000}, ttl_ms=1_000)
    assert await redis.dbsize() == 0


async def test_an_envelope_of_a_later_version_stays_for_a_later_runner(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    first, second = envelopes(), envelopes()
    await bus.enqueue(model, first)
    await bus.enqueue(model, second)
    await redis.hset(f"headrace:{{{model}}}:entry:{second.uid}", "version", 2)
    assert [each.envelope for each in await bus.claim(model, worker="p", count=2, lease_ms=LEASE_MS)] == [first]
    with pytest.raises(EnvelopeTooNew):
        await bus.claim(model, worker="p", count=2, lease_ms=LEASE_MS)
    entry = await bus.inspect(model, second.uid)
    assert entry is not None
    assert entry.state is EntryState.QUEUED


@pytest.mark.parametrize("data", ["{", '{"version":1}', None])
async def test_what_is_no_envelope_comes_back_and_takes_nothing_with_it(
    bus: Bus, model: ModelKey, redis: Redis, envelopes, data: str | None
) -> None:
    broken, sound = envelopes(), envelopes()
    await bus.enqueue(model, broken)
    await bus.enqueue(model, sound)
    key = f"headrace:{{{model}}}:envelope:{broken.uid}"
    await (redis.delete(key) if data is None else redis.set(key, data))
    deliveries = await bus.claim(model, worker="p", count=2, lease_ms=LEASE_MS)
    assert [delivery.envelope for delivery in deliveries] == [sound]
    (returned,) = await bus.returned(model)
    assert returned.failure is not None
    assert (returned.uid, returned.failure.reason, returned.failure.retryable) == (broken.uid, "EnvelopeInvalid", False)


async def test_names_that_cannot_be_are_refused_before_redis_sees_them(bus: Bus, model: ModelKey, envelopes) -> None:
    for bad in (ModelKey("ns", "m}:x"), ModelKey("*", "m")):
        with pytest.raises(ValueError):
            await bus.enqueue(bad, envelopes())
    for uid in ("", "a:b", "a b"):
        with pytest.raises(ValueError):
            await bus.remove(model, uid)
    with pytest.raises(ValueError):
        await bus.claim(model, worker="a b", count=1, lease_ms=1)
    with pytest.raises(ValueError):
        await bus.claim(model, worker="a", count=1, lease_ms=0)
    assert await bus.claim(model, worker="a", count=0, lease_ms=1) == []
