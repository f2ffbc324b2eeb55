"""One call under way: its attempts, one after the other, until its client has an answer or an error.

Another attempt is made as long as the client has seen nothing of the answer; after that it ends with an error.
"""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from headrace_bus import FIRST, EntryState, Token
from headrace_bus.errors import BusError
from headrace_crds.model import LLMModel
from headrace_crds.reasons import Reason
from headrace_facade.caller import Caller
from headrace_facade.calls.assembling import Answered, Assembly, Restarted, Returned, Skipped, ending_of
from headrace_facade.calls.chain import Chain, key_of
from headrace_facade.calls.contract import CallEvent, CallRequest, CallResult, Delta, Ended, Waiting
from headrace_facade.calls.failures import CallBroken, ModelNotReady, ModelUnavailable, TimedOut, failure_of
from headrace_facade.errors import FacadeError, Unavailable

if TYPE_CHECKING:
    from headrace_facade.calls.service import Calls

ATTEMPTS_MOST: Final = 3
"""At one model."""
WAITING_EVERY_S: Final = 5.0
_LOOK_EVERY_S: Final = 1.0
_BACKOFF_S: Final = 0.25
_RETRY_AFTER_S: Final = 10
_GRACE_S: Final = 30.0
_CAUGHT_UP_MOST: Final = 4096
_PROMPT_TIMES: Final = 2
_ANSWER_TIMES: Final = 8
_AT_ONCE: Final = frozenset({Reason.LEASE_EXPIRED, Reason.RUNNER_STOPPED, Reason.QUEUE_STATE_LOST, Reason.ENGINE_LOST})


class Run:
    """A Call of contract.py."""

    def __init__(self, calls: "Calls", caller: Caller, request: CallRequest, model: LLMModel, chain: Chain) -> None:
        self._id = f"call-{secrets.token_hex(16)}"
        self.caller = caller
        self.request = request
        self.assigned = model
        self.attempt = 0
        self.created_ms = int(time.time() * 1000)
        self.payload: dict[str, Any] = {}
        self.work_tokens = 0
        self._calls = calls
        self._named = str(key_of(model))
        self._chain = chain
        self._line = calls.hub.join(key_of(model), self._id)
        self._assembly = Assembly()
        self._tries = 0
        self._last = FIRST
        self._is_fresh = True
        self._passed_on = False
        self._over = False
        self._queued_at = self._leased_at = 0.0
        self._charged = False
        self._prompt_tokens = self._told_tokens = 0
        self.held_bytes = 0

    @property
    def id(self) -> str:
        return self._id

    @property
    def model(self) -> str:
        return self._named

    async def begin(self) -> None:
        """The first attempt. Raises FacadeError, and has queued nothing then."""
        self._resolve(self.assigned)
        await self._queue()

    def close(self) -> None:
        """Whoever leaves before the end hangs up. What was done in vain is counted all the same, by estimate."""
        self._line.leave()
        if not self._charged and (self._leased_at or self._told_tokens):
            self._calls.charge_later(self.caller, self._prompt_tokens + self._told_tokens)
        if not self._over and self.attempt:
            self._over = True
            self._calls.hang_up(self._line.model, self._id)

    async def result(self) -> CallResult:
        async for event in self.events():
            if isinstance(event, Ended):
                return event.result
        raise CallBroken("the call ended without an answer")

    async def events(self) -> AsyncIterator[CallEvent]:
        told_at = self._calls.clock()
        while True:
            token = await self._line.next(_LOOK_EVERY_S)
            if token is None:
                await self._look()
                now = self._calls.clock()
                if now - told_at >= WAITING_EVERY_S and not self._passed_on:
                    told_at = now
                    yield await self._waiting()
                continue
            for each in await self._in_order(token):
                event = await self._take(each)
                if event is not None:
                    yield event
                if isinstance(event, Ended):
                    return

    async def _take(self, token: Token) -> CallEvent | None:
        if token.event.get("attempt") != self.attempt:
            return None
        told = self._assembly.take(token.event)
        match told:
            case Delta():
                if not self.request.options.stream:
                    return None
                self._passed_on = True
                self._told_tokens = max(self._told_tokens + 1, told.tokens)
                return told
            case Answered(document):
                return await self._answered(document)
            case Returned():
                await self._again(told)
            case Restarted():
                self._assembly = Assembly()
                if self._passed_on:
                    raise ModelUnavailable("the model's engine was lost in the middle of the answer: ask again", 1)
            case Skipped():
                if self.request.options.stream:
                    raise ModelUnavailable("a part of the answer was lost on its way: ask again", 1)
        return None

    async def _answered(self, document: dict[str, Any]) -> Ended | None:
        outcome, ending = ending_of(document)
        if outcome != "Complete":
            await self._again(ending)
            return None
        # The bus has forgotten it with its end: there is nothing to hang up.
        self._over = True
        # Numbers of vectors take many times what they take as base64.
        self._hold(_ANSWER_TIMES * self._assembly.chars)
        result = self._assembly.result(document, str(self._line.model), self.attempt)
        usage, self._charged = result.usage, True
        await self._calls.charge(self.caller, usage.prompt_tokens + usage.completion_tokens)
        return Ended(result)

    async def _look(self) -> None:
        """Nothing has come: is it lost, or late?"""
        line, now = self._line, self._calls.clock()
        if line.overrun:
            raise ModelUnavailable(
                "the answer was not read as fast as it came: read faster, or ask without a stream", 1
            )
        if line.is_lost:
            if not await self._missed():
                await self._again(Returned(Reason.QUEUE_STATE_LOST, "Redis knows nothing of the call", retryable=True))
            return
        if line.state is not EntryState.QUEUED:
            self._leased_at = self._leased_at or now
            if now - self._leased_at > self.request.timeout_seconds + _GRACE_S:
                raise TimedOut(f"no answer within {self.request.timeout_seconds} s: raise the time-out or ask for less")
            return
        self._leased_at = 0.0
        waited = now - self._queued_at
        patience = self._chain.hold_seconds
        if patience is not None and waited >= patience and await self._moved():
            return
        if waited >= self._calls.hold_seconds:
            why = self._calls.condition_of(line.model) or "QueueTimeout"
            told = (
                f"no runner of LLMModel {str(line.model)!r} took the call within {self._calls.hold_seconds:g} s ({why})"
            )
            raise ModelNotReady(f"{told}: try again later, or submit an LLMTask, which waits", _RETRY_AFTER_S)

    async def _missed(self) -> bool:
        """Whether it has ended meanwhile, and the inbox was too full to say so: what it told stands in its replay."""
        try:
            found = await self._calls.hub.bus.replay(self._line.model, self.id, after=self._last)
        except BusError:
            return False
        for token in found:
            self._line.put(token)
        return any(token.event.get("attempt") == self.attempt for token in found)

    async def _again(self, ending: Returned) -> None:
        """Another attempt, here or elsewhere. Raises FacadeError where there is none."""
        if self._passed_on:
            raise self._failure(ending)
        # Whoever waits has waited long enough for one that took too long.
        if ending.retryable and self._tries < ATTEMPTS_MOST and ending.reason != Reason.ATTEMPT_TIMEOUT:
            if ending.reason not in _AT_ONCE:
                # By chance, so that those that were refused together do not come back together.
                await asyncio.sleep(_BACKOFF_S * 2**self._tries * random.uniform(0.5, 1))  # noqa: S311  guards nothing
            await self._queue()
            return
        if self._chain.moves_for(ending.reason) and await self._moved():
            return
        raise self._failure(ending)

    def _failure(self, ending: Returned) -> FacadeError:
        self._over = True
        return failure_of(ending.reason, ending.message)

    async def _moved(self) -> bool:
        """To the next model of the chain; False where none can take it."""
        model = self._calls.next_model(self, self._chain)
        if model is None:
            return False
        self._line.leave()
        self._calls.hang_up(self._line.model, self._id)
        self._line = self._calls.hub.join(key_of(model), self._id)
        self.assigned, self._tries = model, 0
        self._resolve(model)
        await self._queue()
        return True

    def _resolve(self, model: LLMModel) -> None:
        work = self._calls.work(self.request, model)
        self.payload, self.work_tokens = work.dump(), self._calls.tokens_of(work)
        self._prompt_tokens = max(0, self.work_tokens - (work.parameters.max_tokens or 0))
        if not self.held_bytes:
            self._hold(_PROMPT_TIMES * _size(self.request))

    def _hold(self, size_bytes: int) -> None:
        self._calls.held.take(self.caller.name, size_bytes)
        self.held_bytes += size_bytes

    async def _queue(self) -> None:
        self.attempt += 1
        self._tries += 1
        self._assembly, self._is_fresh, self._leased_at = Assembly(), True, 0.0
        self._queued_at = self._calls.clock()
        self._line.restart()
        await self._calls.queue(self)

    async def _in_order(self, token: Token) -> list[Token]:
        """The token, and before it those that did not come: the inbox is bounded, the replay has them."""
        if token.event.get("attempt") != self.attempt:
            return []
        # An attempt begins anew.
        if token.before == self._last or (self._is_fresh and token.before == FIRST):
            self._last, self._is_fresh = token.id, False
            return [token]
        found: list[Token] = []
        after = FIRST if self._is_fresh else self._last
        while True:
            try:
                page = await self._calls.hub.bus.replay(self._line.model, self._id, after=after)
            except BusError as error:
                raise Unavailable("Redis, through which calls go, does not answer: try again") from error
            if not page or (page[0].before != after and not self._is_fresh):
                raise ModelUnavailable("a part of the answer was lost on its way: ask again", 1)
            if len(found) > _CAUGHT_UP_MOST:
                raise ModelUnavailable("the answer was not read as fast as it came: read faster", 1)
            for each in page:
                if each.event.get("attempt") == self.attempt:
                    found.append(each)
                # What follows is in the inbox, too.
                if each.id == token.id:
                    self._last, self._is_fresh = token.id, False
                    return found
            after = page[-1].id

    async def _waiting(self) -> Waiting:
        model = self._line.model
        if self._line.state is not EntryState.QUEUED:
            return Waiting(Reason.RUNNING, f"a runner of LLMModel {str(model)!r} has it")
        ahead = await self._calls.ahead(model, self._id)
        why = self._calls.condition_of(model)
        told = f"queued for LLMModel {str(model)!r}" + (f", which does not serve: {why}" if why else "")
        return Waiting(why or Reason.QUEUED, told, ahead)


def _size(request: CallRequest) -> int:
    """Characters of what was asked."""
    texts = [message.text for message in request.messages] + request.embed
    texts += [text for tool in request.tools for text in (tool.description or "", tool.parameters or "")]
    return sum(map(len, texts)) + (sum(map(len, request.output.texts())) if request.output is not None else 0)
