"""Reads what the engine says: events that the runner takes from a process it does not trust."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from headrace_runner.engine.frames import ProtocolError
from headrace_runner.engine.protocol import (
    Completion,
    Delta,
    Event,
    Failure,
    FinishReason,
    GenerationResult,
    Hello,
    Progress,
    Timings,
    TokenLogprob,
    Usage,
)
from headrace_runner.engine.state import EngineModel
from headrace_runner.engine.tools import read_calls
from headrace_runner.engine.untrusted import count, reason_word, sentence, text

_USAGE: Final = ("prompt_tokens", "cached_tokens", "completion_tokens")


def decode_event(body: Mapping[str, Any]) -> Event | None:
    """Read an event; None for a kind this side does not know. Raises ProtocolError where a field is wrong."""
    try:
        match body.get("type"):
            case "hello":
                return Hello(EngineModel.from_json(body.get("engine")))
            case "progress":
                return Progress(text(body["id"]), count(body["completion_tokens"]))
            case "delta":
                completion_tokens, index = count(body["completion_tokens"]), count(body.get("index", 0))
                calls, reasoning = read_calls(body.get("tool_calls")), text(body.get("reasoning") or "")
                return Delta(text(body["id"]), text(body["text"]), completion_tokens, index, reasoning, calls)
            case "done":
                return _read_result(body, ("Stop", "Length", "ToolCalls"))
            case "aborted":
                return _read_result(body, ("Cancelled",))
            case "error":
                retryable = body["retryable"] is True
                return Failure(text(body["id"]), reason_word(body["reason"]), sentence(body["message"]), retryable)
    except (KeyError, ValueError, TypeError) as error:
        raise ProtocolError(f"a broken {body.get('type')} event: {error!r}") from error
    return None


def _read_result(body: Mapping[str, Any], finish_reasons: tuple[FinishReason, ...]) -> GenerationResult:
    finish_reason, enforcement = body["finish_reason"], body.get("enforcement")
    if finish_reason not in finish_reasons or enforcement not in (None, "Grammar", "ValidatedOnly"):
        raise ValueError("unknown finish_reason or enforcement")
    return GenerationResult(
        id=text(body["id"]),
        text=text(body["text"]),
        finish_reason=finish_reason,
        usage=Usage(**{name: count(body["usage"][name]) for name in _USAGE}),
        timings=Timings(**{item.name: count(body["timings"][item.name]) for item in fields(Timings)}),
        enforcement=enforcement,
        complete=body.get("complete") is True,
        logprobs=_read_logprobs(body.get("logprobs")),
        alternatives=tuple(_read_completion(each, finish_reasons) for each in body.get("alternatives") or ()),
        tool_calls=read_calls(body.get("tool_calls")),
        reasoning=text(body.get("reasoning") or ""),
    )


def _read_completion(body: Mapping[str, Any], finish_reasons: tuple[FinishReason, ...]) -> Completion:
    # Of those that an abort ends together some may have ended before.
    if body["finish_reason"] not in {*finish_reasons, "Stop", "Length", "ToolCalls"}:
        raise ValueError("unknown finish_reason")
    return Completion(
        text(body["text"]),
        body["finish_reason"],
        _read_logprobs(body.get("logprobs")),
        read_calls(body.get("tool_calls")),
        text(body.get("reasoning") or ""),
    )


def _read_logprobs(value: Any) -> tuple[TokenLogprob, ...] | None:
    if value is None:
        return None
    return tuple(
        TokenLogprob(
            text(each["text"]),
            _read_logarithm(each["logprob"]),
            tuple((text(token), _read_logarithm(logprob)) for token, logprob in each["top"]),
        )
        for each in value
    )


def _read_logarithm(value: object) -> float:
    # An integer of a thousand digits is JSON too, and no float.
    if not isinstance(value, float) or not math.isfinite(value):
        raise ValueError("expected a finite number")
    return value
