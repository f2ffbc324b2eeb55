"""A call's events and result in the facade's own words."""

import json
import math
from collections.abc import Iterable, Sequence
from operator import mul
from typing import Any

from headrace_crds.result import Usage
from headrace_facade.calls.contract import Call, CallResult, Delta, Waiting
from headrace_facade.errors import FacadeError
from headrace_facade.native.schema import (
    CallTimings,
    CallUsage,
    Compare,
    Compared,
    Embedded,
    Generated,
    GeneratedInSession,
)
from headrace_facade.openai_dialect.answers import EventStream
from headrace_facade.sessions.remembering import RememberedCall
from headrace_facade.shapes import native

Json = dict[str, Any]


def generated(call: Call, result: CallResult) -> Json:
    choice = result.choices[0]
    timings = result.timings
    return Generated(
        call_id=call.id,
        model=result.model,
        text=choice.text,
        finish_reason=choice.finish_reason,
        reasoning=choice.reasoning or None,
        usage=used(result.usage),
        timings=CallTimings(
            queued_millis=timings.queued_millis,
            first_token_millis=timings.first_token_millis,
            generation_millis=timings.generation_millis,
        ),
        enforcement=result.enforcement,
        repairs=result.repairs,
        attempts=result.attempts,
        session=_session(call),
    ).model_dump(mode="json")


def _session(call: Call) -> GeneratedInSession | None:
    if not isinstance(call, RememberedCall) or (told := call.remembered) is None:
        return None
    return GeneratedInSession(
        session_id=told.session,
        version=told.kept.version,
        appended=not told.kept.problem,
        problem=told.kept.problem or None,
        overlapped=told.kept.overlapped,
        sent=told.sent,
        left_off=told.left_off,
    )


def told_delta(delta: Delta) -> Json:
    told: Json = {"text": delta.text, "tokens": delta.tokens}
    return told | ({"reasoning": delta.reasoning} if delta.reasoning else {})


def embedded(call: Call, result: CallResult) -> Json:
    vectors = result.embeddings
    length = len(vectors[0]) if vectors else 0
    return Embedded(
        call_id=call.id, model=result.model, embeddings=vectors, dimensions=length, usage=used(result.usage)
    ).model_dump(mode="json")


def compared(call: Call, result: CallResult, body: Compare) -> Json:
    units = [_unit(vector) for vector in result.embeddings]
    scores = matrix = None
    if body.query is not None:
        scores = [_cosine(each, units[-1]) for each in units[:-1]]
    else:
        matrix = cosines(units)
    return Compared(
        call_id=call.id, model=result.model, scores=scores, matrix=matrix, usage=used(result.usage)
    ).model_dump(mode="json")


def cosines(units: Sequence[Sequence[float]]) -> list[list[float]]:
    """Of all pairs of vectors of length 1, each pair counted once."""
    matrix = [[0.0] * len(units) for _ in units]
    for row, one in enumerate(units):
        for column in range(row + 1):
            matrix[row][column] = matrix[column][row] = _cosine(one, units[column])
    return matrix


def used(usage: Usage) -> CallUsage:
    return CallUsage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_micros=usage.cost_micros,
        currency=usage.currency,
    )


class Events:
    """The Narrator of `/api/v1/generate/stream`: events `delta`, `end` and `error`."""

    def __init__(self, call: Call, trace_id: str) -> None:
        self._call = call
        self._trace_id = trace_id

    def opening(self) -> Iterable[str]:
        return ()

    def delta(self, delta: Delta) -> Iterable[str]:
        return [event("delta", told_delta(delta))]

    def ended(self, result: CallResult) -> Iterable[str]:
        return [event("end", generated(self._call, result))]

    def failed(self, error: FacadeError) -> Iterable[str]:
        return [failed(error, self._trace_id)]


def failed(error: FacadeError, trace_id: str) -> str:
    return event("error", native(error, trace_id)[1])


class Stream(EventStream):
    """With an event while nothing comes."""

    def waiting(self, waiting: Waiting) -> str:
        return told_waiting(waiting)


def told_waiting(waiting: Waiting) -> str:
    return event("waiting", {"reason": waiting.reason, "message": waiting.message, "ahead": waiting.ahead})


def event(name: str, document: Json, identifier: str | None = None) -> str:
    """A server-sent event; JSON has no line breaks in it."""
    first = "" if identifier is None else f"id: {identifier}\n"
    return f"{first}event: {name}\ndata: {json.dumps(document, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _unit(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(_dot(vector, vector))
    return [value / length for value in vector] if length else list(vector)


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    # Rounding may carry it beyond.
    return max(-1.0, min(1.0, _dot(one, other)))


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return float(sum(map(mul, one, other)))
