"""Gives a deterministic request's result again without asking the model, and keeps results that may be given again.

It stands between ``execute`` and its engine and sink, so that what it gives is judged as any result is. It must not
keep a request: a key is a digest. No failure of the bus is one of the attempt's.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from headrace_bus import BusError, ModelKey
from headrace_crds.cache import ENTRY_LIMIT_BYTES, CacheUse
from headrace_crds.result import Usage as BilledUsage
from headrace_crds.task import Outcome
from headrace_runner.attempt import Attempt
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Delta, Generate, GenerationResult, Timings, Usage
from headrace_runner.execute import Sink
from headrace_runner.generating import Engine
from headrace_runner.metrics import Metrics
from headrace_runner.streaming import CallStream
from headrace_runner.verdict import Setback, Verdict

_ENFORCEMENTS: Final = ("Grammar", "Provider", "ValidatedOnly")


class CacheBus(Protocol):
    """The bus, as far as it is needed here."""

    async def cached(self, model: ModelKey, digest: str) -> dict[str, Any] | None: ...

    async def cache(
        self, model: ModelKey, digest: str, value: dict[str, Any], *, ttl_seconds: int, max_entries: int
    ) -> None: ...


class ResponseCache:
    """One attempt's: an Engine and a Sink around its own."""

    def __init__(
        self,
        bus: CacheBus,
        model: ModelKey,
        attempt: Attempt,
        use: CacheUse,
        engine: Engine,
        sink: Sink,
        stream: CallStream | None,
        metrics: Metrics,
    ) -> None:
        self._bus, self._model, self._attempt, self._use = bus, model, attempt, use
        self._engine, self._sink, self._stream, self._metrics = engine, sink, stream, metrics
        self._digest: str | None = None
        self._asked, self._hit = 0, False

    async def generate(
        self, request: Generate | Embed, *, on_progress: Callable[[int], None] | None = None
    ) -> GenerationResult:
        """As the engine's. Only an attempt's first request is looked up: the others repair what that one gave."""
        self._asked += 1
        if self._asked == 1 and isinstance(request, Generate) and is_deterministic(request):
            self._digest = digest_of(request, self._attempt.namespace, self._use.incarnation)
            found = await self._found(request.id)
            self._hit = found is not None
            self._metrics.cache.labels("hit" if self._hit else "miss").inc()
            if found is not None:
                if self._stream is not None:
                    self._stream.delta(Delta(request.id, found.text, 0, reasoning=found.reasoning))
                return found
        return await self._engine.generate(request, on_progress=on_progress)

    async def abort(self, generation_id: str) -> None:
        await self._engine.abort(generation_id)

    def progress(self, completion_tokens: int) -> None:
        self._sink.progress(completion_tokens)

    def generated(self) -> None:
        self._sink.generated()

    async def conclude(self, verdict: Verdict) -> None:
        first = self._asked == 1
        if self._hit and first and verdict.usage is not None:
            verdict = replace(verdict, usage=verdict.usage.model_copy(update={"cache_hit": True}))
        await self._sink.conclude(verdict)
        if first and not self._hit and self._digest is not None and verdict.outcome is Outcome.COMPLETE:
            await self._keep(self._digest, verdict.generation)

    async def give_back(self, setback: Setback) -> None:
        await self._sink.give_back(setback)

    async def release(self, reason: str, usage: BilledUsage | None = None) -> None:
        await self._sink.release(reason, usage)

    async def _found(self, generation_id: str) -> GenerationResult | None:
        try:
            value = await self._bus.cached(self._model, self._digest or "")
        except BusError:
            return None
        return None if value is None else restored(value, generation_id)

    async def _keep(self, digest: str, generation: GenerationResult | None) -> None:
        if generation is None or not is_kept(generation):
            return
        value = {
            "text": generation.text,
            "reasoning": generation.reasoning,
            "enforcement": generation.enforcement,
            "sha256": _sha256(generation.text, generation.reasoning),
        }
        try:
            await self._bus.cache(
                self._model, digest, value, ttl_seconds=self._use.ttl_seconds, max_entries=self._use.max_entries
            )
        except (BusError, ValueError):
            # Full, away, or longer than any that is kept: it is generated again then.
            self._metrics.cache.labels("not_kept").inc()


def is_deterministic(request: Generate) -> bool:
    """Whether the same request may be taken to have the same result: nothing is drawn, or by a seed. What calls tools
    is meant to act again; alternatives and probabilities are not kept.
    """
    asked = request.parameters
    drawn = asked.temperature is None or float(asked.temperature) > 0
    if request.tools or asked.n or asked.logprobs is not None:
        return False
    return not drawn or asked.seed is not None


def is_kept(generation: GenerationResult) -> bool:
    """Nothing partial, and nothing that an entry does not hold."""
    return generation.finish_reason == "Stop" and not generation.tool_calls and not generation.alternatives


def digest_of(request: Generate, namespace: str, incarnation: str) -> str:
    """Names a request without telling it. What asks for the same in another way of telling is the same; the namespace
    is in it, so that nobody learns by a hit what another one asked.
    """
    asked = {
        name: value for name, value in request.to_json().items() if name not in ("id", "stream", "cache_scope", "whole")
    }
    text = json.dumps([namespace, incarnation, asked], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def restored(value: Mapping[str, Any], generation_id: str) -> GenerationResult | None:
    """A kept result; None for what is none: whoever has the model's password may write anything."""
    text, reasoning, enforcement = value.get("text"), value.get("reasoning"), value.get("enforcement")
    if not isinstance(text, str) or not isinstance(reasoning, str):
        return None
    if enforcement is not None and enforcement not in _ENFORCEMENTS:
        return None
    if len(text) > ENTRY_LIMIT_BYTES or value.get("sha256") != _sha256(text, reasoning):
        return None
    return GenerationResult(
        generation_id, text, "Stop", Usage(0, 0, 0), Timings(0, 0, 0), enforcement=enforcement, reasoning=reasoning
    )


def _sha256(text: str, reasoning: str) -> str:
    return hashlib.sha256(json.dumps([text, reasoning]).encode()).hexdigest()
