"""One completion while its pieces come: text, reasoning, tool calls, logarithms of probabilities."""

import json
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from headrace_crds.reasons import Reason
from headrace_runner.engine.protocol import Completion, FinishReason, TokenLogprob
from headrace_runner.engine.tools import MAX_CALLS, ToolCall
from headrace_runner.providers.answer_errors import invalid
from headrace_runner.providers.protocol import Fault, ProviderError

MAX_TOKEN_CHARS: Final = 64
_CALL_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FINISH: Final[Mapping[str, FinishReason]] = {
    "stop": "Stop",
    "length": "Length",
    "tool_calls": "ToolCalls",
    "function_call": "ToolCalls",
    # text-generation-inference, and what stands before other APIs
    "eos": "Stop",
    "eos_token": "Stop",
    "stop_sequence": "Stop",
    "end_turn": "Stop",
    "max_tokens": "Length",
}
_REFUSED: Final = "content_filter"
_BROKEN: Final = ("error", "abort", "aborted", "cancelled", "insufficient_system_resource")


def texted(value: object, what: str) -> str:
    """The value as text, null as an empty one. Raises ProviderError."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise invalid(f"{what} is no text")
    # JSON can carry lone surrogates, which nothing behind here could encode.
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


@dataclass
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass
class Choice:
    """``tokens`` are the pieces that brought something, which is what most servers send a piece for."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tokens: int = 0
    refused: bool = False
    finish: FinishReason | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    _calls: list[_Call] = field(default_factory=list)
    _by_index: dict[int, _Call] = field(default_factory=dict)
    _settled: tuple[ToolCall, ...] = ()

    def push(self, piece: Mapping[str, Any]) -> tuple[str, str, tuple[ToolCall, ...]]:
        """What it adds: text, reasoning, and calls once all are whole. Raises ProviderError."""
        delta = piece.get("delta") or piece.get("message") or {}
        if not isinstance(delta, Mapping):
            raise invalid("delta is no object")
        text = texted(delta.get("content"), "content")
        reasoning = texted(delta.get("reasoning_content") or delta.get("reasoning"), "reasoning")
        self.refused = self.refused or bool(delta.get("refusal"))
        calls = delta.get("tool_calls") or ()
        for each in _listed(calls, "tool_calls"):
            self._push_call(each)
        self._push_logprobs(piece.get("logprobs"))
        if text or reasoning or calls:
            self.tokens += 1
        self.text.append(text)
        self.reasoning.append(reasoning)
        return text, reasoning, self._finished(piece.get("finish_reason"))

    def completion(self, *, with_logprobs: bool) -> Completion:
        """The whole. A call came if there is one, whatever the API says; OpenAI says ``stop`` where one was forced."""
        finish = self.finish or "Stop"
        if finish != "Length":
            finish = "ToolCalls" if self._settled else "Stop"
        return Completion(
            "".join(self.text),
            finish,
            tuple(self.logprobs) if with_logprobs else None,
            self._settled,
            "".join(self.reasoning),
        )

    def settle(self) -> tuple[ToolCall, ...]:
        """Nothing follows: the calls, without one that the bound on tokens cut off. Raises ProviderError."""
        ids: set[str] = set()
        for call in self._calls:
            arguments = "".join(call.arguments).strip() or "{}"
            if self.finish == "Length" and not _is_object(arguments):
                continue
            if not _TOOL_NAME.fullmatch(call.name):
                raise invalid("a tool call without a name")
            if not _CALL_ID.fullmatch(call.id) or call.id in ids:
                # Some servers give none, or the same to all; ours are given back to them with the results.
                call.id = f"call_{secrets.token_hex(12)}"
            ids.add(call.id)
            self._settled += (ToolCall(call.id, call.name, arguments),)
        self._calls.clear()
        return self._settled

    def _finished(self, word: object) -> tuple[ToolCall, ...]:
        if word is None or word == "" or self.finish is not None:
            return ()
        if word == _REFUSED:
            self.refused, self.finish = True, "Stop"
            return ()
        if word in _BROKEN:
            raise ProviderError(
                Fault.TRANSIENT, Reason.PROVIDER_FAILED, "the provider gave up in the middle; another try may go better"
            )
        finish = _FINISH.get(word) if isinstance(word, str) else None
        if finish is None:
            raise invalid("finish_reason is a word that is not known")
        self.finish = finish
        return self.settle()

    def _push_call(self, piece: object) -> None:
        if not isinstance(piece, Mapping):
            raise invalid("a tool call is no object")
        function = piece.get("function") or {}
        if not isinstance(function, Mapping):
            raise invalid("a tool call's function is no object")
        call_id, name = texted(piece.get("id"), "a tool call's id"), texted(function.get("name"), "a tool's name")
        call = self._call(piece.get("index"), call_id, name)
        call.id, call.name = call.id or call_id, call.name or name
        arguments = function.get("arguments")
        if isinstance(arguments, Mapping):
            arguments = json.dumps(arguments, ensure_ascii=False)
        call.arguments.append(texted(arguments, "a tool call's arguments"))

    def _call(self, index: object, call_id: str, name: str) -> _Call:
        """The call that a piece belongs to: servers leave the index out, or give all calls the same one."""
        known = self._by_index.get(index) if isinstance(index, int) else None
        if known is None and index is None and self._calls and not call_id and not name:
            known = self._calls[-1]
        if known is not None and not (call_id and known.id and call_id != known.id):
            return known
        if len(self._calls) >= MAX_CALLS:
            raise invalid(f"more than {MAX_CALLS} tool calls")
        call = _Call()
        self._calls.append(call)
        if isinstance(index, int):
            self._by_index[index] = call
        return call

    def _push_logprobs(self, value: object) -> None:
        if not isinstance(value, Mapping):
            return
        for each in _listed(value.get("content") or (), "logprobs"):
            text, logprob = _logprob(each)
            top = tuple(_logprob(other) for other in _listed(each.get("top_logprobs") or (), "top_logprobs"))
            self.logprobs.append(TokenLogprob(text, logprob, top))


def _logprob(value: Any) -> tuple[str, float]:
    logprob = value.get("logprob") if isinstance(value, Mapping) else None
    if not isinstance(logprob, (int, float)) or isinstance(logprob, bool) or not math.isfinite(logprob):
        raise invalid("a logarithm of a probability is no number")
    return texted(value.get("token"), "a token")[:MAX_TOKEN_CHARS], float(logprob)


def _listed(value: Any, what: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise invalid(f"{what} is no list")
    return value


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
