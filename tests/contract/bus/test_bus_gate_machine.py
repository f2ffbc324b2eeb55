"""Any sequence of turns, renewals and time: the Lua of a remote model's gate and a Python model of it agree."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import ClassVar, TypeVar

import pytest
from gate_reference import GateReference
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.asyncio import Redis
from redis_server import RedisServer

from headrace_bus import Bus, Call, GateLimits, ModelKey, Settlement
from headrace_bus.keys import key_prefix

pytestmark = pytest.mark.contract

T = TypeVar("T")

MODEL = ModelKey("ns", "remote")
PREFIX = key_prefix(MODEL)
IDS = [f"c{number}" for number in range(6)]
FAULTS = [None, None, None, "RateLimited", "Overloaded", "Transient", "Transient", "Unavailable", "Terminal"]
NUMBERS = ("requests", "tokens", "limit", "ceiling", "cut", "pause", "pauses", "shut", "open", "failures")
TEXTS = ("probe", "reason", "message", "pause_reason", "pause_message")
TIMES = ("requests", "tokens", "cut", "pause", "shut")

SETTLEMENTS = st.builds(
    Settlement,
    id=st.sampled_from(IDS),
    fault=st.sampled_from(FAULTS),
    reason=st.sampled_from(["", "", "Cancelled", "RateLimited", "Changed"]),
    message=st.sampled_from(["", "wait a little", "ö" * 200]),
    tokens=st.sampled_from([None, 0, 10, 5_000]),
    retry_after_ms=st.sampled_from([None, None, 0, 1_500, 90_000, 10_000_000]),
)
LIMITS = st.builds(
    GateLimits,
    max_concurrency=st.sampled_from([1, 3, 4]),
    requests_per_minute=st.sampled_from([None, 60, 600, 100_000]),
    tokens_per_minute=st.sampled_from([None, 1_000, 60_000, 1_000_000]),
)


class GateMachine(RuleBasedStateMachine):
    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.bus = Bus.connect(self.url)
        self.redis = Redis.from_url(self.url, decode_responses=True)
        self.run(self.redis.flushall())
        self.reference = GateReference()

    def run(self, call: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await call

        return self.runner.run(awaited())

    def teardown(self) -> None:
        self.run(self.bus.aclose())
        self.run(self.redis.aclose())
        self.runner.close()

    @rule(
        limits=LIMITS,
        calls=st.lists(st.builds(Call, st.sampled_from(IDS), st.sampled_from([0, 100, 3_000])), max_size=3),
        settled=st.lists(SETTLEMENTS, max_size=3),
        lease_ms=st.sampled_from([20_000, 200_000]),
        spread=st.sampled_from([0.0, 0.3, 1.0]),
    )
    def turn(self, limits, calls, settled, lease_ms: int, spread: float) -> None:
        told = self.run(self.bus.turn(MODEL, limits, calls=calls, settled=settled, lease_ms=lease_ms, spread=spread))
        assert told == self.reference.turn(told.at_ms, limits, calls, settled, lease_ms, spread)

    @rule(fault=st.sampled_from(FAULTS), limits=LIMITS)
    def settle_what_is_under_way(self, fault: str | None, limits: GateLimits) -> None:
        settled = [Settlement(call, fault, "Why" if fault else "", "") for call in sorted(self.reference.calls)]
        told = self.run(self.bus.turn(MODEL, limits, settled=settled, spread=0.0))
        assert told == self.reference.turn(told.at_ms, limits, settled=settled)

    @precondition(lambda self: self.reference.shut > 0)
    @rule(ms=st.sampled_from([6_000, 31_000, 61_000, 301_000]), fault=st.sampled_from(FAULTS))
    def probe(self, ms: int, fault: str | None) -> None:
        self.time_passes(ms)
        limits = GateLimits(4)
        calls = [Call("p0", 1), Call("p1", 1)]
        told = self.run(self.bus.turn(MODEL, limits, calls=calls, spread=0.0))
        assert told == self.reference.turn(told.at_ms, limits, calls)
        settled = [Settlement(call.id, fault, "Why" if fault else "", "") for call in calls]
        told = self.run(self.bus.turn(MODEL, limits, settled=settled, spread=0.0))
        assert told == self.reference.turn(told.at_ms, limits, settled=settled)

    @rule(ids=st.lists(st.sampled_from(IDS), unique=True, min_size=1, max_size=3))
    def renew(self, ids: list[str]) -> None:
        before = self.run(self.bus.server_time_ms())
        kept = self.run(self.bus.renew_calls(MODEL, ids, lease_ms=60_000))
        assert kept == self.reference.renew(before, ids, 60_000)
        # What the reply does not tell.
        for call in ids:
            ends = self.run(self.redis.zscore(f"{PREFIX}calls", call))
            assert 0 <= ends - self.reference.calls[call] < 5_000
            self.reference.calls[call] = ends

    @rule(ms=st.sampled_from([40, 300, 1_100, 6_000, 31_000, 301_000, 3_700_000]))
    def time_passes(self, ms: int) -> None:
        self.run(self._age(ms))
        self.reference.pass_time(ms)

    async def _age(self, ms: int) -> None:
        """As if everything had happened so much earlier."""
        for name in TIMES:
            text = await self.redis.hget(f"{PREFIX}gate", name)
            if text is not None and float(text):
                await self.redis.hset(f"{PREFIX}gate", name, repr(max(0.0, float(text) - ms)))
        for call, ends in await self.redis.zrange(f"{PREFIX}calls", 0, -1, withscores=True):
            await self.redis.zadd(f"{PREFIX}calls", {call: ends - ms})
        for call, ends in await self.redis.zrange(f"{PREFIX}waiting", 0, -1, withscores=True):
            await self.redis.zadd(f"{PREFIX}waiting", {call: ends - ms})
        # Of the real time, which has not passed.
        await self.redis.persist(f"{PREFIX}waiting")
        for call, text in (await self.redis.hgetall(f"{PREFIX}booked")).items():
            tokens, at = text.split()
            await self.redis.hset(f"{PREFIX}booked", call, f"{tokens} {int(at) - ms}")

    @rule()
    def everything_is_forgotten(self) -> None:
        self.run(self.redis.flushall())
        self.reference = GateReference()

    @invariant()
    def both_hold_the_same(self) -> None:
        held, calls, booked, told, ttls, now = self.run(self._observe())
        if self.reference.limit:
            assert {name: float(held[name]) for name in NUMBERS} == {
                name: pytest.approx(getattr(self.reference, name), rel=0, abs=1e-6) for name in NUMBERS
            }
            assert {name: held[name] for name in TEXTS} == {name: getattr(self.reference, name) for name in TEXTS}
            assert len(calls) <= 6
        else:
            assert held == {}
        assert calls == self.reference.calls
        assert booked == {call: f"{tokens} {at:.0f}" for call, (tokens, at) in self.reference.booked.items()}
        assert all(0 < ttl <= 7_200_000 for ttl in ttls)
        expected = self.reference.state(now)
        # A second may begin between the two questions.
        assert replace(told, retry_in_ms=0) == replace(expected, retry_in_ms=0) or self._turns_now(now)
        assert abs(told.retry_in_ms - expected.retry_in_ms) < 2_000

    def _turns_now(self, now: int) -> bool:
        """Something of it changes while it is looked at."""
        moments = [self.reference.shut, self.reference.pause, *self.reference.calls.values()]
        return any(0 <= now - moment < 2_000 for moment in moments)

    async def _observe(self):
        keys = [
            key
            for key in await self.redis.keys(f"{PREFIX}*")
            if ":requests:" not in key and not key.endswith(":waiting")
        ]
        return (
            await self.redis.hgetall(f"{PREFIX}gate"),
            dict(await self.redis.zrange(f"{PREFIX}calls", 0, -1, withscores=True)),
            await self.redis.hgetall(f"{PREFIX}booked"),
            await self.bus.gate(MODEL),
            [await self.redis.pttl(key) for key in keys],
            await self.bus.server_time_ms(),
        )


def test_lua_and_model_of_the_gate_agree(shared_server: RedisServer) -> None:
    GateMachine.url = shared_server.url
    limits = settings(
        max_examples=40,
        stateful_step_count=30,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(GateMachine, settings=limits)
