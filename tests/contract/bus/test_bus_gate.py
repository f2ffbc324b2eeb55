"""A remote model's gate in Redis: what is told, lost replies, an emptied server, dead pods, strangers and nonsense."""

import pytest
from redis.asyncio import Redis
from redis_server import RedisServer
from reply_thief import reply_thief

from headrace_bus import Breaker, Bus, BusDenied, BusError, Call, GateLimits, GateState, ModelKey, Settlement
from headrace_bus.keys import key_prefix

pytestmark = pytest.mark.contract

LIMITS = GateLimits(4)


async def test_a_call_has_its_place_until_it_is_settled(bus: Bus, model: ModelKey) -> None:
    assert await bus.gate(model) == GateState()
    turn = await bus.turn(model, LIMITS, calls=[Call(f"c{number}", 10) for number in range(6)])
    assert (turn.admitted, turn.reason, turn.room) == (4, "Concurrency", 0)
    # The same call again is the same call.
    assert (await bus.admit(model, LIMITS, "c0", 10)).admitted == 1
    assert (await bus.gate(model)) == GateState(concurrency=4, under_way=4)
    turn = await bus.turn(model, LIMITS, settled=[Settlement("c0")], calls=[Call("c4", 10), Call("c5", 10)])
    assert (turn.admitted, turn.reason, turn.state.under_way) == (1, "Concurrency", 4)


async def test_a_dead_pods_places_come_back_and_its_late_word_frees_none(bus: Bus, model: ModelKey) -> None:
    await bus.turn(model, LIMITS, calls=[Call(f"dead{number}", 1) for number in range(4)], lease_ms=30)
    begun = await bus.server_time_ms()
    while await bus.server_time_ms() <= begun + 30:
        pass
    turn = await bus.turn(model, LIMITS, calls=[Call(f"c{number}", 1) for number in range(4)])
    assert turn.admitted == 4
    for number in range(4):
        turn = await bus.settle(model, LIMITS, Settlement(f"dead{number}", "Transient", "ProviderUnreachable", "gone"))
    assert (turn.state.under_way, turn.room) == (4, 0)
    # It counts all the same: this is the fifth in a row.
    turn = await bus.settle(model, LIMITS, Settlement("c0", "Transient", "ProviderUnreachable", "gone"))
    assert (turn.state.breaker, turn.state.reason) == (Breaker.OPEN, "ProviderUnreachable")
    assert turn.state.under_way == 3


async def test_a_settlement_whose_reply_is_lost_counts_once(
    shared_server: RedisServer, bus: Bus, model: ModelKey, redis: Redis
) -> None:
    async with reply_thief(shared_server.port) as thief, Bus.connect(thief.url) as robbed:
        await robbed.turn(model, LIMITS)
        thief.steal(1)
        turn = await robbed.turn(model, LIMITS, settled=[Settlement("x", "Transient", "X", "")], calls=[Call("c", 1)])
        assert thief.stolen == 1
        assert (turn.admitted, turn.state.under_way) == (1, 1)
        assert float(await redis.hget(f"{key_prefix(model)}gate", "failures")) == 1


async def test_a_gate_that_was_forgotten_begins_anew_and_counts_who_goes_on(
    bus: Bus, model: ModelKey, redis: Redis
) -> None:
    await bus.turn(model, LIMITS, calls=[Call("a", 1), Call("b", 1)])
    await bus.settle(model, LIMITS, Settlement("a", "Unavailable", "CredentialsRefused", "the key was refused"))
    assert (await bus.gate(model)).breaker is Breaker.OPEN
    await redis.flushall()
    assert await bus.gate(model) == GateState()
    assert await bus.renew_calls(model, ["b"]) == [False]
    assert await bus.renew_calls(model, ["b"]) == [True]
    turn = await bus.turn(model, LIMITS, calls=[Call(f"c{number}", 1) for number in range(6)])
    assert (turn.admitted, turn.state.under_way) == (3, 4)


async def test_a_refused_call_gives_its_tokens_back(bus: Bus, model: ModelKey) -> None:
    limits = GateLimits(8, tokens_per_minute=1_000)
    turn = await bus.turn(model, limits, calls=[Call("a", 5_000), Call("b", 1)])
    assert (turn.admitted, turn.reason) == (1, "TokensPerMinute")
    assert turn.wait_ms > 290_000
    turn = await bus.turn(model, limits, settled=[Settlement("a", "Terminal", "ContextLengthExceeded", "")])
    assert (await bus.admit(model, limits, "b", 1)).admitted == 1


async def test_purge_takes_the_gate_along(bus: Bus, model: ModelKey, redis: Redis) -> None:
    await bus.register(model)
    await bus.turn(model, LIMITS, calls=[Call("a", 1)], settled=[Settlement("b")])
    assert len(await redis.keys(f"{key_prefix(model)}*")) == 4
    await bus.purge(model)
    assert await redis.keys(f"{key_prefix(model)}*") == []


async def test_a_runner_goes_through_its_own_gate_alone(
    shared_server: RedisServer, bus: Bus, model: ModelKey, redis: Redis
) -> None:
    await bus.grant(model, "r", "secret")
    other = ModelKey(model.namespace, f"{model.name}-2")
    async with Bus.connect(shared_server.url, username="r", password="secret") as own:
        assert (await own.admit(model, LIMITS, "a", 1)).admitted == 1
        assert await own.renew_calls(model, ["a"]) == [True]
        assert (await own.settle(model, LIMITS, Settlement("a"))).state.under_way == 0
        assert (await own.gate(model)).concurrency == 4
        for attempt in (own.admit(other, LIMITS, "a", 1), own.renew_calls(other, ["a"]), own.gate(other)):
            with pytest.raises(BusDenied):
                await attempt
    assert await redis.keys(f"{key_prefix(other)}*") == []


@pytest.mark.parametrize("key", ["gate", "calls", "booked"])
async def test_what_is_no_gate_is_replaced(bus: Bus, model: ModelKey, redis: Redis, key: str) -> None:
    await redis.set(f"{key_prefix(model)}{key}", "x")
    assert await bus.gate(model) == GateState()
    turn = await bus.turn(model, LIMITS, calls=[Call("a", 1)], settled=[Settlement("b")])
    assert (turn.admitted, turn.state.under_way) == (1, 1)


async def test_nonsense_in_a_gate_holds_nobody_back_for_long(bus: Bus, model: ModelKey, redis: Redis) -> None:
    nonsense = {
        "requests": "1e300",
        "tokens": "nan",
        "limit": "-5",
        "pause": "9e15",
        "shut": "inf",
        "cut": "x" * 10_000,
    }
    await redis.hset(
        f"{key_prefix(model)}gate", mapping={**nonsense, "pause_message": "m" * 100_000, "probe": "p" * 9_000}
    )
    state = await bus.gate(model)
    assert state.retry_in_ms <= 3_600_000
    assert len(state.message) <= 256
    turn = await bus.turn(model, GateLimits(4, 60, 60), calls=[Call("a", 1)])
    assert turn.wait_ms <= 3_600_000


@pytest.mark.parametrize("arguments", [["r", 4, 0, 0, 1_000, 0, ""], ["r", 4, 0, 0, 1_000, 3, "a"], ["r"]])
async def test_what_is_no_turn_is_refused_whole(
    bus: Bus, model: ModelKey, redis: Redis, arguments: list[object]
) -> None:
    with pytest.raises(BusError):
        await bus._connection.run("remote/turn", key_prefix(model), *arguments)
    assert await redis.keys("*") == []


async def test_what_cannot_be_is_refused_before_it_is_sent(bus: Bus, model: ModelKey) -> None:
    for wrong in ((0,), (1025,), (1, 0), (1, None, 0)):
        with pytest.raises(ValueError, match="lies in"):
            GateLimits(*wrong)
    with pytest.raises(ValueError, match="fault 'Odd' is none of"):
        await bus.settle(model, LIMITS, Settlement("a", "Odd"))
    with pytest.raises(ValueError, match="id has 1 to 253"):
        await bus.admit(model, LIMITS, "", 1)
    with pytest.raises(ValueError, match="64 calls at most"):
        await bus.turn(model, LIMITS, calls=[Call(f"c{number}", 1) for number in range(65)])


async def test_a_message_is_one_bounded_line(bus: Bus, model: ModelKey) -> None:
    message = "a key\nthat\x1b[31m is not one " + "ö" * 500
    turn = await bus.settle(model, LIMITS, Settlement("a", "Unavailable", "CredentialsRefused", message))
    assert turn.state.message.startswith("a key that [31m is not one öö")
    assert len(turn.state.message) == 256


async def test_whoever_acted_does_not_wait_for_the_breaker(bus: Bus, model: ModelKey) -> None:
    changed = Settlement("changed/1", reason="Changed", tokens=0)
    assert (await bus.settle(model, LIMITS, changed)).state.breaker is Breaker.CLOSED
    await bus.settle(model, LIMITS, Settlement("a", "Unavailable", "CredentialsRefused", "the key was refused"))
    assert (await bus.admit(model, LIMITS, "b", 1)).reason == "CircuitOpen"
    turn = await bus.settle(model, LIMITS, changed)
    assert turn.state.breaker is Breaker.HALF_OPEN
    turn = await bus.turn(model, LIMITS, calls=[Call("b", 1), Call("c", 1)])
    assert (turn.admitted, turn.reason) == (1, "CircuitOpen")
    # It did not help: for twice as long. Then it did.
    refused = Settlement("b", "Unavailable", "CredentialsRefused", "the key was refused")
    assert (await bus.settle(model, LIMITS, refused)).state.retry_in_ms > 55_000
    assert (await bus.turn(model, LIMITS, settled=[changed], calls=[Call("d", 1)])).admitted == 1
    assert (await bus.settle(model, LIMITS, Settlement("d"))).state.breaker is Breaker.CLOSED
