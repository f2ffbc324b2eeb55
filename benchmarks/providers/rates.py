"""A provider that allows 600 requests a minute, however it counts them: how much of that is used, what is refused."""

import asyncio
import time
from typing import Any

from installation import Installation, key_of
from stub import POLICIES
from throughput import note

from headrace_bus import Bus

PER_MINUTE = 600
_SETTLE_SECONDS = 10.0
"""From the last runner's start on: that takes the processor from those that run already."""
_SPARE_SECONDS = 40.0
"""For so long the queue would last beyond what is measured: it must not run empty."""


def model_of(policy: str) -> str:
    return f"rate-{policy.replace('_', '-')}"


async def measure(running: Installation, seconds: float) -> dict[str, Any]:
    """All three at once, each with a model, a runner and a stub of its own."""
    count = int(PER_MINUTE / 60 * (seconds + _SPARE_SECONDS))
    # The objects and their envelopes are made here: the operator would put them there as well.
    await running.end_process("operator")
    await asyncio.gather(*(_fill(running, model_of(policy), count) for policy in POLICIES))
    note("queues are filled")
    for policy in POLICIES:
        await running.start_runner(model_of(policy))
    await asyncio.sleep(_SETTLE_SECONDS)
    found = await asyncio.gather(*(_one(running, policy, seconds) for policy in POLICIES))
    return {name: value for each in found for name, value in each.items()}


async def _fill(running: Installation, model: str, count: int) -> None:
    async with Bus.connect(running.server.url) as bus:
        for envelope in await running.queued(model, [f"{model}-{n}" for n in range(count)], 16):
            await bus.enqueue(key_of(model), envelope)


async def _one(running: Installation, policy: str, seconds: float) -> dict[str, Any]:
    model, stub = model_of(policy), running.stubs[model_of(policy)]
    before, begun = await asyncio.to_thread(stub.seen), time.monotonic()
    await asyncio.sleep(seconds)
    after, minutes = await asyncio.to_thread(stub.seen), (time.monotonic() - begun) / 60
    served, refused = (after[name] - before[name] for name in ("served", "refused"))
    async with Bus.connect(running.server.url) as bus:
        if not (await bus.stats(key_of(model))).queued:
            raise RuntimeError(f"{model}: the queue ran empty")
    note(f"{policy}: {served} answered within {minutes:.2f} min, {refused} refused")
    return {
        f"rate_{policy}": round(served / (PER_MINUTE * minutes), 3),
        f"refused_{policy}": round(refused / (served + refused), 4),
    }
