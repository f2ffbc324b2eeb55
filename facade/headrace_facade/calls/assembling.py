"""What runners tell of a call, read: hostile input, as every key of a model is.

Shapes are those of docs/calls.md. What cannot be read raises CallBroken; nothing of it is quoted.
"""

import base64
import hashlib
import json
import math
import sys
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard

from pydantic import ValidationError

from headrace_crds.dialogue import MAX_TOOL_CALLS, ToolCall
from headrace_crds.result import Enforcement, Timings, Usage
from headrace_facade.calls.contract import CallResult, Choice, Counted, Delta
from headrace_facade.calls.failures import CallBroken

CHARS_MOST: Final = 2 * 1024 * 1024
"""Of everything that one attempt tells."""
CHOICES_MOST: Final = 16
_MESSAGE_CHARS: Final = 1_000
_NUMBER_MOST: Final = 1 << 31
_REASON_CHARS: Final = 64
_FINISHED: Final = frozenset({"Stop", "Length", "ToolCalls"})


@dataclass(frozen=True)
class Returned:
    """The attempt is over without an answer."""

    reason: str
    message: str
    retryable: bool


@dataclass(frozen=True)
class Restarted:
    """What the attempt has told so far is void."""


@dataclass(frozen=True)
class Skipped:
    """Something that it would have told is missing."""


@dataclass(frozen=True)
class Answered:
    """The attempt has its answer."""

    document: dict[str, Any]


Told = Delta | Returned | Restarted | Skipped | Answered | None


@dataclass
class Assembly:
    """One attempt's events. ``take`` raises CallBroken."""

    texts: dict[int, list[str]] = field(default_factory=dict)
    reasoning: dict[int, list[str]] = field(default_factory=dict)
    calls: dict[int, list[ToolCall]] = field(default_factory=dict)
    _end: list[str] = field(default_factory=list)
    _chars: int = 0

    def take(self, event: Mapping[str, Any]) -> Told:
        """None for what tells nothing, a slice of the end among it."""
        if "end" in event:
            self._end.append(self._counted(event["end"]))
            return None if event.get("more") is True else self._answered()
        if "returned" in event:
            return _returned(event)
        if event.get("restart") is True:
            return Restarted()
        if event.get("skipped") is True:
            return Skipped()
        return self._delta(event)

    def result(self, document: Mapping[str, Any], model: str, attempts: int) -> CallResult:
        """Of a document whose outcome is Complete. Raises CallBroken, also for a text that is not the one told."""
        try:
            told = document["choices"]
            if not isinstance(told, list) or len(told) > CHOICES_MOST:
                raise ValueError("choices")
            enforcement = document.get("enforcement")
            return CallResult(
                choices=[self._choice(each, index) for index, each in enumerate(told)],
                usage=Usage.model_validate(document["usage"]),
                timings=Timings.model_validate(document["timings"]),
                model=model,
                embeddings=vectors(document["embeddings"]) if "embeddings" in document else [],
                counted=counted(document["counted"]) if "counted" in document else None,
                enforcement=None if enforcement is None else Enforcement(enforcement),
                repairs=int(document.get("repairs", 0)),
                attempts=attempts,
            )
        except (KeyError, ValueError, TypeError, OverflowError, RecursionError, ValidationError) as error:
            raise _unreadable() from error

    def _choice(self, told: Mapping[str, Any], index: int) -> Choice:
        if "text" in told:
            text, reasoning = told["text"], told.get("reasoning", "")
        else:
            text, reasoning = "".join(self.texts.get(index, ())), "".join(self.reasoning.get(index, ()))
            data = text.encode()
            if len(data) != told["textBytes"] or hashlib.sha256(data).hexdigest() != told["sha256"]:
                raise ValueError("text")
        if not isinstance(text, str) or not isinstance(reasoning, str) or told["finishReason"] not in _FINISHED:
            raise ValueError("choice")
        logprobs = told.get("logprobs") or []
        if not isinstance(logprobs, list) or not all(isinstance(each, dict) for each in logprobs):
            raise ValueError("logprobs")
        return Choice(text, told["finishReason"], _tool_calls(told.get("toolCalls") or []), reasoning, logprobs)

    def _answered(self) -> Answered:
        try:
            document = json.loads("".join(self._end))
        except (ValueError, RecursionError) as error:
            raise _unreadable() from error
        if not isinstance(document, dict):
            raise _unreadable()
        return Answered(document)

    def _delta(self, event: Mapping[str, Any]) -> Delta | None:
        index, tokens = event.get("index", 0), event.get("tokens", 0)
        if not isinstance(index, int) or not 0 <= index < CHOICES_MOST or not isinstance(tokens, int):
            raise _unreadable()
        text, reasoning = self._counted(event.get("text", "")), self._counted(event.get("reasoning", ""))
        called = None
        if "toolCall" in event:
            called = _tool_calls([event["toolCall"]])[0]
            self._counted(called.arguments)
            self.calls.setdefault(index, []).append(called)
        if text:
            self.texts.setdefault(index, []).append(text)
        if reasoning:
            self.reasoning.setdefault(index, []).append(reasoning)
        if not text and not reasoning and called is None:
            return None
        return Delta(text, reasoning, called, index, max(0, tokens))

    @property
    def chars(self) -> int:
        """Of everything that was told."""
        return self._chars

    def _counted(self, text: object) -> str:
        if not isinstance(text, str):
            raise _unreadable()
        self._chars += len(text)
        if self._chars > CHARS_MOST:
            raise CallBroken("the answer is larger than a call may have: submit an LLMTask, or lower max_tokens")
        return text


def vectors(document: object) -> list[list[float]]:
    """The engine's document of vectors as numbers. Raises ValueError."""
    if not isinstance(document, str):
        raise ValueError("no document")
    head = json.loads(document)
    if not isinstance(head, dict):
        raise ValueError("no document")
    if (head.get("dtype"), head.get("encoding")) != ("float32", "base64"):
        raise ValueError("not float32 in base64")
    count, length = (int(each) for each in head["shape"])
    numbers = array("f", base64.b64decode(head["data"], validate=True))
    if sys.byteorder == "big":
        numbers.byteswap()
    if count < 0 or length < 1 or len(numbers) != count * length or not all(map(math.isfinite, numbers)):
        raise ValueError("not of its shape")
    return [numbers[first : first + length].tolist() for first in range(0, len(numbers), length)]


def counted(document: object) -> Counted:
    """What an engine or a provider has counted. Raises ValueError."""
    if not isinstance(document, str):
        raise ValueError("no document")
    told = json.loads(document)
    if not isinstance(told, dict):
        raise ValueError("no document")
    tokens, context = told.get("tokens"), told.get("contextTokens")
    if tokens is not None and not (isinstance(tokens, list) and all(_is_number(each) for each in tokens)):
        raise ValueError("tokens")
    number = told.get("count") if tokens is None else len(tokens)
    if not _is_number(number) or not (context is None or _is_number(context)):
        raise ValueError("count")
    return Counted(number, tokens, context)


def _is_number(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _NUMBER_MOST


def ending_of(document: Mapping[str, Any]) -> tuple[str, Returned]:
    """Outcome, and reason, message and whether another attempt may help."""
    outcome, told = str(document.get("outcome")), _plain(document)
    return outcome, told


def _returned(event: Mapping[str, Any]) -> Returned:
    try:
        failure = json.loads(event.get("failure") or "{}")
    except (ValueError, TypeError, RecursionError):
        failure = {}
    reason = event["returned"]
    if not isinstance(reason, str) or not isinstance(failure, dict):
        raise _unreadable()
    said = {"reason": reason, "message": "", "retryable": True, **failure}
    return _plain(said)


def _plain(said: Mapping[str, Any]) -> Returned:
    reason, message = said.get("reason"), said.get("message")
    if not isinstance(reason, str) or not reason.isalnum() or not reason.isascii():
        reason = "RunnerError"
    message = message if isinstance(message, str) else ""
    line = "".join(each if each.isprintable() else " " for each in message[:_MESSAGE_CHARS])
    return Returned(reason[:_REASON_CHARS], line, said.get("retryable") is True)


def _tool_calls(told: object) -> list[ToolCall]:
    if not isinstance(told, list) or len(told) > MAX_TOOL_CALLS:
        raise _unreadable()
    try:
        return [ToolCall(id=each["id"], name=each["name"], arguments=each["arguments"]) for each in told]
    except (KeyError, TypeError, ValidationError) as error:
        raise _unreadable() from error


def _unreadable() -> CallBroken:
    return CallBroken("what the model's runner answered cannot be read")
