"""One pod's way through the gate: who waits, who is turned away, what is claimed; on a virtual clock."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from headrace_bus import BusUnavailable, Call, GateLimits, ModelKey, Settlement, Turn
from headrace_crds.reasons import Reason
from headrace_crds.remote import Remote
from headrace_runner.providers.protocol import Fault
from headrace_runner.remote.call_gate import CallGate, NotAdmitted
from headrace_runner.remote.gate import ADMIT_SECONDS, Gate, limits_of
from headrace_runner.remote.gate_state import Breaker, GateState
from tests.contract.bus.gate_reference import GateReference
from tests.virtual_time import VirtualLoop

MODEL = ModelKey("ns", "remote")


class ModelBus:
    """Redis: `away` refuses, `silent` never answers."""

    def __init__(self) -> None:
        self.reference = GateReference()
        self.turns: list[tuple[list[str], list[Settlement]]] = []
        self.renewed: list[list[str]] = []
        self.away = self.silent = False

    async def _reached(self) -> float:
        if self.silent:
            await asyncio.Event().wait()
        if self.away:
            raise BusUnavailable("refused")
        await asyncio.sleep(0.002)
        return float(int(asyncio.get_running_loop().time() * 1000))

    async def turn(
        self, _: ModelKey, limits: GateLimits, *, calls: Sequence[Call] = (), settled: Sequence[Settlement], **__: Any
    ) -> Turn:
        now = await self._reached()
        self.turns.append(([call.id for call in calls], list(settled)))
        return self.reference.turn(now, limits, calls, settled, 30_000)

    async def renew_calls(self, _: ModelKey, ids: Sequence[str], *, lease_ms: int) -> list[bool]:
        now = await self._reached()
        self.renewed.append(sorted(ids))
        return self.reference.renew(now, ids, lease_ms)


async def settle(gate: CallGate, call_id: str, fault: Fault | None = None, reason: str = "", **fields: Any) -> None:
    told = {"message": "why", "tokens": 0, "retry_after_seconds": None, **fields}
    await gate.settle(call_id, fault=fault, reason=reason, **told)


def on_virtual_time(limits: GateLimits, story: Callable[[Gate, ModelBus], Awaitable[None]]) -> None:
    async def told() -> None:
        bus = ModelBus()
        gate = Gate(
            bus, MODEL, limits, "pod-0", monotonic=asyncio.get_running_loop().time, uniform=lambda _, high: high
        )
        running = asyncio.create_task(gate.run())
        try:
            async with asyncio.timeout(3_000):
                await story(gate, bus)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(told())


def test_a_gate_begins_shut_and_opens_with_its_first_answer() -> None:
    async def story(gate: Gate, bus: ModelBus) -> None:
        assert not gate.open.is_set()
        assert (gate.room(), gate.state()) == (0, GateState())
        await gate.open.wait()
        assert gate.room() == 4
        assert gate.state() == GateState(concurrency=4)

    on_virtual_time(GateLimits(4), story)


def test_a_call_costs_two_turns_and_under_load_one() -> None:
    async def story(gate: Gate, bus: ModelBus) -> None:
        await gate.open.wait()
        bus.turns.clear()
        await gate.admit("a", 1)
        await settle(gate, "a")
        await asyncio.sleep(0.01)
        assert [(calls, [each.id for each in ended]) for calls, ended in bus.turns] == [
            (["pod-0:a"], []),
            ([], ["pod-0:a"]),
        ]
        await asyncio.gather(gate.admit("b", 1), gate.admit("c", 1))
        waiting = asyncio.create_task(gate.admit("d", 1))
        await asyncio.sleep(0.1)
        bus.turns.clear()
        await settle(gate, "b")
        await waiting
        assert [(calls, [each.id for each in ended]) for calls, ended in bus.turns] == [(["pod-0:d"], ["pod-0:b"])]

    on_virtual_time(GateLimits(2), story)


def test_the_line_is_first_come_first_served_and_one_asks_for_all() -> None:
    async def story(gate: Gate, bus: ModelBus) -> None:
        await gate.open.wait()
        order: list[int] = []

        async def admitted(number: int) -> None:
            await gate.admit(f"c{number}", 1)
            order.append(number)

        bus.turns.clear()
        await asyncio.gather(*(admitted(number) for number in range(10)))
        assert order == list(range(10))
        # Spaced by a tenth of a second, but for the burst; nobody asks in between.
        assert len(bus.turns) <= 12

    on_virtual_time(GateLimits(64, 600), story)


def test_who_cannot_be_sent_within_a_second_is_turned_away() -> None:
    async def story(gate: Gate, bus: ModelBus) -> None:
        loop = asyncio.get_running_loop()
        await gate.admit("a", 1)
        begun = loop.time()
        with pytest.raises(NotAdmitted) as refused:
            await gate.admit("b", 1)
        assert loop.time() - begun == pytest.approx(1.0, abs=0.1)
        assert refused.value.reason == Reason.RATE_LIMITED
        assert refused.value.message == "1 calls are under way, as many as may be; spec.remote.maxConcurrency is 1"
        assert not gate.open.is_set()
        await settle(gate, "a")
        await gate.open.wait()

    on_virtual_time(GateLimits(1), story)


def test_spent_tokens_shut_the_gate_and_its_state_says_so() -> None:
    async def story(gate: Gate, bus: ModelBus) -> None:
        loop = asyncio.get_running_loop()
        await gate.admit("a", 1_000)
        begun = loop.time()
        with pytest.raises(NotAdmitted, match=r"spec\.remote\.limits\.tokensPerMinute"):
            await gate.admit("b", 1_000)
        assert loop.time() - begun < 0.1
        state = gate.state()
        assert (state.reason, round(state.retry_in_seconds or 0)) == (Reason.RATE_LIMITED, 61)
        assert not gate.open.is_set()
        await gate.open.wait()
        assert 58 < loop.time() - begun < 62
        assert gate.state().reason == ""

    on_virtual_time(GateLimits(8, tokens_per_minute=1_000), story)


@pytest.mark.parametrize(
    ("fault", "retry_after_seconds", "shut_seconds"),
    [
        (Fault.RATE_LIMITED, None, (1.0, 1.5)),
        (Fault.OVERLOADED, 7.0, (7.0, 8.0)),
        (Fault.RATE_LIMITED, 1e9, (3_600.0, 3_606.0)),
        (Fault.UNAVAILABLE, None, (30.0, 33.5)),
    ],
)
def test_a_fault_shuts_the_gate_at_once_and_it_opens_in_time(
    fault: Fault, retry_after_seconds: float | None, shut_seconds: tuple[float, float]
) -> None:
    async def story(gate: Gate, bus: ModelBus) -> None:
        loop = asyncio.get_running_loop()
        await gate.admit("a", 1)
        await gate.open.wait()
        begun = loop.time()
        await settle(gate, "a", fault, "Why", retry_after_seconds=retry_after_seconds)
        assert not gate.open.is_set()
        await asyncio.sleep(0.1)
        broken = fault is Fault.UNAVAILABLE
        if shut_seconds[0] > ADMIT_SECONDS:
            with pytest.raises(NotAdmitted) as refused:
                await gate.admit("b", 1)
            assert refused.value.reason == (Reason.CIRCUIT_OPEN if broken else "Why")
        state = gate.state()
        assert (state.breaker, state.reason) == (Breaker.OPEN if broken else Breaker.CLOSED, "Why")
        assert state.retry_in_seconds == pytest.approx(shut_seconds[0] - 0.1, abs=0.05)
        if shut_seconds[0] < 1_000:
            await gate.open.wait()
            assert shut_seconds[0] <= loop.time() - begun <= shut_seconds[1]
            assert gate.room() == (1 if broken else 4)

    on_virtual_time(GateLimits(8), story)


def test_a_probe_that_is_answered_opens_the_gate() -> None:
    async def story(gate: Gate, bus: ModelBus) -> None:
        await settle(gate, "health/1", Fault.UNAVAILABLE, "CredentialsRefused")
        await asyncio.sleep(0.1)
        await gate.open.wait()
        await gate.admit("probe", 1)
        assert gate.room() == 0
        assert gate.state().breaker is Breaker.HALF_OPEN
        with pytest.raises(NotAdmitted, match="CircuitOpen: calls are held back after CredentialsRefused: why"):
            await gate.admit("b", 1)
        await settle(gate, "probe")
        await gate.open.wait()
        assert gate.state() == GateState(concurrency=8)

    on_virtual_time(GateLimits(8), story)


def test_what_is_claimed_takes_up_room_until_it_has_come() -> None:
    async def story(gate: Gate, bus: ModelBus) -> None:
        await gate.open.wait()
        gate.claimed(3)
        assert gate.room() == 1
        await gate.admit("a", 1)
        assert gate.room() == 1
        gate.claimed(1)
        assert not gate.open.is_set()
        await asyncio.sleep(1.5)
        assert (gate.room(), gate.open.is_set()) == (3, True)

    on_virtual_time(GateLimits(4), story)


@pytest.mark.parametrize(("how", "within_seconds"), [("away", 0.1), ("silent", 1.1)])
def test_without_redis_a_claimed_call_is_sent_after_one_try(how: str, within_seconds: float) -> None:
    async def story(gate: Gate, bus: ModelBus) -> None:
        loop = asyncio.get_running_loop()
        await gate.open.wait()
        setattr(bus, how, True)
        begun = loop.time()
        await asyncio.gather(*(gate.admit(f"c{number}", 1) for number in range(6)))
        assert loop.time() - begun < within_seconds
        await settle(gate, "c0", Fault.TRANSIENT, "ProviderUnreachable")
        assert not [each for _, ended in bus.turns for each in ended]

    on_virtual_time(GateLimits(4), story)


def test_calls_under_way_are_renewed_also_in_a_redis_that_has_forgotten_them() -> None:
    async def story(gate: Gate, bus: ModelBus) -> None:
        await gate.admit("a", 1)
        await gate.admit("b", 1)
        await settle(gate, "a")
        bus.reference = GateReference()
        await asyncio.sleep(25)
        assert bus.renewed[0] == ["pod-0:b"]
        assert 2 <= len(bus.renewed) <= 3
        assert set(bus.reference.calls) == {"pod-0:b"}
        await asyncio.sleep(60)
        assert set(bus.reference.calls) == {"pod-0:b"}

    on_virtual_time(GateLimits(4), story)


def test_a_call_that_is_ended_while_it_waits_takes_no_place() -> None:
    async def story(gate: Gate, bus: ModelBus) -> None:
        await gate.open.wait()
        waiting = asyncio.create_task(gate.admit("a", 1))
        # Its turn is under way.
        await asyncio.sleep(0.001)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.sleep(0.1)
        assert bus.reference.calls == {}
        assert gate.room() == 1

    on_virtual_time(GateLimits(1), story)


def test_what_a_stopping_pod_has_to_tell_is_told() -> None:
    async def story(gate: Gate, bus: ModelBus) -> None:
        running = asyncio.create_task(gate.run())
        await gate.admit("a", 1)
        await settle(gate, "a")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await asyncio.sleep(0.05)
        assert bus.reference.calls == {}

    on_virtual_time(GateLimits(1), story)


def test_the_limits_are_those_of_the_spec() -> None:
    spec = {"provider": "OpenAICompatible", "model": "m", "baseURL": "https://llm.example.com/v1", "maxConcurrency": 7}
    assert limits_of(Remote.model_validate(spec)) == GateLimits(7)
    limited = {**spec, "limits": {"requestsPerMinute": 60, "tokensPerMinute": 1_000}}
    assert limits_of(Remote.model_validate(limited)) == GateLimits(7, 60, 1_000)
