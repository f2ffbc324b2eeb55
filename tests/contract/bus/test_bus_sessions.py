"""Sessions and tickets on a real Redis, kept by the facade's own user from two replicas."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from headrace_bus import (
    FACADE_ACL,
    OPERATOR_ACL,
    SESSION_BYTES,
    SESSIONS_BYTES,
    SESSIONS_MOST,
    Bus,
    BusOutOfMemory,
    ModelKey,
    PayloadTooLarge,
    SessionExists,
    SessionLedger,
    SessionsFull,
    TicketLedger,
    acl_rules,
)
from headrace_bus.scripts import script
from tests.contract.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.contract
ALICE, BOB = "a" * 32, "b" * 32
DAY_MS = 24 * 3600 * 1000
MODEL = ModelKey("ns", "m")


@pytest.fixture
async def redis() -> AsyncIterator[RedisServer]:
    with redis_server() as server:
        async with Bus.connect(server.url) as bus:
            await bus.grant(MODEL, "ns/m", "secret")
        async with Redis.from_url(server.url) as client:
            for name, rules in (("facade", FACADE_ACL), ("operator", OPERATOR_ACL), ("runner", acl_rules(MODEL))):
                await client.execute_command("ACL", "SETUSER", name, "reset", "on", ">secret", *rules)
        yield server


def url(redis: RedisServer, user: str = "facade") -> str:
    return f"redis://{user}:secret@127.0.0.1:{redis.port}/0"


@pytest.fixture
async def replicas(redis: RedisServer) -> AsyncIterator[tuple[SessionLedger, SessionLedger]]:
    first, second = (SessionLedger.connect(url(redis), call_timeout_s=5.0) for _ in range(2))
    yield first, second
    await first.aclose()
    await second.aclose()


@pytest.fixture
def ledger(replicas: tuple[SessionLedger, SessionLedger]) -> SessionLedger:
    return replicas[0]


async def append(ledger: SessionLedger, text: str = "x", *, name: str = "", seen: int = 0, session: str = "s"):
    return await ledger.append(
        ALICE,
        session,
        name or secrets.token_hex(8),
        {"text": text},
        seen=seen,
        system="",
        ttl_ms=DAY_MS,
    )


async def test_a_session_is_made_read_listed_and_deleted(ledger: SessionLedger, redis: RedisServer) -> None:
    await ledger.create(ALICE, "s", system="Be brief.", ttl_ms=DAY_MS)
    with pytest.raises(SessionExists):
        await ledger.create(ALICE, "s", system="", ttl_ms=DAY_MS)
    await append(ledger, "hello")
    found = await ledger.get(ALICE, "s")
    assert found is not None
    assert (found.system, found.exchanges, found.facts.version) == ("Be brief.", [{"text": "hello"}], 1)
    assert await ledger.owned(ALICE) == [found.facts]
    assert found.facts.exchanges == 1
    assert found.facts.ends_ms - found.facts.made_ms >= DAY_MS
    assert await ledger.get(BOB, "s") is None
    assert await ledger.owned(BOB) == []
    assert not await ledger.delete(BOB, "s")
    assert await ledger.delete(ALICE, "s")
    assert await ledger.get(ALICE, "s") is None
    assert await append(ledger) is None
    async with Redis.from_url(redis.url) as client:
        assert await client.keys("headrace:session:*") == []


async def test_two_replicas_lose_nothing(replicas: tuple[SessionLedger, SessionLedger]) -> None:
    await replicas[0].create(ALICE, "s", system="", ttl_ms=DAY_MS)
    told = await asyncio.gather(*(append(replicas[n % 2], str(n)) for n in range(40)))
    assert sorted(each.version for each in told) == list(range(1, 41))
    # Whoever saw the version that it changed came first.
    assert [each.version for each in told if not each.overlapped] == [1]
    found = await replicas[1].get(ALICE, "s")
    assert found is not None
    assert {each["text"] for each in found.exchanges} == {str(n) for n in range(40)}
    assert not (await append(replicas[0], seen=40)).overlapped


async def test_a_repetition_appends_nothing(ledger: SessionLedger) -> None:
    await ledger.create(ALICE, "s", system="", ttl_ms=DAY_MS)
    await append(ledger, name="call-1")
    await append(ledger, name="call-2")
    again = await append(ledger, name="call-1")
    assert again.version == 2
    found = await ledger.get(ALICE, "s")
    assert found is not None
    assert len(found.exchanges) == 2


async def test_a_session_is_bounded_and_its_oldest_go_first(ledger: SessionLedger) -> None:
    await ledger.create(ALICE, "s", system="Be brief.", ttl_ms=DAY_MS)
    for number in range(12):
        await append(ledger, f"{number:02}" + "x" * 50_000)
    found = await ledger.get(ALICE, "s")
    assert found is not None
    assert [each["text"][:2] for each in found.exchanges] == ["07", "08", "09", "10", "11"]
    assert found.system == "Be brief."
    assert found.facts.size_bytes <= SESSION_BYTES
    # What is told of its size is what it holds: it does not grow by coming and going.
    held = sum(len(each["text"]) for each in found.exchanges)
    assert held < found.facts.size_bytes < held + 3_000
    with pytest.raises(PayloadTooLarge):
        await append(ledger, "x" * SESSION_BYTES)
    with pytest.raises(SessionsFull):
        await append(ledger, "x" * (SESSION_BYTES - 100))
    assert (await ledger.get(ALICE, "s")) == found


async def test_an_identity_is_bounded(ledger: SessionLedger) -> None:
    for number in range(SESSIONS_MOST):
        await ledger.create(ALICE, f"s{number}", system="", ttl_ms=DAY_MS)
    with pytest.raises(SessionsFull):
        await ledger.create(ALICE, "more", system="", ttl_ms=DAY_MS)
    await ledger.create(BOB, "more", system="", ttl_ms=DAY_MS)
    for number in range(SESSIONS_MOST):
        for _ in range(2):
            try:
                await append(ledger, "x" * 100_000, session=f"s{number}")
            except SessionsFull:
                break
    sizes = [each.size_bytes for each in await ledger.owned(ALICE)]
    assert SESSIONS_BYTES - 150_000 < sum(sizes) <= SESSIONS_BYTES
    # A session that is deleted leaves its room to the others.
    await ledger.delete(ALICE, "s0")
    await append(ledger, "x" * 100_000, session="s99")


async def test_what_has_ended_is_gone_and_takes_no_room(ledger: SessionLedger, redis: RedisServer) -> None:
    for number in range(SESSIONS_MOST):
        await ledger.create(ALICE, f"s{number}", system="", ttl_ms=1)
    async with Redis.from_url(redis.url) as client:
        while await client.keys("headrace:session:*"):
            pass
    assert await ledger.owned(ALICE) == []
    await ledger.create(ALICE, "s0", system="", ttl_ms=DAY_MS)
    async with Redis.from_url(redis.url) as client:
        for key in await client.keys("headrace:session:*"):
            assert 0 < await client.pttl(key) <= DAY_MS


async def test_nobody_but_a_facade_touches_sessions_and_tickets(ledger: SessionLedger, redis: RedisServer) -> None:
    await ledger.create(ALICE, "s", system="secret", ttl_ms=DAY_MS)
    key = f"headrace:session:{{{ALICE}}}:of:s"
    for user in ("operator", "runner"):
        async with Redis.from_url(url(redis, user)) as client:
            for command in (("HGET", key, "system"), ("GET", "headrace:ticket:{00}"), ("DEL", key)):
                with pytest.raises(NoPermissionError):
                    await client.execute_command(*command)
            prefix = f"headrace:session:{{{ALICE}}}:"
            with pytest.raises(ResponseError):
                await client.execute_command("EVALSHA", script("session/get").sha, 1, prefix, "s")
    async with Redis.from_url(url(redis)) as facade:
        with pytest.raises(ResponseError, match="no prefix of sessions"):
            await facade.execute_command("EVALSHA", script("session/list").sha, 1, "headrace:{ns/m}:")
        # Others' envelopes stay unread, and a ticket is read by being taken alone.
        for command in (("GET", "headrace:ticket:{00}"), ("GETDEL", "headrace:{ns/m}:envelope:u")):
            with pytest.raises(NoPermissionError):
                await facade.execute_command(*command)
    with pytest.raises(ValueError, match="no digest"):
        await ledger.get("x}:{y", "s")


async def test_a_ticket_is_taken_once(redis: RedisServer) -> None:
    tickets = TicketLedger.connect(url(redis), call_timeout_s=5.0)
    try:
        await tickets.put(ALICE, {"name": "alice"}, ttl_ms=30_000)
        found = await asyncio.gather(*(tickets.take(ALICE) for _ in range(20)))
        assert [each for each in found if each is not None] == [{"name": "alice"}]
        await tickets.put(BOB, {"name": "bob"}, ttl_ms=1)
        async with Redis.from_url(redis.url) as client:
            while await client.keys("headrace:ticket:*"):
                pass
        assert await tickets.take(BOB) is None
    finally:
        await tickets.aclose()


async def test_a_full_redis_keeps_nothing_and_forgets_nothing() -> None:
    with redis_server(maxmemory="1gb") as server:
        async with Bus.connect(server.url) as bus:
            await bus.grant(MODEL, "ns/m", "secret")
        ledger = SessionLedger.connect(server.url, call_timeout_s=5.0)
        try:
            await ledger.create(ALICE, "s", system="", ttl_ms=DAY_MS)
            async with Redis.from_url(server.url) as client:
                await client.config_set("maxmemory", 1)
            with pytest.raises(BusOutOfMemory):
                await append(ledger)
            with pytest.raises(BusOutOfMemory):
                await ledger.create(ALICE, "t", system="", ttl_ms=DAY_MS)
            assert await ledger.get(ALICE, "s") is not None
            assert await ledger.delete(ALICE, "s")
        finally:
            await ledger.aclose()
