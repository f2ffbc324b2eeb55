"""What a pod does with the end of a call's attempt: tell its reader. There is no object, and nothing is committed.

| ending              | bus                                                             |
|---------------------|-----------------------------------------------------------------|
| outcome             | end_call with the document of docs/calls.md, in slices          |
| setback             | the same, with `retryable`                                      |
| given back          | release: the reader is told, and queues another attempt         |
| lease lost, dropped | –                                                               |
| the bus is full     | fail: nothing is left to tell it with                           |
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Final

import structlog

from headrace_bus import EVENTS_AT_ONCE, BusOutOfMemory, Failure
from headrace_crds.cost import spend_of
from headrace_crds.outcome import text_digest
from headrace_crds.reasons import Reason
from headrace_crds.result import Enforcement, Usage
from headrace_runner.attempt import Attempt
from headrace_runner.bus_entry import BusEntry
from headrace_runner.engine.protocol import Completion, GenerationResult, TokenLogprob
from headrace_runner.metrics import Metrics
from headrace_runner.slots import Slots
from headrace_runner.streaming import CallStream
from headrace_runner.verdict import Setback, Verdict

SLICE_CHARS: Final = 15_000
"""Four bytes each at most, and so below what an event may have."""
_SLICES_AT_ONCE: Final = 12

_log = structlog.get_logger()


class CallSink:
    """The sink of one execution of a call. ``committing`` is True from the end of the generation on."""

    def __init__(
        self, attempt: Attempt, entry: BusEntry, slots: Slots, metrics: Metrics, stream: CallStream | None = None
    ) -> None:
        self.stream = stream
        self.committing = False
        self.stopping = False
        self._attempt = attempt
        self._entry = entry
        self._slots = slots
        self._metrics = metrics
        self._generated = asyncio.Event()

    def progress(self, completion_tokens: int) -> None:
        """Its stream tells."""

    def generated(self) -> None:
        self.committing = True
        self._generated.set()
        self._slots.park()

    async def wait_generated(self) -> None:
        await self._generated.wait()

    async def conclude(self, verdict: Verdict) -> None:
        self._metrics.tasks.labels(verdict.outcome.value, verdict.reason).inc()
        self._metrics.spent(self._attempt.namespace, verdict.usage)
        if verdict.timings is not None:
            self._metrics.first_token.observe(verdict.timings.first_token_millis / 1000)
        await self._end(self._document(verdict), verdict.usage)
        _log.info(
            "call finished",
            **self._entry.keys,
            outcome=verdict.outcome.value,
            reason=str(verdict.reason),
            claim_to_end_millis=self._attempt.elapsed_ms,
        )

    async def give_back(self, setback: Setback) -> None:
        if self.stopping:
            await self.release(Reason.RUNNER_STOPPED, setback.usage)
            return
        self._metrics.tasks.labels("Setback", setback.reason).inc()
        self._metrics.spent(self._attempt.namespace, setback.usage)
        _log.warning("call failed", **self._entry.keys, reason=str(setback.reason), retryable=setback.retryable)
        document = _ending("Failed", setback.reason, setback.message, setback.usage)
        await self._end({**document, "retryable": setback.retryable}, setback.usage)

    async def release(self, reason: str, usage: Usage | None = None) -> None:
        self._metrics.tasks.labels("Released", reason).inc()
        self._metrics.spent(self._attempt.namespace, usage)
        await self._entry.release(reason, None if usage is None else spend_of(usage))

    def lost(self) -> None:
        """The lease is lost: its reader has gone, or asks somebody else."""
        self._metrics.leases_lost.inc()
        self._metrics.tasks.labels("Lost", Reason.LEASE_EXPIRED).inc()
        _log.warning("lease lost", **self._entry.keys)

    def dropped(self) -> None:
        """Its reader has hung up."""
        self._metrics.tasks.labels("Dropped", "Interrupted").inc()
        _log.info("call dropped", **self._entry.keys)

    def _document(self, verdict: Verdict) -> dict[str, Any]:
        document = _ending(verdict.outcome.value, verdict.reason, verdict.message, verdict.usage)
        if verdict.timings is not None:
            document["timings"] = verdict.timings.dump()
        generation = verdict.generation
        if generation is None:
            return document
        document["enforcement"] = enforcement_of(verdict)
        document["repairs"] = verdict.repairs
        if self._attempt.work.call is not None and self._attempt.work.call.count is not None:
            return {**document, "choices": [], "counted": generation.text}
        if self._attempt.work.embed:
            return {**document, "choices": [], "embeddings": generation.text}
        choices: list[GenerationResult | Completion] = [generation, *generation.alternatives]
        return {**document, "choices": [_choice(each, is_told=self.stream is not None) for each in choices]}

    async def _end(self, document: dict[str, Any], usage: Usage | None) -> None:
        number = self._attempt.number
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        slices = [text[first : first + SLICE_CHARS] for first in range(0, len(text), SLICE_CHARS)]
        events: list[dict[str, Any]] = [{"attempt": number, "end": each, "more": True} for each in slices]
        del events[-1]["more"]
        if self.stream is not None:
            events = [*await self.stream.drain(), *events]
        try:
            await self._entry.end_call(_batches(events))
        except BusOutOfMemory:
            spent = None if usage is None else spend_of(usage)
            message = "Redis has no memory left for the answer"
            await self._entry.fail(Failure(Reason.RESULT_NOT_PARKED, message, retryable=False, spent=spent))


def enforcement_of(verdict: Verdict) -> str | None:
    """Of the result, wherever it lies."""
    found: Enforcement | None = None
    if verdict.result is not None:
        found = verdict.result.enforcement
    elif verdict.large is not None:
        found = verdict.large.enforcement
    return None if found is None else found.value


def _batches(events: Sequence[dict[str, Any]]) -> list[Sequence[dict[str, Any]]]:
    """As many as one script takes; most calls have one."""
    if len(events) <= _SLICES_AT_ONCE:
        return [events]
    at_once = min(_SLICES_AT_ONCE, EVENTS_AT_ONCE)
    return [events[first : first + at_once] for first in range(0, len(events), at_once)]


def _ending(outcome: str, reason: str, message: str, usage: Usage | None) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "reason": str(reason),
        "message": message,
        "retryable": False,
        "choices": [],
        "usage": None if usage is None else usage.dump(),
        "timings": None,
        "enforcement": None,
        "repairs": 0,
    }


def _choice(given: GenerationResult | Completion, *, is_told: bool) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "finishReason": given.finish_reason,
        "toolCalls": [{"id": each.id, "name": each.name, "arguments": each.arguments} for each in given.tool_calls],
        "logprobs": [_logprob(each) for each in given.logprobs or ()],
    }
    if is_told:
        size_bytes, sha256 = text_digest(given.text)
        return {**choice, "textBytes": size_bytes, "sha256": sha256}
    return {**choice, "text": given.text, "reasoning": given.reasoning}


def _logprob(each: TokenLogprob) -> dict[str, Any]:
    return {"text": each.text, "logprob": each.logprob, "top": [list(pair) for pair in each.top]}
