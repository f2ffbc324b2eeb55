"""What a trace tells of an attempt: how long it waited, what it asked the engine or provider, how it ended.

::

    enqueue (operator or facade) ─┬─ queue                        made here, as nobody is there while it waits
                                  └─ chat MODEL                   the attempt, by the conventions for generative AI
                                       ├─ check, validate              before and after it
                                       ├─ engine request | provider request ── admission
                                       └─ commit | answer

Names and numbers only. The provider's own request carries no trace context: who traces is nobody's business there.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from headrace_bus import Delivery, ModelKey
from headrace_bus.tracing import Attributes, Kind, Span, TraceContext, Tracing, child, current, queued
from headrace_crds.remote import Remote
from headrace_crds.result import Usage
from headrace_crds.task import Outcome
from headrace_crds.work import Work
from headrace_runner.attempt import Attempt
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Generate, GenerationResult
from headrace_runner.execute import Sink
from headrace_runner.generating import Engine
from headrace_runner.verdict import Setback, Verdict

_LOCAL: Final = "llama.cpp"
_WORD: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_KNOWN: Final = {"OpenAI": "openai", "OpenAICompatible": "openai_compatible"}
_FINISHES: Final = {"Stop": "stop", "Length": "length", "ToolCalls": "tool_calls"}


@dataclass(frozen=True)
class Served:
    """What is told of the model in every span: LLMModel, `gen_ai.provider.name`, `gen_ai.request.model`, host."""

    model: str
    provider: str
    name: str
    request: str
    about: Attributes

    @classmethod
    def of(cls, model: ModelKey, remote: Remote | None) -> "Served":
        if remote is None:
            return cls(str(model), _LOCAL, str(model), "engine request", {})
        provider = _KNOWN.get(remote.provider) or _WORD.sub("_", remote.provider).lower()
        return cls(str(model), provider, remote.model, "provider request", _address(remote.base_url))


def _address(base_url: str | None) -> Attributes:
    """The host alone. Where the spec names none the provider's library has its own."""
    host = urlsplit(base_url).hostname if base_url is not None else None
    return {} if host is None else {"server.address": host}


def begun(tracing: Tracing, delivery: Delivery, work: Work, served: Served, claimed_ns: int) -> Span:
    """The span of an attempt that was claimed at ``claimed_ns`` by this machine's clock, and before it that of its
    wait, as long as Redis says.
    """
    envelope = delivery.envelope
    parent = TraceContext.parse(envelope.traceparent)
    about = queued(served.model, envelope.uid, envelope.namespace, envelope.attempt)
    if parent is not None:
        waited_ns = max(0, delivery.claimed_ms - delivery.enqueued_ms) * 1_000_000
        tracing.begin("queue", attributes=about, parent=parent, start_ns=claimed_ns - waited_ns).end(claimed_ns)
    operation = "embeddings" if work.embed else "chat"
    asked = {"messaging.operation.type": "process", "gen_ai.operation.name": operation, **_asked(work)}
    asked |= {"gen_ai.provider.name": served.provider, "gen_ai.request.model": served.name}
    asked |= {"headrace.kind": envelope.kind.value, "headrace.name": envelope.name}
    return tracing.begin(
        f"{operation} {served.name}", Kind.CONSUMER, {**about, **asked}, parent=parent, start_ns=claimed_ns
    )


def _asked(work: Work) -> dict[str, Any]:
    given = work.parameters
    asked: dict[str, Any] = {
        "gen_ai.request.max_tokens": given.max_tokens,
        "gen_ai.request.temperature": None if given.temperature is None else float(given.temperature),
        "gen_ai.request.top_p": None if given.top_p is None else float(given.top_p),
        "gen_ai.request.seed": given.seed,
    }
    if work.output is not None and work.output.json_schema is not None:
        asked["gen_ai.output.type"] = "json"
    if work.call is not None:
        asked["gen_ai.request.stream"] = work.call.stream
        asked["gen_ai.request.choice.count"] = work.call.n if work.call.n > 1 else None
    return {name: value for name, value in asked.items() if value is not None}


class TracedEngine:
    """An Engine: a span for each request that it is asked."""

    def __init__(self, engine: Engine, served: Served) -> None:
        self._engine = engine
        self._served = served
        self._asked = 0

    async def generate(
        self, request: Generate | Embed, *, on_progress: Callable[[int], None] | None = None
    ) -> GenerationResult:
        about = {**self._served.about, "headrace.repair": self._asked}
        self._asked += 1
        with child(self._served.request, Kind.CLIENT, about) as span:
            result = await self._engine.generate(request, on_progress=on_progress)
            span.set({"headrace.finish_reason": result.finish_reason})
            return result

    async def abort(self, generation_id: str) -> None:
        await self._engine.abort(generation_id)


class TracedSink:
    """A Sink: what it is told ends the attempt's span, and the telling has one of its own."""

    def __init__(self, sink: Sink, attempt: Attempt) -> None:
        self._sink = sink
        self._telling = "commit" if attempt.work.call is None else "answer"

    def progress(self, completion_tokens: int) -> None:
        self._sink.progress(completion_tokens)

    def generated(self) -> None:
        self._sink.generated()

    async def conclude(self, verdict: Verdict) -> None:
        span = current()
        span.set(_of_verdict(verdict))
        if verdict.outcome is Outcome.FAILED:
            span.fail(str(verdict.reason))
        with child(self._telling):
            await self._sink.conclude(verdict)

    async def give_back(self, setback: Setback) -> None:
        span = current()
        span.set({"headrace.reason": str(setback.reason), "headrace.retryable": setback.retryable})
        span.set(_of_usage(setback.usage))
        span.fail(str(setback.reason))
        with child("give back"):
            await self._sink.give_back(setback)

    async def release(self, reason: str, usage: Usage | None = None) -> None:
        current().set({"headrace.reason": str(reason), **_of_usage(usage)})
        with child("give back"):
            await self._sink.release(reason, usage)


def _of_verdict(verdict: Verdict) -> Attributes:
    told: dict[str, Any] = {"headrace.outcome": verdict.outcome.value, "headrace.reason": str(verdict.reason)}
    told["headrace.repairs"] = verdict.repairs
    if (generation := verdict.generation) is not None:
        reasons = [generation.finish_reason, *(each.finish_reason for each in generation.alternatives)]
        told["gen_ai.response.finish_reasons"] = [_FINISHES.get(each, "error") for each in reasons]
    return {**told, **_of_usage(verdict.usage)}


def _of_usage(usage: Usage | None) -> Attributes:
    if usage is None:
        return {}
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens or 0,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens or 0,
    }
