"""A breaker that failures opened closes although no task comes: the model's health is the call that goes through."""

import asyncio
from typing import Any

import pytest
from redis_server import RedisServer

from headrace_bus import Bus, GateLimits, ModelKey
from headrace_bus.gate import Breaker
from headrace_runner.providers.protocol import Fault
from headrace_runner.remote import backend as remote_backend
from headrace_runner.remote.backend import RemoteBackend
from headrace_runner.remote.gate import Gate

pytestmark = pytest.mark.contract

FAILURES = 5
OPEN_SECONDS = 5


class Well:
    """A provider that nobody asks to generate anything."""

    async def start(self) -> None: ...

    async def check_health(self) -> None: ...

    async def aclose(self) -> None: ...


async def test_a_model_that_nobody_asks_comes_back(
    shared_server: RedisServer, redis: Any, model: ModelKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_backend, "PROBE_EVERY_SECONDS", 0.1)
    provider: Any = Well()
    async with Bus.connect(shared_server.url) as bus:
        gate = Gate(bus, model, GateLimits(8), "pod-1")
        backend = RemoteBackend(lambda: provider, gate)
        parts = [asyncio.create_task(part) for part in backend.parts()]
        try:
            for number in range(FAILURES):
                call_id = f"c{number}"
                await gate.admit(call_id, 10)
                told = {"reason": "ProviderUnreachable", "message": "m", "tokens": 0, "retry_after_seconds": None}
                await gate.settle(call_id, fault=Fault.TRANSIENT, **told)
            async with asyncio.timeout(OPEN_SECONDS / 2):
                while (await bus.gate(model)).breaker is not Breaker.OPEN:  # noqa: ASYNC110  Redis tells nobody
                    await asyncio.sleep(0.01)
            async with asyncio.timeout(OPEN_SECONDS * 2):
                while (await bus.gate(model)).breaker is not Breaker.CLOSED:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            async with asyncio.timeout(2):
                await backend.wait_ready()
            assert (await bus.gate(model)).under_way == 0
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
