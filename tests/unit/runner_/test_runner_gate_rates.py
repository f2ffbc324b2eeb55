"""What providers see of a gate: as much as they allow, and next to nothing above. Minutes of it, on a virtual clock.

The gate is the runner's own; Redis is the Python model which `test_bus_gate_machine` holds against the Lua.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from headrace_bus import Call, GateLimits, ModelKey, Settlement, Turn
from headrace_runner.providers.protocol import Fault
from headrace_runner.remote.call_gate import NotAdmitted
from headrace_runner.remote.gate import Gate
from tests.contract.bus.gate_reference import GateReference
from tests.contract.bus.providers_limits import FixedWindow, Limit, SlidingWindow, TokenBucket
from tests.virtual_time import VirtualLoop

MODEL = ModelKey("ns", "remote")
ROUND_TRIP_SECONDS = 0.002
MINUTES = 2


class ModelBus:
    """Redis as the pods of one model see it."""

    def __init__(self) -> None:
        self.reference = GateReference()
        self.turns = 0

    def _now_ms(self) -> float:
        return float(int(asyncio.get_running_loop().time() * 1000))

    async def turn(
        self,
        _: ModelKey,
        limits: GateLimits,
        *,
        calls: Sequence[Call],
        settled: Sequence[Settlement],
        lease_ms: int = 0,
    ) -> Turn:
        self.turns += 1
        await asyncio.sleep(ROUND_TRIP_SECONDS / 2)
        told = self.reference.turn(self._now_ms(), limits, calls, settled, lease_ms, random.random())
        await asyncio.sleep(ROUND_TRIP_SECONDS / 2)
        return told

    async def renew_calls(self, _: ModelKey, ids: Sequence[str], *, lease_ms: int) -> list[bool]:
        await asyncio.sleep(ROUND_TRIP_SECONDS)
        return self.reference.renew(self._now_ms(), ids, lease_ms)


class Provider:
    """Counts what it takes and what it refuses; an answer is as long on its way as it likes."""

    def __init__(self, limit: Limit, *, seconds: tuple[float, float], places: int = 10_000, cost: bool = False) -> None:
        self.counts: Counter[str] = Counter()
        self.refused_at: list[float] = []
        self.most = 0
        self._limit, self._seconds, self._places, self._cost = limit, seconds, places, cost
        self._busy = 0
        self.busy_seconds = 0.0

    async def call(self, tokens: int) -> Fault | None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(random.uniform(0.01, 0.15))
        if self._busy >= self._places or not self._limit.allows(loop.time(), tokens if self._cost else 1):
            self.counts["429"] += 1
            self.refused_at.append(loop.time())
            await asyncio.sleep(0.03)
            return Fault.RATE_LIMITED
        self._busy += 1
        self.most = max(self.most, self._busy)
        seconds = random.uniform(*self._seconds)
        await asyncio.sleep(seconds)
        self._busy -= 1
        self.busy_seconds += seconds
        self.counts["taken"] += 1
        self.counts["tokens"] += tokens
        return None


async def minutes_of(
    provider: Provider,
    limits: GateLimits,
    *,
    pods: int = 1,
    in_flight: int = 64,
    tokens: Callable[[], int] = lambda: 100,
    minutes: float = MINUTES,
) -> tuple[Counter[str], ModelBus]:
    """So many tasks at a time in each of the pods, for ever new ones; a released one costs a moment."""
    bus, released, number = ModelBus(), Counter[str](), 0
    loop = asyncio.get_running_loop()

    async def slot(gate: Gate) -> None:
        nonlocal number
        while True:
            while not gate.open.is_set():
                await gate.open.wait()
                # As a claim, which takes a moment.
                await asyncio.sleep(0.003)
            gate.claimed(1)
            number += 1
            call_id, cost = f"c{number}", tokens()
            try:
                await gate.admit(call_id, cost)
            except NotAdmitted as error:
                released[error.reason] += 1
                await asyncio.sleep(0.05)
                continue
            fault = await provider.call(cost)
            await gate.settle(
                call_id,
                fault=fault,
                reason="RateLimited" if fault else "",
                message="",
                tokens=0 if fault else cost,
                retry_after_seconds=None,
            )

    gates = [Gate(bus, MODEL, limits, f"pod-{pod}", monotonic=loop.time) for pod in range(pods)]
    tasks = [asyncio.create_task(gate.run()) for gate in gates]
    tasks += [asyncio.create_task(slot(gate)) for gate in gates for _ in range(in_flight // pods)]
    await asyncio.sleep(60 * minutes)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
    return released, bus


def simulated(provider: Provider, limits: GateLimits, **options) -> tuple[Counter[str], ModelBus]:
    random.seed(7)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(minutes_of(provider, limits, **options))


def small_bucket(per_minute: int) -> Limit:
    """It holds what is allowed in a second."""
    return TokenBucket(per_minute, 1.0)


@pytest.mark.parametrize(
    ("kind", "rate", "pods"),
    [
        (FixedWindow, 600, 1),
        (SlidingWindow, 600, 1),
        (TokenBucket, 600, 1),
        (small_bucket, 600, 1),
        (SlidingWindow, 600, 4),
        (FixedWindow, 30, 4),
        (SlidingWindow, 3_000, 1),
    ],
)
def test_a_provider_sees_what_it_allows_and_hardly_more(kind: Callable[[int], Limit], rate: int, pods: int) -> None:
    provider = Provider(kind(rate), seconds=(0.2, 0.6))
    released, bus = simulated(provider, GateLimits(256, rate), pods=pods)
    taken, refused = provider.counts["taken"], provider.counts["429"]
    achieved = taken / (rate * MINUTES)
    per_call = bus.turns / taken
    print(
        f"{rate}/min, {pods} pods: {achieved:.1%} achieved, {refused} of {taken} refused, "
        f"{sum(released.values())} released, {per_call:.2f} round trips a call"
    )
    assert achieved >= 0.95
    assert refused <= 0.01 * taken
    # Pods that see the same place claim for it together: some of a few.
    assert sum(released.values()) <= 20 + 0.1 * taken


@pytest.mark.parametrize("kind", [FixedWindow, SlidingWindow, TokenBucket])
def test_tokens_per_minute_are_spread_likewise(kind: Callable[[int], Limit]) -> None:
    rate = 600_000
    provider = Provider(kind(rate), seconds=(0.2, 2.0), cost=True)
    limits = GateLimits(256, tokens_per_minute=rate)
    released, _ = simulated(provider, limits, tokens=lambda: random.randrange(100, 3_000))
    achieved = provider.counts["tokens"] / (rate * MINUTES)
    print(f"{achieved:.1%} of the tokens, {provider.counts['429']} of {provider.counts['taken']} refused")
    assert achieved >= 0.95
    assert provider.counts["429"] <= 0.01 * provider.counts["taken"]
    assert sum(released.values()) <= 20 + provider.counts["taken"]


def test_concurrency_settles_near_what_the_provider_takes() -> None:
    provider = Provider(TokenBucket(1_000_000), seconds=(0.5, 1.5), places=8)
    simulated(provider, GateLimits(32), in_flight=64, minutes=6)
    mean = provider.busy_seconds / (6 * 60)
    # Every try above it is one refusal; those of the first seconds are how it is found.
    late = sum(at > 1_000 + 60 for at in provider.refused_at)
    print(f"{mean:.1f} at a time, {late} of {provider.counts['taken']} refused after the first minute")
    assert mean >= 6.5
    assert late <= 0.01 * provider.counts["taken"]
    assert provider.counts["429"] <= 0.02 * provider.counts["taken"]
