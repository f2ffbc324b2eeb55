"""A provider that allows 600 requests a minute, however it counts them: how much of that is used, what is refused."""

import asyncio
import time
from typing import Any

from installation import Installation, key_of
from stub import POLICIES
from throughput import note

from headrace_bus import Bus

PER_MINUTE = 600
_AHEAD = 60
"""Tasks that wait at any time: enough for the runner's next seconds."""


def model_of(policy: str) -> str:
    return f"rate-{policy.replace('_', '-')}"


async def measure(running: Installation, seconds: float) -> dict[str, Any]:
    """All three at once, each with a model, a runner and a stub of its own."""
    for policy in POLICIES:
        await running.start_runner(model_of(policy))
    # The objects and their envelopes are made here: the operator would put them there as well.
    await running.end_process("operator")
    found = await asyncio.gather(*(_one(running, policy, seconds) for policy in POLICIES))
    return {name: value for each in found for name, value in each.items()}


async def _one(running: Installation, policy: str, seconds: float) -> dict[str, Any]:
    model, stub = model_of(policy), running.stubs[model_of(policy)]
    made = 0
    async with Bus.connect(running.server.url) as bus:
        begun: float | None = None
        while begun is None or time.monotonic() < begun + seconds:
            queued = (await bus.stats(key_of(model))).queued
            if queued < _AHEAD:
                names = [f"{model}-{n}" for n in range(made, made + _AHEAD // 2)]
                made += len(names)
                for envelope in await running.queued(model, names, 4):
                    await bus.enqueue(key_of(model), envelope)
            begun = (await asyncio.to_thread(stub.seen))["first"]
            await asyncio.sleep(0.25)
        seen = await asyncio.to_thread(stub.seen)
        minutes = (time.monotonic() - begun) / 60
    used = seen["served"] / (PER_MINUTE * minutes)
    refused = seen["refused"] / (seen["served"] + seen["refused"])
    note(f"{policy}: {seen['served']} answered within {minutes:.2f} min, {seen['refused']} refused")
    return {f"rate_{policy}": round(used, 3), f"refused_{policy}": round(refused, 4)}
