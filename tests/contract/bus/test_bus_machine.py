"""Any sequence of transitions: the Lua and a plain Python model of it answer the same and hold the same."""

import asyncio
from collections.abc import Awaitable
from typing import ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis
from redis_server import RedisServer
from reference import Reference

from headrace_bus import (
    Bus,
    EntryState,
    Envelope,
    Failure,
    Interruption,
    LeaseToken,
    ModelKey,
    ReturnReason,
    Stats,
    WorkClass,
)
from headrace_bus.keys import key_prefix

pytestmark = pytest.mark.contract

T = TypeVar("T")

MODEL = ModelKey("ns", "machine")
PREFIX = key_prefix(MODEL)
LEASE_MS = 3_600_000
UIDS = [f"u{number}" for number in range(8)]


class Machine(RuleBasedStateMachine):
    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.bus = Bus.connect(self.url)
        self.redis = Redis.from_url(self.url, decode_responses=True)
        self.run(self.redis.flushall())
        self.reference = Reference()
        self.tokens = [LeaseToken("u0", 1, "never-issued")]

    def run(self, call: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await call

        return self.runner.run(awaited())

    def teardown(self) -> None:
        self.run(self.bus.aclose())
        self.run(self.redis.aclose())
        self.runner.close()

    @rule(
        uid=st.sampled_from(UIDS),
        attempt=st.integers(1, 3),
        kind=st.sampled_from(WorkClass),
        namespace=st.sampled_from("abc"),
        priority=st.integers(-1, 1),
        cost=st.sampled_from([0, 1, 10, 25]),
        delayed=st.integers(0, 4).map(lambda number: number == 0),
    )
    def enqueue(self, uid, attempt, kind, namespace, priority, cost, delayed) -> None:
        held = self.reference.held.get(uid)
        if held is not None and held.envelope.attempt == attempt:
            # What one attempt may change while it waits is its priority.
            kind, namespace, cost = held.envelope.kind, held.envelope.namespace, held.envelope.cost_tokens
        envelope = Envelope(uid, kind, namespace, uid, attempt, 1_700_000_000_000, priority, cost, {"attempt": attempt})
        not_before = 2**50 if delayed else None
        outcome = self.run(self.bus.enqueue(MODEL, envelope, not_before_ms=not_before))
        assert outcome is self.reference.enqueue(envelope, delayed=delayed)

    @rule(count=st.integers(1, 4))
    def claim(self, count: int) -> None:
        deliveries = self.run(self.bus.claim(MODEL, worker="w", count=count, lease_ms=LEASE_MS))
        assert [delivery.envelope for delivery in deliveries] == self.reference.claim(count)
        for delivery in deliveries:
            self.reference.held[delivery.token.uid].nonce = delivery.token.nonce
            self.tokens.append(delivery.token)

    def token(self, data: st.DataObject) -> LeaseToken:
        token: LeaseToken = data.draw(st.sampled_from(self.tokens[-6:]))
        return token

    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        token = self.token(data)
        kept = self.run(self.bus.renew(MODEL, [token], lease_ms=LEASE_MS))
        assert kept == [self.reference.renew(token)]

    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        token = self.token(data)
        done = self.run(self.bus.complete(MODEL, token, result={"attempt": token.attempt}))
        assert done == self.reference.complete(token)

    @rule(data=st.data(), failed=st.booleans())
    def hand_back(self, data: st.DataObject, failed: bool) -> None:
        token = self.token(data)
        if failed:
            done = self.run(self.bus.fail(MODEL, token, Failure("No", "no")))
            assert done == self.reference.hand_back(token, ReturnReason.FAILED)
        else:
            done = self.run(self.bus.release(MODEL, token, "Drain"))
            assert done == self.reference.hand_back(token, ReturnReason.RELEASED)

    @rule(uid=st.sampled_from(UIDS))
    def time_passes(self, uid: str) -> None:
        """The lease or the delay of this entry is over."""
        held = self.reference.held.get(uid)
        if held is not None and held.state in (EntryState.LEASED, EntryState.DELAYED):
            held.due = True
            key = "leases" if held.state is EntryState.LEASED else "delayed"
            assert self.run(self.redis.zadd(f"{PREFIX}{key}", {uid: 1}, xx=True)) == 0

    @rule(limit=st.integers(1, 4))
    def reap(self, limit: int) -> None:
        assert self.run(self.bus.reap(MODEL, limit=limit)) == self.reference.sweep(limit)

    @rule(uid=st.sampled_from(UIDS))
    def remove(self, uid: str) -> None:
        assert self.run(self.bus.remove(MODEL, uid)) == self.reference.remove(uid)

    @rule(uid=st.sampled_from(UIDS), attempt=st.integers(1, 3), seen=st.sampled_from([None, *EntryState]))
    def withdraw(self, uid: str, attempt: int, seen: EntryState | None) -> None:
        seen = seen if seen in (EntryState.LEASED, EntryState.RETURNED) else None
        gone = self.run(self.bus.withdraw(MODEL, uid, attempt, seen=seen))
        assert gone == self.reference.withdraw(uid, attempt, seen)

    @rule(uid=st.sampled_from(UIDS), word=st.sampled_from(Interruption))
    def interrupt(self, uid: str, word: Interruption) -> None:
        told = self.run(self.bus.interrupt(MODEL, uid, word))
        assert told == ("w" if self.reference.interrupt(uid, word) else None)

    @rule()
    def listen(self) -> None:
        told = self.run(self.bus.interruptions(MODEL, "w", timeout_s=0))
        assert told == self.reference.told
        assert [each.nonce for each in told] == [each.nonce for each in self.reference.told]
        self.reference.told = []

    @rule(data=st.data())
    def park(self, data: st.DataObject) -> None:
        token = self.token(data)
        parked = self.run(self.bus.park(MODEL, token, {"nonce": token.nonce}))
        assert parked == self.reference.hand_back(token, ReturnReason.PARKED)
        if parked:
            read = self.run(self.bus.parked(MODEL, token.uid, token.attempt))
            assert read == {"nonce": token.nonce}
            assert self.run(self.bus.parked(MODEL, token.uid, token.attempt + 1)) is None

    @rule(weights=st.dictionaries(st.sampled_from("abc"), st.sampled_from([0.5, 2, 3, 1000])))
    def set_weights(self, weights: dict[str, float]) -> None:
        self.run(self.bus.set_weights(MODEL, weights))
        self.reference.weights = weights

    async def observe(self) -> tuple[Stats, dict[str, list[str]], set[str], dict[str, str]]:
        """Counts; attempt, state and reason of every entry; keys; completed attempts."""
        async with self.redis.pipeline(transaction=False) as pipeline:
            pipeline.keys(f"{PREFIX}*")
            # The run may cross from one bucket of ten minutes into the next.
            for back in (1, 0):
                pipeline.hgetall(f"{PREFIX}done:{await self.bus.server_time_ms() // 600_000 - back}")
            for uid in UIDS:
                pipeline.hmget(f"{PREFIX}entry:{uid}", "attempt", "state", "reason")
            keys, before, lately, *entries = await pipeline.execute()
        done = {uid: text.partition(" ")[0] for uid, text in (before | lately).items()}
        held = {uid: entry for uid, entry in zip(UIDS, entries, strict=True) if entry[0] is not None}
        return await self.bus.stats(MODEL), held, {key.removeprefix(PREFIX) for key in keys}, done

    @invariant()
    def both_hold_the_same(self) -> None:
        stats, entries, keys, done = self.run(self.observe())
        held = self.reference.held
        counted = [stats.queued, stats.delayed, stats.leased, stats.returned]
        assert counted == [len(self.reference.in_state(state)) for state in EntryState]
        assert entries == {uid: [str(each.envelope.attempt), each.state, each.reason] for uid, each in held.items()}
        assert "wake" in keys or stats.queued == 0

        # Keys that belong to nothing held are a leak.
        def uids(kind: str) -> set[str]:
            return {key.removeprefix(f"{kind}:") for key in keys if key.startswith(f"{kind}:")}

        assert uids("entry") == set(held)
        assert uids("envelope") == {uid for uid, each in held.items() if each.state is not EntryState.RETURNED}
        assert done == {uid: str(attempt) for uid, attempt in self.reference.completed.items()}
        assert uids("result") <= set(done)
        parked = {uid for uid, each in held.items() if each.reason is ReturnReason.PARKED}
        assert uids("parked") == parked
        assert ("parked" in keys) == bool(parked)
        assert uids("inbox") == ({"w"} if self.reference.told else set())
        for kind, ring in self.reference.rings.items():
            assert uids(f"queue:{kind}") == set(ring.start)
            assert (f"finish:{kind}" in keys) == bool(ring.finish)
        if not held:
            assert not keys & {"index", "queued", "delayed", "leases", "returned", "wake", "seq", "clock", "pulse"}


def test_lua_and_model_agree(shared_server: RedisServer) -> None:
    Machine.url = shared_server.url
    limits = settings(
        max_examples=30,
        stateful_step_count=40,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=limits)
