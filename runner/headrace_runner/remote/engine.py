"""An Engine on a provider: one attempt's calls, each admitted by the gate before and settled with it after.

| a call ends with                     | the gate is told    | the attempt gets                   |
|--------------------------------------|---------------------|------------------------------------|
| a result                             | success             | it, with times measured here       |
| an abort                             | reason Cancelled    | what the deltas brought, Cancelled |
| being cancelled                      | reason Cancelled    | nothing                            |
| NotAdmitted                          | nothing             | released                           |
| RateLimited, Overloaded, Unavailable | the fault           | released                           |
| Transient                            | the fault           | setback                            |
| Terminal                             | the fault           | failed, with the provider's usage  |
| anything else that a provider raises | Transient           | setback RunnerError                |
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import structlog

from headrace_bus.tracing import child
from headrace_crds.model import Capability
from headrace_crds.reasons import Reason
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Generate, GenerationResult, Usage
from headrace_runner.engine.untrusted import sentence
from headrace_runner.providers.protocol import Counting, Fault, Provider, ProviderError
from headrace_runner.remote.call_gate import PAUSING, CallGate, NotAdmitted
from headrace_runner.remote.calling import Call
from headrace_runner.remote.refused import Consequence, ProviderRefused
from headrace_runner.streaming import CallStream

END_SECONDS: Final = 2.0
"""So long a call that was cancelled may take to end before it is left to itself."""
SETTLE_SECONDS: Final = 2.0
_OF_ONE_REQUEST: Final = frozenset({402, 403, 404})
"""What a provider answers to one request while it serves others may be about that request: a filter before the API, a
bound that its credit does not cover. It is charged, and the breaker opens at the fifth, or one tenant's prompt would
shut a model for all."""
_FINISHED: Final = frozenset({"Stop", "Length", "ToolCalls"})
_CONSEQUENCES: Final = {Fault.TRANSIENT: Consequence.SETBACK, Fault.TERMINAL: Consequence.FAILED} | dict.fromkeys(
    PAUSING, Consequence.RELEASED
)

_log = structlog.get_logger()


@dataclass(frozen=True)
class Line:
    """What all attempts of a model's runner share. ``on_success`` is told of every call that gave a result,
    ``serves`` tells whether there was one lately.
    """

    provider: Provider
    gate: CallGate
    capabilities: Collection[Capability] = frozenset(Capability)
    on_success: Callable[[], None] = lambda: None
    serves: Callable[[], bool] = lambda: False
    monotonic: Callable[[], float] = time.monotonic


class RemoteEngine:
    """One attempt's. Its calls come one after the other."""

    def __init__(self, line: Line, stream: CallStream | None = None) -> None:
        self._line = line
        self._stream = stream
        self._aborts: dict[str, asyncio.Event] = {}

    async def generate(
        self, request: Generate | Embed, *, on_progress: Callable[[int], None] | None = None
    ) -> GenerationResult:
        """One call to its end. ``on_progress`` gets the number of completion tokens, at most twice a second.

        After ``abort`` the result is what there was by then, with the finish reason Cancelled. Cancelling it ends the
        call and gives nothing. Raises ProviderRefused, and ValueError for an id that is running.
        """
        if request.id in self._aborts:
            raise ValueError(f"generation {request.id!r} is running already")
        self._refuse_what_the_model_cannot(request)
        stream = self._stream if isinstance(request, Generate) else None
        call = Call(request, stream=stream, on_progress=on_progress, monotonic=self._line.monotonic)
        call_id = uuid.uuid4().hex
        asking = asyncio.create_task(self._ask(call, call_id, stream), name="provider-call")
        abort = self._aborts[request.id] = asyncio.Event()
        aborted = asyncio.create_task(abort.wait(), name="provider-abort")
        try:
            await asyncio.wait({asking, aborted}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Whoever calls again meanwhile has an end of its own.
            del self._aborts[request.id]
            aborted.cancel()
            was_done, call.closed = asking.done(), True
            try:
                await _end(asking)
            finally:
                # Also where the attempt is cancelled meanwhile: the gate would keep the place for as long as the pod.
                end = _End.of(asking if was_done else None, call)
                await self._settle(call_id, end)
        if end.result is not None:
            self._line.on_success()
            return end.result
        if end.refused is not None:
            raise end.refused
        return call.partial()

    async def abort(self, generation_id: str) -> None:
        """End the call; its ``generate`` gives what there is. Unknown ids are ignored."""
        if (abort := self._aborts.get(generation_id)) is not None:
            abort.set()

    def _refuse_what_the_model_cannot(self, request: Generate | Embed) -> None:
        if isinstance(request, Generate) and request.count is not None:
            self._refuse_what_is_not_counted(request)
            return
        embeds = isinstance(request, Embed)
        needed = {Capability.EMBEDDING} if embeds else {Capability.CHAT, Capability.COMPLETION}
        if needed.isdisjoint(self._line.capabilities):
            message = f"the model has no capability {' or '.join(sorted(needed))}: see its spec.capabilities"
            raise ProviderRefused(Consequence.FAILED, Reason.MODEL_NOT_CAPABLE, message)
        asked = None if isinstance(request, Embed) else request.parameters
        if asked is not None and (asked.n or asked.logprobs is not None or asked.logit_bias):
            message = "n, logprobs and logit_bias are for local models: leave them out"
            raise ProviderRefused(Consequence.FAILED, Reason.INVALID_PARAMETERS, message)

    def _refuse_what_is_not_counted(self, request: Generate) -> None:
        if request.count == "Text":
            message = "tokens are told by local models alone: a provider keeps its vocabulary to itself"
        elif not isinstance(self._line.provider, Counting):
            message = "the model's provider counts no tokens beforehand: the usage of an answer tells them"
        else:
            return
        raise ProviderRefused(Consequence.FAILED, Reason.MODEL_NOT_CAPABLE, message)

    async def _ask(self, call: Call, call_id: str, stream: CallStream | None) -> GenerationResult:
        with child("admission"):
            await self._line.gate.admit(call_id, call.at_most_tokens())
        call.sent = True
        try:
            if isinstance(call.request, Embed):
                result = await self._line.provider.embed(call.request)
            elif call.request.count is not None and isinstance(self._line.provider, Counting):
                result = await self._line.provider.count(call.request)
            else:
                if stream is not None:
                    stream.begin()
                result = await self._line.provider.generate(call.request, call.delta)
        except ProviderError as error:
            if error.fault is Fault.UNAVAILABLE and error.status in _OF_ONE_REQUEST and self._line.serves():
                error.fault = Fault.TRANSIENT
            raise
        if not isinstance(result, GenerationResult) or result.finish_reason not in _FINISHED:
            raise TypeError("a provider gives a finished GenerationResult")
        try:
            return call.whole(result)
        except ValueError as error:
            message = f"the provider's answer has {error} that no task's status takes"
            raise ProviderError(Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID, message, usage=result.usage) from error

    async def _settle(self, call_id: str, end: "_End") -> None:
        if not end.settled_with_gate:
            return
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                await self._line.gate.settle(
                    call_id,
                    fault=end.fault,
                    reason=end.reason,
                    message=end.message,
                    tokens=end.tokens,
                    retry_after_seconds=end.retry_after_seconds,
                )
        except TimeoutError:
            _log.warning("call not settled", fault=end.fault)


@dataclass(frozen=True)
class _End:
    """How a call ended, for the gate and for the attempt."""

    tokens: int
    fault: Fault | None = None
    reason: str = ""
    message: str = ""
    retry_after_seconds: float | None = None
    result: GenerationResult | None = None
    refused: ProviderRefused | None = None
    settled_with_gate: bool = True

    @classmethod
    def of(cls, asked: asyncio.Task[GenerationResult] | None, call: Call) -> "_End":
        """``asked`` is None for one that was ended from here."""
        if asked is None:
            return cls(call.so_far_tokens(), reason=Reason.CANCELLED)
        match asyncio.CancelledError() if asked.cancelled() else asked.exception():
            case None:
                result = asked.result()
                return cls(_cost(result.usage), result=result)
            case NotAdmitted() as error:
                refused = ProviderRefused(Consequence.RELEASED, error.reason, said(error.message))
                return cls(0, refused=refused, settled_with_gate=False)
            case ProviderError() as error:
                return cls._of_provider(error, call)
            case error:
                name = type(error).__name__
                _log.error("provider broke", error=name)
                message = f"the provider's code broke: {name}"
                refused = ProviderRefused(Consequence.SETBACK, Reason.RUNNER_ERROR, message)
                return cls(call.so_far_tokens(), Fault.TRANSIENT, Reason.RUNNER_ERROR, message, refused=refused)

    @classmethod
    def _of_provider(cls, error: ProviderError, call: Call) -> "_End":
        if error.usage is not None:
            tokens = _cost(error.usage)
        elif error.fault is Fault.TRANSIENT or call.tokens:
            tokens = call.so_far_tokens()
        else:
            tokens = 0
        message = said(error.message)
        usage = error.usage or (call.partial().usage if call.tokens else None)
        refused = ProviderRefused(_CONSEQUENCES[error.fault], error.reason, message, usage)
        return cls(tokens, error.fault, error.reason, message, error.retry_after_seconds, refused=refused)


def said(message: str) -> str:
    """A provider's or gate's message as a status and Redis take it."""
    return sentence(message.encode("utf-8", "replace").decode("utf-8"))


def _cost(usage: Usage) -> int:
    return usage.prompt_tokens + usage.completion_tokens


async def _end(asking: asyncio.Task[GenerationResult]) -> None:
    """Cancel it and wait for its end, though not for one that refuses to."""
    if asking.done():
        return
    asking.cancel()
    # Nobody asks how it ended.
    asking.add_done_callback(lambda task: task.cancelled() or task.exception())
    await asyncio.wait({asking}, timeout=END_SECONDS)
    if not asking.done():
        _log.error("a cancelled call does not end")
