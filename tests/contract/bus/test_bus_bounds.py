"""Whoever has a model's password fills its keys and calls scripts with any ARGV: a call stays short, a reply small."""

import contextlib
import json
from typing import Any, get_args

import pytest
from redis import exceptions
from redis.asyncio import Redis

from headrace_bus import Bus, BusCorrupt, BusError, ModelKey
from headrace_bus.keys import key_prefix
from headrace_bus.reader import RESULT_MAX_BYTES
from headrace_bus.scripts import ScriptName, script

pytestmark = pytest.mark.contract

JUNK = 8_000
COMMANDS_MAX = 6_000
"""Below what one loop over JUNK would take."""
REPLY_MAX_BYTES = 4 * 1024 * 1024 + 64 * 1024
MIB = 1024 * 1024
SCRIPTS: tuple[ScriptName, ...] = get_args(ScriptName)
LARGE = ("1e9", "inf", "-1", "0", "nan", "1e308", "x", "9" * 40)
FAR = 2**50


@pytest.fixture
async def filled(redis: Redis, model: ModelKey) -> str:
    """A model whose sets hold nothing but junk; its prefix."""
    prefix = key_prefix(model)
    junk = [f"j{number}" for number in range(JUNK)]
    members = {f"{number:016d}:j{number}": number for number in range(JUNK)}
    async with redis.pipeline(transaction=False) as pipeline:
        for key in (
            "leases",
            "delayed",
            "returned",
            "parked",
            "results",
            "queued",
            "ring:Call",
            "finish:Task",
        ):
            pipeline.zadd(prefix + key, dict.fromkeys(junk, 1))
        pipeline.zadd(f"{prefix}workers", dict.fromkeys(junk, FAR))
        pipeline.zadd(f"{prefix}ring:Task", {"team-a": 0} | dict.fromkeys(junk, 1))
        pipeline.zadd(f"{prefix}queue:Task:team-a", members)
        pipeline.hset(f"{prefix}index", mapping=dict.fromkeys(junk, 1))
        pipeline.rpush(f"{prefix}inbox:w", *junk)
        held = {"state": "Leased", "attempt": 1, "nonce": "n", "worker": "w", "class": "Task", "namespace": "team-a"}
        pipeline.hset(f"{prefix}entry:u", mapping=held)
        queued = {"state": "Queued", "attempt": 1, "class": "Task", "namespace": "team-a", "member": f"{1:016d}:j1"}
        pipeline.hset(f"{prefix}entry:q", mapping=queued)
        await pipeline.execute()
    return prefix


async def commands_of(redis: Redis, name: ScriptName, prefix: str, *args: Any) -> int:
    """How many commands one call carries out, whatever it answers."""
    loaded = await redis.script_load(script(name).source)
    await redis.config_resetstat()
    with contextlib.suppress(exceptions.ResponseError):
        await redis.evalsha(loaded, 1, prefix, *args)
    stats = await redis.info("commandstats")
    return sum(each["calls"] for each in stats.values())


@pytest.mark.parametrize("name", SCRIPTS)
async def test_no_argument_makes_a_script_long(redis: Redis, filled: str, name: ScriptName) -> None:
    first = {"claim": ("r", "w"), "reap": ("r",), "uids": (0,), "reports": (0,)}.get(name, ())
    for number in LARGE:
        for head in (first, (number, "", 0), ("u", "1"), ("q",), ("r", "u", "1", "n")):
            assert await commands_of(redis, name, filled, *head, *[number] * (12 - len(head))) < COMMANDS_MAX


@pytest.mark.parametrize("name", SCRIPTS)
async def test_no_number_of_arguments_makes_a_script_long(redis: Redis, filled: str, name: ScriptName) -> None:
    assert await commands_of(redis, name, filled, *["1"] * 9 * JUNK) < COMMANDS_MAX


@pytest.mark.parametrize("text", ["u " * 4 * MIB, "u " * 8_000])
async def test_a_forged_replay_is_followed_for_one_claims_worth(redis: Redis, filled: str, text: str) -> None:
    await redis.hset(f"{filled}entry:u", mapping={"nonce": "n", "claimed": 1, "enqueued": 1})
    await redis.zadd(f"{filled}leases", {"u": FAR})
    await redis.delete(f"{filled}queue:Task:team-a", f"{filled}ring:Task", f"{filled}ring:Call")
    seconds, _ = await redis.time()
    for ahead in (-1, 0, 1):
        await redis.hset(f"{filled}requests:{seconds * 1000 // 30_000 + ahead}", "n", text)
    # A sweep of 1 and what 64 words cost.
    assert await commands_of(redis, "claim", filled, "n", "w", 1, 1_000, 1, 4, 1) < 400


async def test_a_queue_of_junk_is_worked_off_in_parts(
    bus: Bus, model: ModelKey, redis: Redis, filled: str, envelopes
) -> None:
    envelope = envelopes()
    await redis.delete(f"{filled}ring:Call")
    await redis.zremrangebyrank(f"{filled}queue:Task:team-a", 1_000, -1)
    await redis.zremrangebyrank(f"{filled}ring:Task", 1_000, -1)
    await bus.enqueue(model, envelope)
    claims = 0
    deliveries = []
    while not deliveries and claims < 20:
        deliveries = await bus.claim(model, worker="w", count=1, lease_ms=60_000)
        claims += 1
    assert [each.envelope for each in deliveries] == [envelope]
    assert claims > 2


async def test_many_members_that_name_one_uid_read_it_once(redis: Redis, model: ModelKey) -> None:
    prefix = key_prefix(model)
    await redis.zadd(f"{prefix}ring:Task", {"team-a": 0})
    await redis.zadd(f"{prefix}queue:Task:team-a", {f"{number:016d}:u": number for number in range(200)})
    await redis.hset(f"{prefix}entry:u", mapping={"attempt": 1, "cost": "1" * MIB})
    await commands_of(redis, "claim", prefix, "r", "w", 64, 1_000, 1, 4, 100)
    assert (await redis.info("commandstats"))["cmdstat_hmget"]["calls"] < 5


def size(reply: Any) -> int:
    if isinstance(reply, list):
        return sum(size(each) for each in reply)
    return len(reply) if isinstance(reply, bytes | str) else 8


async def reply_size(redis: Redis, name: ScriptName, prefix: str, *args: Any) -> int:
    return size(await redis.evalsha(await redis.script_load(script(name).source), 1, prefix, *args))


async def test_replies_stay_small(redis: Redis, bus: Bus, model: ModelKey) -> None:
    prefix = key_prefix(model)
    huge = "0" * (MIB - 1) + "1"
    names = [f"{number:03d}" + "n" * 32_000 for number in range(200)]
    await redis.hset(f"{prefix}service", mapping={"mean_ms": huge})
    await redis.hset(f"{prefix}entry:sound", mapping={"attempt": 1, "state": "Queued"})
    await redis.hset(f"{prefix}index", "sound", 1)
    for each in names:
        await redis.zadd(f"{prefix}ring:Task", {each: 1})
        await redis.zadd(f"{prefix}workers", {each: FAR})
        await redis.set(f"{prefix}report:{each}", "{}")
    for number in range(20):
        await redis.hset(f"{prefix}index", f"u{number}", 1)
        await redis.hset(f"{prefix}entry:u{number}", mapping={"attempt": huge, "state": "Queued"})
    reports = {f"w{number}": {"text": "x" * 65_000} for number in range(150)}
    for worker, report in reports.items():
        await redis.zadd(f"{prefix}workers", {worker: FAR})
        await redis.set(f"{prefix}report:{worker}", json.dumps(report))
    returned = {"attempt": 1, "state": "Returned", "namespace": "n", "name": "n", "since": 1, "worker": "w"}
    returned |= {"claimed": 1, "reason": "Failed", "failure": "x" * 32_768}
    for number in range(300):
        await redis.hset(f"{prefix}entry:r{number:03d}", mapping=returned)
        await redis.zadd(f"{prefix}returned", {f"r{number:03d}": 1})
    await redis.hset(f"{prefix}entry:big", mapping=dict.fromkeys(returned, "x" * 32_768))

    assert await reply_size(redis, "uids", prefix, 0, 1_000) < REPLY_MAX_BYTES
    assert await reply_size(redis, "reports", prefix, 0, 1_000, 65_536) < REPLY_MAX_BYTES
    assert await reply_size(redis, "stats", prefix, 1_000) < 1_000
    assert await reply_size(redis, "returned", prefix, 1_000, "", 0, 0) < REPLY_MAX_BYTES
    assert await reply_size(redis, "inspect", prefix, "big") < 40_000
    # Nothing that is sound gets lost.
    assert "sound" in (await bus.uids(model)).entries
    assert (await bus.stats(model)).by_namespace == {}
    assert await bus.reports(model) == reports
    assert len(await bus.returned(model, limit=300)) == 300


async def test_a_result_that_nobody_keeps_is_not_read(redis: Redis, bus: Bus, model: ModelKey) -> None:
    await redis.set(f"{key_prefix(model)}result:u", '{"text":"' + "x" * RESULT_MAX_BYTES + '"}')
    with pytest.raises(BusCorrupt):
        await bus.result(model, "u")
    await redis.delete(f"{key_prefix(model)}result:u")
    await redis.hset(f"{key_prefix(model)}result:u", "a", "b")
    with pytest.raises(BusError):
        await bus.result(model, "u")


@pytest.mark.parametrize("forged", ["many", "ahead", "string", "told"])
async def test_a_forged_replay_is_neither_read_nor_kept(
    redis: Redis, bus: Bus, model: ModelKey, envelopes, forged: str
) -> None:
    prefix = key_prefix(model)
    await bus.enqueue(model, envelopes(uid="u"))
    (delivery,) = await bus.claim(model, worker="w", count=1, lease_ms=60_000)
    match forged:
        case "many":
            async with redis.pipeline(transaction=False) as pipeline:
                for _ in range(2 * JUNK):
                    pipeline.xadd(f"{prefix}replay:u", {"event": "x" * 100})
                await pipeline.execute()
        case "ahead":
            await redis.xadd(f"{prefix}replay:u", {"event": "x" * MIB}, id=f"{FAR * 8}-0")
            await redis.xadd(f"{prefix}tokens:facade-0", {"u": "x"}, id=f"{2**64 - 1}-{2**64 - 1}")
        case "string":
            await redis.set(f"{prefix}replay:u", "x" * MIB)
            await redis.set(f"{prefix}tokens:facade-0", "x" * MIB)
        case "told":
            await redis.hset(f"{prefix}entry:u", "told", "9" * MIB)
    token = delivery.token
    event = (token.uid, token.attempt, token.nonce, "facade-0", '{"text": "a"}')
    commands = await commands_of(redis, "stream", prefix, "r", 256 * 1024, 512, *event * 256)
    called = {name.removeprefix("cmdstat_"): each["calls"] for name, each in (await redis.info("commandstats")).items()}
    assert called["xadd"] >= 257
    assert commands < 4 * 256
    assert called["hmget"] == 2
    assert not {"xrange", "xrevrange", "xread"} & set(called)
    events = 0
    last = "0-0"
    while page := await bus.replay(model, "u", after=last):
        events, last = events + len(page), page[-1].id
    assert events == 256
    assert list(await bus.tokens("facade-0", {model: "0-0"}, timeout_s=1)) == [model]


async def test_events_above_the_bounds_are_refused(redis: Redis, bus: Bus, model: ModelKey, envelopes) -> None:
    await bus.enqueue(model, envelopes(uid="u"))
    (delivery,) = await bus.claim(model, worker="w", count=1, lease_ms=60_000)
    head = (delivery.token.uid, delivery.token.attempt, delivery.token.nonce, "facade-0")
    loaded = await redis.script_load(script("stream").source)
    for events in ([""], ["x" * (64 * 1024 + 1)], ["x" * 60_000] * 20):
        flat = [each for event in events for each in (*head, event)]
        with pytest.raises(exceptions.ResponseError, match="larger than a step"):
            await redis.evalsha(loaded, 1, key_prefix(model), "r", 1, 1, *flat)
    assert not await redis.exists(f"{key_prefix(model)}replay:u")


async def test_a_replay_with_large_values_ends_before_them(redis: Redis, bus: Bus, model: ModelKey) -> None:
    await redis.xadd(f"{key_prefix(model)}replay:u", {"event": "{}"})
    for _ in range(100):
        await redis.xadd(f"{key_prefix(model)}replay:u", {"event": "x" * MIB})
    assert [each.event for each in await bus.replay(model, "u")] == [{}]
    assert await reply_size(redis, "replay", key_prefix(model), "u", "0-0", 1_000, MIB) < REPLY_MAX_BYTES
