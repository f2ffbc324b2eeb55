"""GPU telemetry on its way: the engine's file, the runner, Redis with its time to live, a reader."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from headrace_bus import FACADE_ACL, Bus, BusCorrupt, ModelKey
from headrace_runner.engine.gpu import GpuDevice, telemetry_path, write_devices
from headrace_runner.telemetry import TTL_MS, GpuTelemetry
from tests.contract.redis_server import redis_server

pytestmark = pytest.mark.contract

MODEL = ModelKey("team-a", "qwen3-8b")
GPU = GpuDevice("GPU-1", "Stub A", 8 << 30, 6 << 30, 2 << 30, 37, 54, 71_000)
INSTANCE = GpuDevice("MIG-1", "Stub A MIG", 4 << 30, 4 << 30, 0)


async def test_what_the_engine_writes_can_be_read_for_five_seconds(tmp_path: Path) -> None:
    state = tmp_path / "engine.json"
    with redis_server() as server:
        async with Bus.connect(server.url) as bus:
            await bus.check()
            telemetry = GpuTelemetry(bus, MODEL, "pod-a", state)
            await telemetry.publish()
            assert await bus.gpus(MODEL, "pod-a") == []
            write_devices(telemetry_path(state), (GPU, INSTANCE))
            await telemetry.publish()
            first, second = await bus.gpus(MODEL, "pod-a")
            assert first == {
                "uuid": "GPU-1",
                "name": "Stub A",
                "totalBytes": 8 << 30,
                "freeBytes": 6 << 30,
                "usedBytes": 2 << 30,
                "utilizationPercent": 37,
                "temperatureCelsius": 54,
                "powerMilliwatts": 71_000,
            }
            assert set(second) == {"uuid", "name", "totalBytes", "freeBytes", "usedBytes"}
            assert await bus.gpus(MODEL, "pod-b") == []
            until = time.monotonic() + 30
            while await bus.gpus(MODEL, "pod-a"):
                assert time.monotonic() < until
                await asyncio.sleep(0.2)
            # The engine fell silent: its last word is no news.
            old = time.time() - 2 * TTL_MS / 1000
            os.utime(telemetry_path(state), (old, old))
            await telemetry.publish()
            assert await bus.gpus(MODEL, "pod-a") == []


@pytest.mark.parametrize("content", ["[", "{}", "[1]", '[{"uuid": "x"}]', "[" * 60_000, "[" * 70_000])
async def test_a_file_that_is_none_publishes_nothing(tmp_path: Path, content: str) -> None:
    state = tmp_path / "engine.json"
    telemetry_path(state).write_text(content)
    with redis_server() as server:
        async with Bus.connect(server.url) as bus:
            await bus.check()
            await GpuTelemetry(bus, MODEL, "pod-a", state).publish()
            assert await bus.gpus(MODEL, "pod-a") == []


async def test_what_a_hostile_runner_tells_is_corrupt_and_no_more() -> None:
    with redis_server() as server:
        async with Bus.connect(server.url) as bus:
            await bus.check()
            await bus.telemetry(MODEL, "pod-a", [1], ttl_ms=TTL_MS)  # type: ignore[list-item]
            with pytest.raises(BusCorrupt):
                await bus.gpus(MODEL, "pod-a")
    assert any("gpus:*" in rule for rule in FACADE_ACL)
