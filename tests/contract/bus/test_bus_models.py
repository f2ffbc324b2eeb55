"""What belongs to a model rather than to one entry: weights, counts, reports, kept results, and the end of it all."""

import asyncio

import pytest
from redis.asyncio import Redis

from headrace_bus import (
    Bus,
    EntryState,
    Failure,
    Interruption,
    ModelKey,
    Stats,
    UidState,
    WorkClass,
)
from headrace_bus.bus import RESULTS_KEPT
from headrace_bus.keys import key_prefix

pytestmark = pytest.mark.contract

LEASE_MS = 60_000
FAILURE = Failure("EngineError", "no")


async def test_results_are_kept_within_bounds_only(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    for number in range(RESULTS_KEPT + 4):
        await bus.enqueue(model, envelopes(uid=f"u{number}"))
    tokens = []
    while deliveries := await bus.claim(model, worker="w", count=64, lease_ms=LEASE_MS):
        tokens += [delivery.token for delivery in deliveries]
    assert await bus.complete(model, tokens[0], result={"x": "x" * 40_000})
    assert await bus.complete(model, tokens[1])
    for token in tokens[2:]:
        assert await bus.complete(model, token, result={"uid": token.uid})
    prefix = f"headrace:{{{model}}}:"
    assert len(await redis.keys(f"{prefix}result:*")) == await redis.zcard(f"{prefix}results") == RESULTS_KEPT
    assert await bus.result(model, tokens[0].uid) is None
    assert await bus.result(model, tokens[1].uid) is None
    assert await bus.result(model, tokens[2].uid) == {"uid": tokens[2].uid}
    assert await bus.result(model, tokens[-1].uid) is None
    await bus.purge(model)
    assert await redis.keys(f"{prefix}*") == []


@pytest.mark.parametrize("entries", [3, 450])
async def test_purge_leaves_no_key(bus: Bus, model: ModelKey, redis: Redis, envelopes, entries: int) -> None:
    other = ModelKey("platform", "other")
    for each in (model, other):
        await bus.register(each)
        await bus.report(each, "pod-1", {"free": 1}, ttl_ms=60_000)
    await bus.enqueue(other, envelopes())
    made = [envelopes(namespace=f"team-{number % 5}", cost_tokens=1 + number) for number in range(entries)]
    await asyncio.gather(*(bus.enqueue(model, envelope) for envelope in made))
    deliveries = await bus.claim(model, worker="pod-1", count=max(3, entries // 2), lease_ms=LEASE_MS)
    await bus.fail(model, deliveries[0].token, FAILURE)
    await bus.complete(model, deliveries[1].token, result={"text": "x"})
    await bus.enqueue(model, envelopes(), not_before_ms=await bus.server_time_ms() + 60_000)
    await bus.set_weights(model, {"team-0": 2})
    if entries > 3:
        await bus.park(model, deliveries[3].token, {"text": "long"})
        assert await bus.interrupt(model, deliveries[4].token.uid, Interruption.CANCEL) == "pod-1"
    # A worker that never reported.
    await bus.enqueue(model, envelopes(uid="quiet", kind=WorkClass.CALL))
    (quiet,) = await bus.claim(model, worker="pod-2", count=1, lease_ms=LEASE_MS)
    assert await bus.interrupt(model, quiet.token.uid, Interruption.CANCEL) == "pod-2"
    # A worker that holds nothing any more.
    await bus.report(model, "pod-3", {"free": 1}, ttl_ms=60_000)
    await bus.enqueue(model, envelopes(uid="dropped", kind=WorkClass.CALL))
    await bus.claim(model, worker="pod-3", count=1, lease_ms=LEASE_MS)
    await bus.remove(model, "dropped")
    assert await redis.exists(f"headrace:{{{model}}}:inbox:pod-3") == 1

    await bus.purge(model)
    assert await redis.keys(f"headrace:{{{model}}}:*") == []
    assert await bus.models() == {other}
    assert await bus.renew(model, [deliveries[2].token], lease_ms=LEASE_MS) == [False]
    assert (await bus.stats(other)).queued == 1
    await bus.purge(model)


async def test_the_registry_and_the_scan_list_everything(bus: Bus, model: ModelKey, envelopes) -> None:
    assert await bus.models() == set()
    many = {ModelKey(f"ns-{number}", "m") for number in range(700)}
    await asyncio.gather(*(bus.register(each) for each in many))
    assert await bus.models() == many

    made = {f"uid-{number}": number % 3 + 1 for number in range(1_200)}
    await asyncio.gather(*(bus.enqueue(model, envelopes(uid=uid, attempt=attempt)) for uid, attempt in made.items()))
    found: dict[str, UidState] = {}
    page = await bus.uids(model)
    pages = 1
    found.update(page.entries)
    while page.cursor:
        page = await bus.uids(model, page.cursor)
        found.update(page.entries)
        pages += 1
    assert found == {uid: UidState(attempt, EntryState.QUEUED) for uid, attempt in made.items()}
    assert pages > 1


async def test_stats_count_states_and_namespaces(bus: Bus, model: ModelKey, envelopes) -> None:
    assert await bus.stats(model) == Stats(0, 0, 0, 0, None, {})
    before = await bus.server_time_ms()
    for namespace in ("a", "a", "b", "c"):
        await bus.enqueue(model, envelopes(namespace=namespace))
    await bus.enqueue(model, envelopes(namespace="d"), not_before_ms=before + 60_000)
    oldest = (await bus.stats(model)).oldest_queued_ms
    assert oldest is not None
    assert before <= oldest <= await bus.server_time_ms()
    one, two = await bus.claim(model, worker="pod-1", count=2, lease_ms=LEASE_MS)
    await bus.fail(model, one.token, FAILURE)
    stats = await bus.stats(model)
    assert (stats.queued, stats.delayed, stats.leased, stats.returned) == (2, 1, 1, 1)
    assert stats.by_namespace == {"a": 1, "c": 1}
    assert {one.envelope.namespace, two.envelope.namespace} == {"a", "b"}


async def test_a_report_lives_as_long_as_its_ttl(bus: Bus, model: ModelKey, redis: Redis) -> None:
    await bus.report(model, "pod-1", {"free": 3}, ttl_ms=60_000)
    await bus.report(model, "pod-2", {"free": 0}, ttl_ms=40)
    gone_ms = await bus.server_time_ms() + 40
    await bus.report(model, "pod-1", {"free": 4}, ttl_ms=60_000)
    while await bus.server_time_ms() <= gone_ms:
        pass
    assert await bus.reports(model) == {"pod-1": {"free": 4}}
    await bus.report(model, "pod-1", {"free": 4}, ttl_ms=60_000)
    assert await redis.zrange(f"headrace:{{{model}}}:workers", 0, -1) == ["pod-1"]


async def test_weights_share_the_queue_and_are_replaced_whole(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    await bus.set_weights(model, {"heavy": 1, "gone": 5})
    await bus.set_weights(model, {"heavy": 3, "light": 0.5})
    assert await redis.hgetall(f"headrace:{{{model}}}:weights") == {"heavy": "3", "light": "0.5"}
    for _ in range(12):
        for namespace in ("heavy", "light", "plain"):
            await bus.enqueue(model, envelopes(namespace=namespace))
    deliveries = await bus.claim(model, worker="w", count=18, lease_ms=LEASE_MS)
    served = [delivery.envelope.namespace for delivery in deliveries]
    assert {namespace: served.count(namespace) for namespace in served} == {"heavy": 12, "plain": 4, "light": 2}
    await bus.set_weights(model, {})
    assert await redis.exists(f"headrace:{{{model}}}:weights") == 0


@pytest.mark.parametrize("weights", [{"a b": 1}, {"a": 0}, {"a": -1}, {"a": 1001}, {"a": float("nan")}, {"": 1}])
async def test_a_weight_that_cannot_be_is_refused(bus: Bus, model: ModelKey, redis: Redis, weights) -> None:
    with pytest.raises(ValueError):
        await bus.set_weights(model, weights)
    assert await redis.dbsize() == 0


async def test_purge_leaves_nothing_that_a_runner_wrote(bus: Bus, model: ModelKey, redis: Redis) -> None:
    neighbour = ModelKey(model.namespace, f"{model.name}-2")
    for each in (model, neighbour):
        for number in range(2_500):
            await redis.set(f"{key_prefix(each)}junk:{number}", "x")
        for name in ("gpus:gone", "tokens:facade-0", "replay:u", "done:1", "requests:1", "x" * 100_000):
            await redis.set(key_prefix(each) + name, "x")
    before = len(await redis.keys(f"{key_prefix(neighbour)}*"))
    await bus.purge(model)
    assert await redis.keys(f"{key_prefix(model)}*") == []
    assert len(await redis.keys(f"{key_prefix(neighbour)}*")) == before
