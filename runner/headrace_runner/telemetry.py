"""Publishes what the engine's container tells of its GPUs: every two seconds, for five.

The runner sees no GPU: it reads the file that the engine writes beside its state, and trusts it as little.
"""

import asyncio
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import structlog

from headrace_bus import Bus, BusError, ModelKey
from headrace_runner.engine.gpu import EVERY_SECONDS, read_telemetry, telemetry_path

TTL_MS: Final = 5_000
_STALE_SECONDS: Final = TTL_MS / 1000

_log = structlog.get_logger()


class GpuTelemetry:
    """Run ``run`` as a task; a model without a GPU has no file, and nothing is published."""

    def __init__(self, bus: Bus, model: ModelKey, pod: str, engine_state: Path) -> None:
        self._bus = bus
        self._model = model
        self._pod = pod
        self._path = telemetry_path(engine_state)

    async def run(self) -> None:
        while True:
            await self.publish()
            await asyncio.sleep(EVERY_SECONDS)

    async def publish(self) -> None:
        """Pass on what was written last, once. What is older than its TTL is not news."""
        if (gpus := await asyncio.to_thread(self._read)) is None:
            return
        try:
            await self._bus.telemetry(self._model, self._pod, gpus, ttl_ms=TTL_MS)
        except BusError as error:
            _log.warning("telemetry not published", reason=error.reason)

    def _read(self) -> list[dict[str, Any]] | None:
        try:
            if abs(time.time() - self._path.lstat().st_mtime) > _STALE_SECONDS:
                return None
            return [_wire(asdict(device)) for device in read_telemetry(self._path)]
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _log.warning("telemetry unreadable", error=type(error).__name__)
            return None


def _wire(device: dict[str, Any]) -> dict[str, Any]:
    """camelCase as in reports; what the device does not tell is left out."""
    return {
        "".join(part.title() if index else part for index, part in enumerate(name.split("_"))): value
        for name, value in device.items()
        if value is not None
    }
