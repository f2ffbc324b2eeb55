"""A provider that allows 600 requests a minute, however it counts them: how much of that is used, what is refused."""

import asyncio
import time
from typing import Any

from installation import Installation, key_of
from stub import POLICIES
from throughput import note

from headrace_bus import Bus

PER_MINUTE = 600
_SPARE = 1.1
"""So many times what the provider allows waits in the queue: it must not run empty."""


def model_of(policy: str) -> str:
    return f"rate-{policy.replace('_', '-')}"


async def measure(running: Installation, seconds: float) -> dict[str, Any]:
    """All three at once, each with a model, a runner and a stub of its own."""
    count = int(PER_MINUTE / 60 * seconds * _SPARE)
    # The objects and their envelopes are made here: the operator would put them there as well.
    await running.end_process("operator")
    await asyncio.gather(*(_fill(running, model_of(policy), count) for policy in POLICIES))
    note("queues are filled")
    for policy in POLICIES:
        await running.start_runner(model_of(policy))
    found = await asyncio.gather(*(_one(running, policy, seconds) for policy in POLICIES))
    return {name: value for each in found for name, value in each.items()}


async def _fill(running: Installation, model: str, count: int) -> None:
    async with Bus.connect(running.server.url) as bus:
        for envelope in await running.queued(model, [f"{model}-{n}" for n in range(count)], 16):
            await bus.enqueue(key_of(model), envelope)


async def _one(running: Installation, policy: str, seconds: float) -> dict[str, Any]:
    model, stub = model_of(policy), running.stubs[model_of(policy)]
    begun: float | None = None
    # The stub is asked, as it counts: there is no event of the first request.
    while begun is None:
        begun = (await asyncio.to_thread(stub.seen))["first"]
        await asyncio.sleep(0.05)
    await asyncio.sleep(begun + seconds - time.monotonic())
    minutes = (time.monotonic() - begun) / 60
    seen = await asyncio.to_thread(stub.seen)
    async with Bus.connect(running.server.url) as bus:
        if not (await bus.stats(key_of(model))).queued:
            raise RuntimeError(f"{model}: the queue ran empty")
    used = seen["served"] / (PER_MINUTE * minutes)
    refused = seen["refused"] / (seen["served"] + seen["refused"])
    note(f"{policy}: {seen['served']} answered within {minutes:.2f} min, {seen['refused']} refused")
    return {f"rate_{policy}": round(used, 3), f"refused_{policy}": round(refused, 4)}
