"""What a dialect gives and gets: a request in the API's own types, events on the way, a result.

A dialect translates and no more: it knows neither Redis nor Kubernetes.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from headrace_crds.dialogue import Tool, ToolCall
from headrace_crds.inputs import Output, Parameters
from headrace_crds.result import Enforcement, Timings, Usage
from headrace_crds.work import CallOptions, WorkMessage
from headrace_facade.caller import Caller


@dataclass(frozen=True)
class CallRequest:
    """One call. It has ``messages``, or ``embed``, and never both."""

    model: str
    """``name`` in the caller's namespace, or ``namespace/name`` of a model that is shared with it."""
    messages: list[WorkMessage] = field(default_factory=list)
    embed: list[str] = field(default_factory=list)
    parameters: Parameters = field(default_factory=Parameters)
    """Absent members take the model's defaults."""
    output: Output | None = None
    tools: list[Tool] = field(default_factory=list)
    tool_choice: str = "auto"
    options: CallOptions = field(default_factory=CallOptions)
    """``stream`` is for who shows text as it grows; without it one event brings all."""
    priority: int = 0
    timeout_seconds: int = 300
    """For one attempt, from the claim on."""


@dataclass(frozen=True)
class Waiting:
    """Nothing has come yet; told every few seconds. For keep-alives."""

    reason: str
    """PascalCase, as a task's waiting reason: Queued, ModelLoading, RetryBackoff, …"""
    message: str
    ahead: int | None = None
    """Deliveries that come first, about."""
    eta_seconds: float | None = None


@dataclass(frozen=True)
class Delta:
    """What was added since the last one: text, reasoning, or one whole tool call."""

    text: str = ""
    reasoning: str = ""
    tool_call: ToolCall | None = None
    index: int = 0
    """Which of ``options.n`` completions."""
    tokens: int = 0
    """Generated so far; 0 where the provider does not tell."""


@dataclass(frozen=True)
class Choice:
    """One completion."""

    text: str
    finish_reason: str
    """Stop, Length or ToolCalls."""
    tool_calls: list[ToolCall] = field(default_factory=list)
    reasoning: str = ""
    logprobs: list[dict[str, object]] = field(default_factory=list)
    """One per token, as the engine's protocol has them; empty where none were asked for."""


@dataclass(frozen=True)
class Counted:
    """What a call with ``options.count`` is answered by."""

    count: int
    tokens: list[int] | None = None
    """The model's own; None where its provider tells the number alone."""
    context_tokens: int | None = None
    """How many the model takes, as its engine has it; None of a remote one."""


@dataclass(frozen=True)
class CallResult:
    """What became of it. The text is whole, also where it was streamed."""

    choices: list[Choice]
    usage: Usage
    timings: Timings
    model: str
    """The LLMModel that answered, ``namespace/name``: a fallback where that is another one than asked for."""
    embeddings: list[list[float]] = field(default_factory=list)
    """One per text of ``embed``."""
    counted: Counted | None = None
    enforcement: Enforcement | None = None
    repairs: int = 0
    attempts: int = 1


@dataclass(frozen=True)
class Ended:
    """The last event."""

    result: CallResult


CallEvent = Waiting | Delta | Ended


class Call(Protocol):
    """A call under way. Leaving its context before the end hangs up: the generation is aborted."""

    @property
    def id(self) -> str:
        """``call-`` and 32 hex digits: of log lines, and the dialects' ids are made of it."""

    @property
    def model(self) -> str:
        """The LLMModel asked for, ``namespace/name``."""

    def events(self) -> AsyncIterator[CallEvent]:
        """Once. Without ``options.stream`` there are no Deltas. Raises FacadeError where it fails: before the first
        Delta the answer's status can still say so, afterwards the dialect's error event does.
        """

    async def result(self) -> CallResult:
        """The last event's, for who shows nothing on the way. Raises FacadeError."""


class CallService(Protocol):
    """Entering the context queues the call; it raises FacadeError and has queued nothing then."""

    def call(self, caller: Caller, request: CallRequest) -> AbstractAsyncContextManager[Call]: ...
