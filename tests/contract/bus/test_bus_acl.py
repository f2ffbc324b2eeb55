"""Redis users: what each component may do, and what a stolen runner password is good for."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from redis import exceptions
from redis.asyncio import Redis
from redis_server import RedisServer

from headrace_bus import (
    FACADE_ACL,
    OPERATOR_ACL,
    Bus,
    BusDenied,
    BusUnavailable,
    Failure,
    Interruption,
    LeaseToken,
    ModelKey,
    WorkClass,
)
from headrace_bus.keys import key_prefix

pytestmark = pytest.mark.contract

OTHER = ModelKey("platform", "other")


@contextlib.asynccontextmanager
async def as_user(server: RedisServer, user: str) -> AsyncIterator[tuple[Bus, Redis]]:
    client = Redis.from_url(server.url, username=user, password="secret", driver_info=None)
    async with Bus.connect(server.url, username=user, password="secret") as bus, client:
        yield bus, client


@pytest.fixture
async def runner(shared_server: RedisServer, bus: Bus, model: ModelKey) -> AsyncIterator[tuple[Bus, Redis]]:
    await bus.grant(model, "runner.platform.qwen", "secret")
    async with as_user(shared_server, "runner.platform.qwen") as both:
        yield both


async def test_a_runner_does_its_work(runner, bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    own, _ = runner
    await redis.script_flush()
    with pytest.raises(BusUnavailable, match="not loaded yet"):
        await own.claim(model, worker="w", count=1, lease_ms=60_000)
    await bus.grant(model, "runner.platform.qwen", "secret")
    for _ in range(4):
        await bus.enqueue(model, envelopes())
    await bus.enqueue(model, envelopes(), not_before_ms=1)
    assert await own.server_time_ms() > 0
    await own.wait_for_work(model, timeout_s=1)
    deliveries = await own.claim(model, worker="w", count=5, lease_ms=60_000)
    tokens = [delivery.token for delivery in deliveries]
    assert await own.renew(model, tokens, lease_ms=60_000) == [True] * 5
    assert await own.complete(model, tokens[0], result={"a": 1})
    assert await own.fail(model, tokens[1], Failure("No", ""))
    assert await own.release(model, tokens[2], "Drain")
    await own.report(model, "w", {"free": 1}, ttl_ms=1_000)
    await redis.zadd(f"headrace:{{{model}}}:leases", {tokens[3].uid: 1})
    await own.claim(model, worker="w", count=1, lease_ms=60_000)
    assert (await bus.stats(model)).returned == 3
    assert await bus.interrupt(model, tokens[4].uid, Interruption.SUSPEND) == "w"
    assert [each.word for each in await own.interruptions(model, "w", timeout_s=5)] == [Interruption.SUSPEND]
    assert await own.interruptions(model, "w", timeout_s=0) == []
    assert await own.park(model, tokens[4], {"text": "long"})
    await own.wait_for_work(model, timeout_s=0.01)


async def test_a_runner_reaches_no_other_model_by_the_bus(runner, bus: Bus, envelopes) -> None:
    own, _ = runner
    await bus.enqueue(OTHER, envelopes(uid="theirs"))
    for attempt in (
        own.claim(OTHER, worker="w", count=1, lease_ms=1_000),
        own.stats(OTHER),
        own.inspect(OTHER, "theirs"),
        own.result(OTHER, "theirs"),
        own.remove(OTHER, "theirs"),
        own.report(OTHER, "w", {}, ttl_ms=1_000),
        own.wait_for_work(OTHER, timeout_s=0.01),
        own.interruptions(OTHER, "w", timeout_s=0.01),
        own.interruptions(OTHER, "w", timeout_s=0),
        own.interrupt(OTHER, "theirs", Interruption.CANCEL),
        own.withdraw(OTHER, "theirs", 1),
        own.park(OTHER, LeaseToken("theirs", 1, "0"), {}),
        own.parked(OTHER, "theirs", 1),
        own.set_weights(OTHER, {"team-a": 1000}),
        own.purge(OTHER),
        own.models(),
        own.register(OTHER),
        own.check(),
        own.grant(OTHER, "me", "x"),
        anext(own.operator_wakeups()),
    ):
        with pytest.raises(BusDenied):
            await attempt
    assert (await bus.stats(OTHER)).queued == 1


async def test_a_runner_reaches_no_other_model_by_commands_or_scripts_of_its_own(
    runner, bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    _, client = runner
    await bus.enqueue(OTHER, envelopes(uid="theirs"))
    prefix, mine = f"headrace:{{{OTHER}}}:", f"headrace:{{{model}}}:"
    before = set(await redis.keys("*"))
    for command in (
        ("GET", f"{prefix}envelope:theirs"),
        ("HGET", f"{prefix}entry:theirs", "nonce"),
        ("DEL", f"{prefix}entry:theirs"),
        ("SET", f"{prefix}x", "1"),
        ("BLPOP", f"{prefix}wake", "0.01"),
        ("SADD", "headrace:models", "a/b"),
        ("PUBLISH", f"headrace:wake:{OTHER}", ""),
        ("PUBLISH", f"headrace:wake:{model}x", ""),
        ("SUBSCRIBE", f"headrace:wake:{model}"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "maxmemory", "1"),
        ("ACL", "LIST"),
        ("ACL", "WHOAMI"),
        ("SCRIPT", "FLUSH"),
        ("SCRIPT", "KILL"),
        ("FUNCTION", "FLUSH"),
        ("DEBUG", "SLEEP", "0"),
        ("MONITOR",),
        ("INFO",),
        ("CLIENT", "LIST"),
        ("CLIENT", "KILL", "ID", "1"),
        ("RENAME", f"{mine}wake", f"{prefix}wake"),
        ("COPY", f"{prefix}wake", f"{mine}stolen"),
        ("MIGRATE", "127.0.0.1", "1", "", "0", "1", "KEYS", f"{mine}wake"),
        ("SHUTDOWN",),
    ):
        with pytest.raises(exceptions.NoPermissionError):
            await client.execute_command(*command)
    for body, keys in (
        (f"return redis.call('GET', '{prefix}envelope:theirs')", []),
        (f"return redis.call('GET', '{prefix}envelope:theirs')", [f"{mine}x"]),
        ("return redis.call('GET', KEYS[1])", [f"{prefix}envelope:theirs"]),
        (f"return redis.call('SET', '{prefix}x', '1')", []),
        (f"return redis.call('PUBLISH', 'headrace:wake:{OTHER}', '')", []),
        ("return redis.call('KEYS', '*')", []),
        ("return redis.call('FLUSHALL')", []),
        (f"#!lua flags=allow-cross-slot-keys\nreturn redis.call('DEL', '{prefix}entry:theirs')", []),
    ):
        # In a script the refusal is an error of the script.
        loaded = await redis.script_load(body)
        with pytest.raises(exceptions.ResponseError, match=r"The user executing the script can't|has no permissions"):
            await client.evalsha(loaded, len(keys), *keys)
    assert set(await redis.keys("*")) == before


async def test_a_runner_brings_no_script_of_its_own(runner) -> None:
    _, client = runner
    endless = "while true do end"
    for bring in (
        client.eval(endless, 0),
        client.script_load(endless),
        client.execute_command("EVAL_RO", endless, "0"),
    ):
        with pytest.raises(exceptions.NoPermissionError):
            await bring


async def test_a_name_that_begins_like_another_opens_nothing(
    shared_server: RedisServer, bus: Bus, redis: Redis, envelopes
) -> None:
    short, long = ModelKey("ns", "qwen"), ModelKey("ns", "qwen-8b")
    await bus.enqueue(long, envelopes(uid="u"))
    await bus.grant(short, "short", "secret")
    async with as_user(shared_server, "short") as (own, _):
        assert (await own.stats(short)).queued == 0
        with pytest.raises(BusDenied):
            await own.stats(long)


async def test_a_revoked_user_is_out_at_once(runner, bus: Bus, model: ModelKey) -> None:
    own, _ = runner
    assert (await own.stats(model)).queued == 0
    await bus.revoke("runner.platform.qwen")
    with pytest.raises(BusDenied):
        await own.stats(model)
    await bus.revoke("runner.platform.qwen")


async def test_granting_again_changes_the_password_and_drops_what_was_granted(
    runner, shared_server: RedisServer, bus: Bus, model: ModelKey
) -> None:
    await bus.grant(OTHER, "runner.platform.qwen", "another")
    async with Bus.connect(shared_server.url, username="runner.platform.qwen", password="secret") as old:
        with pytest.raises(BusDenied):
            await old.stats(model)
    async with Bus.connect(shared_server.url, username="runner.platform.qwen", password="another") as new:
        assert (await new.stats(OTHER)).queued == 0
        with pytest.raises(BusDenied):
            await new.stats(model)


async def test_the_password_itself_is_not_sent(bus: Bus, model: ModelKey, redis: Redis) -> None:
    await bus.grant(model, "r", "correct horse")
    assert "correct horse" not in str(await redis.acl_list())
    with pytest.raises(ValueError):
        await bus.grant(model, "default", "x")


async def test_the_operators_rules_suffice_for_the_operator(
    shared_server: RedisServer, bus: Bus, redis: Redis, model: ModelKey, envelopes
) -> None:
    await redis.execute_command("ACL", "SETUSER", "operator", "reset", "on", ">secret", *OPERATOR_ACL)
    async with as_user(shared_server, "operator") as (own, client):
        await own.check()
        await own.register(model)
        assert await own.models() == {model}
        wakeups = own.operator_wakeups()
        assert await anext(wakeups) == model
        await wakeups.aclose()
        await own.enqueue(model, envelopes(uid="u"))
        assert set((await own.uids(model)).attempts) == {"u"}
        await own.reap(model)
        await own.returned(model)
        await own.inspect(model, "u")
        await own.position(model, "u")
        await own.stats(model)
        await own.reports(model)
        (delivery,) = await bus.claim(model, worker="w", count=1, lease_ms=60_000)
        assert await own.withdraw(model, "u", 1) is False
        assert await own.interrupt(model, "u", Interruption.CANCEL) == "w"
        await own.enqueue(model, replace(delivery.envelope, attempt=2))
        (delivery,) = await bus.claim(model, worker="w", count=1, lease_ms=60_000)
        await bus.park(model, delivery.token, {"text": "long"})
        assert await own.parked(model, "u", 2) == {"text": "long"}
        await own.remove(model, "u")
        assert await own.withdraw(model, "u", 1) is True
        await own.set_weights(model, {"team-a": 2})
        await own.grant(model, "r", "x")
        await own.revoke("r")
        await own.purge(model)
        for command in (("KEYS", "*"), ("FLUSHALL",), ("CONFIG", "GET", "*"), ("SET", "elsewhere", "1")):
            with pytest.raises(exceptions.NoPermissionError):
                await client.execute_command(*command)


@pytest.fixture
async def facade(
    shared_server: RedisServer, bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> AsyncIterator[tuple[Bus, Redis]]:
    """A facade's user beside a model that holds everything there is: uids are its states."""
    await bus.grant(model, "r", "x")
    await bus.register(model)
    for uid in ("completed", "parked", "failed", "leased"):
        await bus.enqueue(model, envelopes(uid=uid))
    deliveries = await bus.claim(model, worker="w", count=4, lease_ms=60_000)
    for kind in WorkClass:
        for uid in ("first", "queued"):
            await bus.enqueue(model, envelopes(uid=f"{kind}-{uid}", kind=kind, payload={"prompt": "secret"}))
    tokens = {delivery.token.uid: delivery.token for delivery in deliveries}
    await bus.complete(model, tokens["completed"], result={"text": "ok"})
    await bus.park(model, tokens["parked"], {"text": "secret"})
    await bus.fail(model, tokens["failed"], Failure("No", ""))
    await bus.enqueue(model, envelopes(uid="delayed"), not_before_ms=2**50)
    await bus.report(model, "w", {"busy": 1}, ttl_ms=60_000)
    await bus.set_weights(model, {"team-a": 2})
    assert await bus.interrupt(model, "leased", Interruption.CANCEL) == "w"
    await redis.execute_command("ACL", "SETUSER", "facade", "reset", "on", ">secret", *FACADE_ACL)
    async with as_user(shared_server, "facade") as both:
        yield both


async def test_a_facade_gets_its_answers(facade, bus: Bus, model: ModelKey) -> None:
    own, _ = facade
    for question in (Bus.stats, Bus.reports):
        assert await question(own, model) == await question(bus, model)
    assert (await own.stats(model)).mean_service_ms is not None
    for uid in ("completed", "parked", "failed", "leased", "delayed", "Task-queued", "Call-queued", "none"):
        assert await own.inspect(model, uid) == await bus.inspect(model, uid)
        assert await own.position(model, uid) == await bus.position(model, uid)
        assert await own.result(model, uid) == await bus.result(model, uid)
    assert await own.position(model, "Task-queued") == 3
    assert await own.result(model, "completed") == {"text": "ok"}
    assert await own.server_time_ms() > 0
    # A model that nobody has enqueued to.
    assert (await own.stats(OTHER)).queued == 0


async def test_a_facade_hands_out_and_ends_nothing_and_reads_no_prompt(
    facade, shared_server: RedisServer, model: ModelKey, redis: Redis, envelopes
) -> None:
    own, client = facade

    async def all_keys() -> dict[str, bytes]:
        return {key: await raw.dump(key) for key in await redis.keys("headrace:*") if ":requests:" not in key}

    async with Redis.from_url(shared_server.url) as raw:
        before = await all_keys()
        assert len(before) > 20
        for attempt in (
            own.enqueue(model, envelopes()),
            own.claim(model, worker="w", count=1, lease_ms=1_000),
            own.reap(model),
            own.remove(model, "Task-queued"),
            own.interruptions(model, "w", timeout_s=0),
            own.interruptions(model, "w", timeout_s=0.01),
            own.set_weights(model, {}),
            own.report(model, "w", {}, ttl_ms=1_000),
            own.purge(model),
            own.register(OTHER),
            own.parked(model, "parked", 1),
            own.uids(model),
            own.models(),
            own.check(),
            own.grant(model, "me", "x"),
            own.revoke("r"),
            anext(own.operator_wakeups()),
        ):
            with pytest.raises(BusDenied):
                await attempt
        prefix = key_prefix(model)
        for command in (
            ("GET", f"{prefix}envelope:Task-queued"),
            ("GET", f"{prefix}parked:parked"),
            ("GET", "elsewhere"),
            ("EVAL", "return 1", "0"),
            ("EVAL_RO", "return 1", "0"),
            ("SCRIPT", "LOAD", "return 1"),
            ("PUBLISH", f"headrace:wake:{model}", ""),
            ("SUBSCRIBE", f"headrace:wake:{model}"),
            ("KEYS", "*"),
            ("SCAN", "0"),
            ("CONFIG", "GET", "*"),
        ):
            with pytest.raises(exceptions.NoPermissionError):
                await client.execute_command(*command)
        assert await all_keys() == before


async def test_credentials_given_beside_the_url_win_over_those_in_it(
    shared_server: RedisServer, bus: Bus, model: ModelKey
) -> None:
    await bus.grant(model, "r", "secret")
    url = shared_server.url.replace("//", "//nobody:wrong@") + "?socket_timeout=0.000001&retry_on_timeout=yes"
    async with Bus.connect(url, username="r", password="secret") as own:
        assert (await own.stats(model)).queued == 0
    async with Bus.connect(shared_server.url.replace("//", "//r:secret@")) as own:
        assert (await own.stats(model)).queued == 0
