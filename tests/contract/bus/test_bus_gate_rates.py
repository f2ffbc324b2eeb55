"""Two pods, a real Redis and a provider that counts: some seconds of what the simulations say of minutes."""

import asyncio
import time
from collections import Counter

import pytest
from providers_limits import TokenBucket
from redis_server import RedisServer

from headrace_bus import Bus, GateLimits, ModelKey
from headrace_runner.providers.protocol import Fault
from headrace_runner.remote.call_gate import NotAdmitted
from headrace_runner.remote.gate import Gate

pytestmark = pytest.mark.contract

PER_MINUTE = 1_200
SECONDS = 8.0


async def test_two_pods_send_what_is_allowed_together(shared_server: RedisServer, redis, model: ModelKey) -> None:
    limit, counts, number = TokenBucket(PER_MINUTE, 1.5), Counter[str](), 0
    ends = time.monotonic() + SECONDS

    async def slot(gate: Gate) -> None:
        nonlocal number
        while time.monotonic() < ends:
            await gate.open.wait()
            if gate.room() == 0:
                continue
            gate.claimed(1)
            number += 1
            call_id = f"c{number}"
            try:
                await gate.admit(call_id, 10)
            except NotAdmitted:
                counts["released"] += 1
                continue
            taken = limit.allows(time.monotonic())
            counts["taken" if taken else "429"] += 1
            if taken:
                await asyncio.sleep(0.3)
            fault = None if taken else Fault.RATE_LIMITED
            told = {"reason": "" if taken else "RateLimited", "message": "", "tokens": 10, "retry_after_seconds": None}
            await gate.settle(call_id, fault=fault, **told)

    async with Bus.connect(shared_server.url) as one, Bus.connect(shared_server.url) as other:
        gates = [Gate(bus, model, GateLimits(64, PER_MINUTE), f"pod-{name}") for name, bus in enumerate((one, other))]
        running = [asyncio.create_task(gate.run()) for gate in gates]
        try:
            async with asyncio.timeout(SECONDS + 5):
                await asyncio.gather(*(slot(gate) for gate in gates for _ in range(32)))
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        # What the stopping pods had to tell is told.
        assert (await one.gate(model)).under_way == 0
    achieved = counts["taken"] / (PER_MINUTE / 60 * SECONDS)
    print(f"{achieved:.1%} achieved: {dict(counts)}")
    assert achieved >= 0.95
    assert counts["429"] <= 0.01 * counts["taken"]
