"""Results that are given again: bounded, ended by their TTL, gone with the model, and nonsense that does no harm."""

import pytest
from redis.asyncio import Redis

from headrace_bus import Bus, BusError, BusOutOfMemory, ModelKey, acl_rules

DIGEST = "ab" * 32
VALUE = {"text": "four", "n": 1}


async def put(bus: Bus, model: ModelKey, digest: str, *, most: int = 3, ttl: int = 60) -> None:
    await bus.cache(model, digest, {**VALUE, "text": digest}, ttl_seconds=ttl, max_entries=most)


async def test_what_is_kept_is_found_by_its_digest_alone(bus: Bus, redis: Redis, model: ModelKey) -> None:
    assert await bus.cached(model, DIGEST) is None
    await bus.cache(model, DIGEST, VALUE, ttl_seconds=60, max_entries=3)
    assert await bus.cached(model, DIGEST) == VALUE
    assert await bus.cached(model, "cd" * 32) is None
    assert await bus.cached(ModelKey("platform", "other"), DIGEST) is None
    assert 0 < await redis.pttl(f"headrace:{{{model}}}:cache:{DIGEST}") <= 60_000
    assert 0 < await redis.pttl(f"headrace:{{{model}}}:cached") <= 60_000


async def test_the_one_that_ends_first_goes(bus: Bus, redis: Redis, model: ModelKey) -> None:
    for number, ttl in enumerate((300, 100, 200)):
        await put(bus, model, f"d{number}", ttl=ttl)
    await put(bus, model, "d0", ttl=300)
    assert await bus.cached(model, "d1") is not None, "the same one again takes nobody's place"
    await put(bus, model, "d3", ttl=400)
    assert [await bus.cached(model, f"d{number}") is not None for number in range(4)] == [True, False, True, True]
    await put(bus, model, "d4", ttl=500, most=1)
    assert [each async for each in redis.scan_iter("*:cache:*")] == [f"headrace:{{{model}}}:cache:d4"]


async def test_too_long_is_not_kept(bus: Bus, model: ModelKey) -> None:
    with pytest.raises(BusError):
        await bus.cache(model, DIGEST, {"text": "x" * 65_536}, ttl_seconds=60, max_entries=3)
    assert await bus.cached(model, DIGEST) is None


@pytest.mark.parametrize("nonsense", ["{", "[1]", "\ud7ff" * 70_000, '{"a": NaN}'], ids=["cut", "list", "long", "nan"])
async def test_nonsense_is_nothing(nonsense: str, bus: Bus, redis: Redis, model: ModelKey) -> None:
    await redis.set(f"headrace:{{{model}}}:cache:{DIGEST}", nonsense)
    assert await bus.cached(model, DIGEST) is None
    await redis.set(f"headrace:{{{model}}}:cached", "no index")
    await put(bus, model, DIGEST)
    assert await bus.cached(model, DIGEST) is not None
    await redis.delete(f"headrace:{{{model}}}:cache:{DIGEST}")
    await redis.rpush(f"headrace:{{{model}}}:cache:{DIGEST}", "a list")
    assert await bus.cached(model, DIGEST) is None


async def test_a_full_redis_keeps_nothing_and_gives_what_it_has(bus: Bus, redis: Redis, model: ModelKey) -> None:
    await put(bus, model, "d0")
    await redis.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(BusOutOfMemory):
            await put(bus, model, "d1")
        assert await bus.cached(model, "d0") is not None
    finally:
        await redis.config_set("maxmemory", "0")


async def test_a_runner_may_and_only_for_its_model(
    bus: Bus, redis: Redis, model: ModelKey, shared_server: object
) -> None:
    await put(bus, model, "d0")
    await redis.execute_command("ACL", "SETUSER", "runner", "reset", "on", ">pw", *acl_rules(model))
    url = shared_server.url.replace("redis://", "redis://runner:pw@")  # type: ignore[attr-defined]
    async with Bus.connect(url) as runner:
        await put(runner, model, "d1")
        assert await runner.cached(model, "d0") is not None
        for reach in (runner.cached(ModelKey("x", "y"), "d0"), put(runner, ModelKey("x", "y"), "d0")):
            with pytest.raises(BusError):
                await reach


async def test_it_goes_with_the_model(bus: Bus, redis: Redis, model: ModelKey) -> None:
    for number in range(5):
        await put(bus, model, f"d{number}", most=10)
    await bus.purge(model)
    assert [each async for each in redis.scan_iter("headrace:*cache*")] == []
