"""Text on its way: what a runner appends reaches the reader it is for, can be replayed, and needs a lease."""

import asyncio
from dataclasses import replace

import pytest
from redis import exceptions
from redis.asyncio import Redis
from redis_server import RedisServer

from headrace_bus import (
    FACADE_ACL,
    FIRST,
    REPLAY_BYTES,
    Bus,
    BusDenied,
    BusReader,
    Delivery,
    LeaseToken,
    ModelKey,
    PayloadTooLarge,
    StreamEvent,
    Token,
)
from headrace_bus.keys import key_prefix
from headrace_bus.scripts import script
from headrace_bus.tokens import INBOX_RECORDS, LEFT_OUT_SECONDS, Inboxes

pytestmark = pytest.mark.contract

LEASE_MS = 60_000
OTHER = ModelKey("platform", "other")


async def claimed(bus: Bus, model: ModelKey, envelopes, **fields: object) -> LeaseToken:
    await bus.enqueue(model, envelopes(**fields))
    (delivery,) = await bus.claim(model, worker="pod-1", count=1, lease_ms=LEASE_MS)
    assert isinstance(delivery, Delivery)
    return delivery.token


def said(token: LeaseToken, text: str, reader: str = "facade-0") -> StreamEvent:
    return StreamEvent(token, reader, {"text": text})


async def inbox(bus: Bus, model: ModelKey, reader: str = "facade-0", after: str = FIRST) -> tuple[str, list[Token]]:
    found = await bus.tokens(reader, {model: after}, timeout_s=0.05)
    return found.get(model, (after, []))


async def test_a_step_is_one_record_per_reader_and_everybody_gets_their_own(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    one, two, three = [await claimed(bus, model, envelopes, uid=uid) for uid in ("one", "two", "three")]
    step = [said(one, "a"), said(two, "b"), said(three, "c", "facade-1"), said(one, "d")]
    assert await bus.stream(model, step) == [True] * 4
    assert await redis.xlen(f"{key_prefix(model)}tokens:facade-0") == 1
    after, tokens = await inbox(bus, model)
    assert [(each.uid, each.event["text"]) for each in tokens] == [("one", "a"), ("two", "b"), ("one", "d")]
    assert [each.before for each in tokens] == [FIRST, FIRST, tokens[0].id]
    assert [each.event for each in (await inbox(bus, model, "facade-1"))[1]] == [{"text": "c"}]
    assert await inbox(bus, model, after=after) == (after, [])
    assert await bus.stream(model, []) == []
    for key, most in (("tokens:facade-0", 60_000), ("replay:one", 600_000)):
        assert most - 10_000 < await redis.pttl(key_prefix(model) + key) <= most


async def test_a_waiting_reader_hears_of_every_model_on_one_connection(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    token = await claimed(bus, OTHER, envelopes, uid="theirs")
    reading = asyncio.create_task(bus.tokens("facade-0", {model: FIRST, OTHER: FIRST}, timeout_s=20))
    while (await redis.info("clients"))["blocked_clients"] != 1:  # noqa: ASYNC110 - the condition is Redis'
        await asyncio.sleep(0.001)
    await bus.stream(OTHER, [said(token, "x")])
    found = await asyncio.wait_for(reading, 5)
    assert list(found) == [OTHER]
    assert [each.uid for each in found[OTHER][1]] == ["theirs"]


async def test_whose_lease_is_lost_streams_nothing(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    mine, lost = await claimed(bus, model, envelopes, uid="mine"), await claimed(bus, model, envelopes, uid="lost")
    await bus.release(model, lost, "Drain")
    forged = [replace(mine, nonce="0" * 32), replace(mine, attempt=2), replace(mine, uid="another")]
    events = [said(lost, "a"), said(mine, "b"), *(said(each, "c") for each in forged)]
    assert await bus.stream(model, events) == [False, True, False, False, False]
    assert [each.event for each in (await inbox(bus, model))[1]] == [{"text": "b"}]
    assert await bus.replay(model, "lost") == []
    # All that is lost leaves no key.
    assert await bus.stream(model, [said(lost, "a", "facade-9")]) == [False]
    assert await redis.exists(f"{key_prefix(model)}tokens:facade-9") == 0


async def test_what_was_missed_is_replayed_from_the_last_event_on(bus: Bus, model: ModelKey, envelopes) -> None:
    token = await claimed(bus, model, envelopes, uid="u")
    for text in "abcd":
        await bus.stream(model, [said(token, text)])
    every = await bus.replay(model, "u")
    assert [each.event["text"] for each in every] == ["a", "b", "c", "d"]
    assert await bus.replay(model, "u", after=every[1].id) == every[2:]
    assert await bus.replay(model, "u", after=every[3].id) == []
    # The call is over, and the replay stays.
    await bus.complete(model, token)
    assert await bus.replay(model, "u") == every


async def test_a_replay_is_bounded_and_says_that_its_beginning_is_gone(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    token = await claimed(bus, model, envelopes, uid="u")
    await bus.stream(model, [said(token, "begin")])
    (begin,) = await bus.replay(model, "u")
    text, written = "x" * 50_000, 0
    while written <= REPLAY_BYTES:
        assert await bus.stream(model, [said(token, text)]) == [True]
        written += len(text)
    kept = await bus.replay(model, "u", after=begin.id)
    assert kept[0].before == ""
    assert [each.before for each in kept[1:]] == [each.id for each in kept[:-1]]
    held = sum(len(each.event["text"]) for each in kept)
    assert REPLAY_BYTES - 2 * len(text) < held <= REPLAY_BYTES + len(text)
    # The next of what the reader has seen is not what comes: it knows that it has missed something.
    assert kept[0].id != begin.id
    with pytest.raises(PayloadTooLarge):
        await bus.stream(model, [said(token, "x" * 70_000)])


async def test_an_inbox_that_nobody_reads_is_bounded_and_shows_the_gap(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    token = await claimed(bus, model, envelopes, uid="u")
    for number in range(INBOX_RECORDS + 5):
        await bus.stream(model, [said(token, str(number))])
    assert await redis.xlen(f"{key_prefix(model)}tokens:facade-0") == INBOX_RECORDS
    _, tokens = await inbox(bus, model)
    assert tokens[0].event["text"] == "5"
    assert tokens[0].before != FIRST


async def test_a_repeated_append_is_one(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    token = await claimed(bus, model, envelopes, uid="u")
    await bus.stream(model, [said(token, "a")])
    arguments = [
        "r" * 32,
        REPLAY_BYTES,
        INBOX_RECORDS,
        token.uid,
        token.attempt,
        token.nonce,
        "facade-0",
        '{"text": "b"}',
    ]
    replies = [await redis.evalsha(script("stream").sha, 1, key_prefix(model), *arguments) for _ in range(3)]
    assert replies == ["1", "1", "1"]
    assert [each.event["text"] for each in await bus.replay(model, "u")] == ["a", "b"]


async def test_nonsense_in_an_inbox_hides_no_event(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    token = await claimed(bus, model, envelopes, uid="u")
    key = f"{key_prefix(model)}tokens:facade-0"
    for name, value in (
        (b"\xff", b"1-0 0-0 {}"),
        ("u", "1-0"),
        ("u", "1-0 0-0 []"),
        ("../u", "1-0 0-0 {}"),
        ("u", b"\xff"),
    ):
        await redis.xadd(key, {name: value})
    await bus.stream(model, [said(token, "a")])
    assert [each.event for each in (await inbox(bus, model))[1]] == [{"text": "a"}]


async def test_the_facade_reads_and_a_runner_of_another_model_does_nothing(
    shared_server: RedisServer, bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    token = await claimed(bus, model, envelopes, uid="u")
    await bus.stream(model, [said(token, "a")])
    # Loads the scripts as well, which a facade may call and not load.
    await bus.grant(OTHER, "runner.platform.other", "secret")
    await redis.execute_command("ACL", "SETUSER", "facade", "reset", "on", ">secret", *FACADE_ACL)
    async with BusReader.connect(shared_server.url, username="facade", password="secret") as facade:
        found = await facade.tokens("facade-0", {model: FIRST}, timeout_s=1)
        assert [each.uid for each in found[model][1]] == ["u"]
        assert len(await facade.replay(model, "u")) == 1
    async with Redis.from_url(shared_server.url, username="facade", password="secret") as plain:
        for command in (
            ("XADD", f"{key_prefix(model)}tokens:facade-0", "*", "u", "x"),
            ("XTRIM", f"{key_prefix(model)}replay:u", "MAXLEN", "0"),
            ("XREAD", "STREAMS", f"{key_prefix(model)}envelope:u", "0"),
        ):
            with pytest.raises(exceptions.NoPermissionError):
                await plain.execute_command(*command)
    async with Bus.connect(shared_server.url, username="runner.platform.other", password="secret") as own:
        theirs = await claimed(bus, OTHER, envelopes, uid="theirs")
        assert await own.stream(OTHER, [said(theirs, "b")]) == [True]
        with pytest.raises(BusDenied):
            await own.stream(model, [said(token, "forged")])


async def test_a_large_step_goes_in_parts(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    tokens = [await claimed(bus, model, envelopes, uid=f"u{number}") for number in range(40)]
    assert await bus.stream(model, [said(each, "x" * 60_000) for each in tokens]) == [True] * len(tokens)
    assert await redis.xlen(f"{key_prefix(model)}tokens:facade-0") > 1
    assert {each.uid for each in (await inbox(bus, model))[1]} == {each.uid for each in tokens}


@pytest.mark.parametrize("broken", ["type", "size"])
async def test_one_models_unreadable_inbox_costs_the_others_nothing(
    bus: Bus, model: ModelKey, redis: Redis, envelopes, broken: str
) -> None:
    await bus.stream(OTHER, [said(await claimed(bus, OTHER, envelopes, uid="theirs"), "x")])
    key = f"{key_prefix(model)}tokens:facade-0"
    if broken == "type":
        await redis.set(key, "x")
    else:
        await redis.config_set("client-output-buffer-limit", "normal 2097152 0 0")
        for _ in range(3):
            await redis.xadd(key, {"u": "x" * 4_000_000})
    try:
        after = FIRST
        for text in ("x", "y"):
            found = await bus.tokens("facade-0", {model: FIRST, OTHER: after}, timeout_s=20)
            after, tokens = found[OTHER]
            assert [each.event for each in tokens] == [{"text": text}]
            assert model not in found
            await bus.stream(OTHER, [said(await claimed(bus, OTHER, envelopes), "y")])
        # Left out, it is not asked for again.
        await redis.config_resetstat()
        await bus.tokens("facade-0", {model: FIRST, OTHER: FIRST}, timeout_s=20)
        assert (await redis.info("commandstats"))["cmdstat_xread"]["calls"] == 1
        assert await bus.tokens("facade-0", {model: FIRST}, timeout_s=0.01) == {}
    finally:
        await redis.config_set("client-output-buffer-limit", "normal 0 0 0")


async def test_an_inbox_that_was_left_out_is_asked_for_again(
    shared_server: RedisServer, bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    now = 0.0
    async with Bus.connect(shared_server.url) as reader:
        inboxes = Inboxes(reader._connection, lambda: now)
        await redis.set(f"{key_prefix(model)}tokens:facade-0", "x")
        assert await inboxes.read("facade-0", {model: FIRST}, 0.01) == {}
        await redis.delete(f"{key_prefix(model)}tokens:facade-0")
        await bus.stream(model, [said(await claimed(bus, model, envelopes), "x")])
        # With a microsecond left it does not wait for the whole time.
        now += LEFT_OUT_SECONDS - 1e-6
        assert await asyncio.wait_for(inboxes.read("facade-0", {model: FIRST}, 60), 20) == {}
        now += 1e-6
        assert list(await inboxes.read("facade-0", {model: FIRST}, 5)) == [model]
