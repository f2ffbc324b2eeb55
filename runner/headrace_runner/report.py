"""Tells the operator every two seconds, through the bus, how engine and runner fare."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import structlog

from headrace_bus import Bus, BusError, ModelKey
from headrace_crds.model import EngineInfo
from headrace_runner.backend import Backend
from headrace_runner.engine.client import EngineModel, EngineState, Stage
from headrace_runner.remote.gate_state import GateState
from headrace_runner.slots import Slots

EVERY_SECONDS: Final = 2.0
TTL_MS: Final = 10_000
_LOOKS: Final = 10
_NOTE_CHARS: Final = 512
_REASON_CHARS: Final = 64
_FORBIDDEN: Final = (
    "the API server forbids this runner to commit results: is its RoleBinding there, and its Role, and are the tasks "
    "assigned to it?"
)

_log = structlog.get_logger()


def build(
    state: EngineState,
    slots: Slots,
    generation: int,
    *,
    commit_forbidden: bool = False,
    gate: GateState | None = None,
) -> dict[str, Any]:
    """The report as docs/architecture.md has it."""
    message = state.message
    if commit_forbidden and not message:
        message = _FORBIDDEN
    report = {
        "state": state.state.value,
        "reason": state.reason,
        "message": message,
        "sinceMs": state.since_ms,
        "restarts": state.restarts,
        "engine": None if state.engine is None else _engine(state.engine),
        "generation": generation,
        "busy": slots.generating,
        "slots": slots.sequences,
        "commitForbidden": commit_forbidden,
    }
    return report if gate is None else {**report, "provider": _provider(gate)}


class Reporter:
    """Run ``run`` as a task. ``not_ready`` says why the pod cannot serve, for its readiness."""

    def __init__(
        self,
        bus: Bus,
        model: ModelKey,
        pod: str,
        backend: Backend,
        slots: Slots,
        generation: int,
        *,
        commit_forbidden: Callable[[], bool],
    ) -> None:
        self._bus = bus
        self._model = model
        self._pod = pod
        self._backend = backend
        self._slots = slots
        self._generation = generation
        self._commit_forbidden = commit_forbidden
        self._told_at: float | None = None

    def not_ready(self) -> str | None:
        """None when the engine serves and Redis answers."""
        state = self._backend.state()
        if state.state is not Stage.SERVING:
            return f"{state.reason or state.state.value}: {state.message or 'the engine does not serve yet'}"
        if self._told_at is None or time.monotonic() - self._told_at > TTL_MS / 1000:
            return "BusUnavailable: Redis does not answer"
        return None

    async def run(self) -> None:
        while True:
            forbidden, gate = self._commit_forbidden(), self._backend.gate_state()
            report = build(self._backend.state(), self._slots, self._generation, commit_forbidden=forbidden, gate=gate)
            try:
                await self._bus.report(self._model, self._pod, report, ttl_ms=TTL_MS)
                self._told_at = time.monotonic()
            except BusError as error:
                _log.warning("not reported", reason=error.reason)
            await self._changed(report["state"], forbidden, _stopped(gate))

    async def _changed(self, state: str, forbidden: bool, stopped: tuple[str, ...]) -> None:
        """Sleep until the next report; a changed state is told at once."""
        for _ in range(_LOOKS):
            await asyncio.sleep(EVERY_SECONDS / _LOOKS)
            if self._backend.state().state.value != state or self._commit_forbidden() is not forbidden:
                return
            if _stopped(self._backend.gate_state()) != stopped:
                return


def _provider(gate: GateState) -> dict[str, Any]:
    seconds = gate.retry_in_seconds
    return {
        "breaker": gate.breaker.value,
        "reason": str(gate.reason)[:_REASON_CHARS],
        "message": gate.message[:_NOTE_CHARS],
        "retryInSeconds": None if seconds is None else round(max(0.0, seconds), 1),
        "concurrency": gate.concurrency,
    }


def _stopped(gate: GateState | None) -> tuple[str, ...]:
    """What of the gate is told at once."""
    return () if gate is None else (gate.breaker.value, str(gate.reason))


def _engine(model: EngineModel) -> dict[str, Any]:
    return EngineInfo(
        architecture=model.architecture[:64],
        context_tokens=model.context_tokens,
        quantization=model.quantization[:64],
        parameters=model.parameters,
        size_bytes=model.size_bytes,
        sha256=model.sha256,
        planned_bytes=model.planned_bytes or None,
        memory_bytes=model.memory_bytes or None,
        notes=[note[:_NOTE_CHARS] for note in model.notes] or None,
    ).dump()
