"""Calls from a caller's request to its answer: may it be asked, is there room, and whom to ask again.

It must not know Redis' keys nor HTTP. What is kept of a call is kept here alone, as long as its client waits.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog
from pydantic import ValidationError

from headrace_bus import Envelope, ModelKey, WorkClass, tracing
from headrace_bus.errors import BusError, BusOutOfMemory, PayloadTooLarge
from headrace_crds.cache import cache_use
from headrace_crds.cost import may_take
from headrace_crds.inputs import Parameters
from headrace_crds.model import Capability, Defaults, LLMModel
from headrace_crds.quota import QUOTA_NAME
from headrace_crds.work import Count, Work
from headrace_facade.bounds import Bounds, queue_filled
from headrace_facade.caller import Caller
from headrace_facade.calls.chain import Chain, can, key_of, serves_now
from headrace_facade.calls.contract import CallRequest
from headrace_facade.calls.failures import CallsNotAllowed, InvalidCall, ModelNotFound, ModelUnavailable
from headrace_facade.calls.held import Held
from headrace_facade.calls.hub import LEASE_MS, Hub
from headrace_facade.calls.run import Run
from headrace_facade.directory import Directory
from headrace_facade.errors import FacadeError, RemoteNotAllowed, Unavailable
from headrace_facade.queues import Queues, QueueUnknown
from headrace_facade.rates import Rates

HANG_UP_SECONDS: Final = 5.0
HANG_UP_TRIES: Final = 5
_CHATS: Final = (Capability.CHAT, Capability.COMPLETION)
_EMBEDS: Final = (Capability.EMBEDDING,)

_log = structlog.get_logger("headrace_facade")


class Calls:
    """The CallService. Raises FacadeError."""

    def __init__(
        self,
        hub: Hub,
        directory: Directory,
        rates: Rates,
        queues: Queues,
        *,
        bounds: Bounds,
        hold_seconds: float,
        calls_limit: int,
        bytes_limit: int = 64 * 1024 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hub = hub
        self.hold_seconds = hold_seconds
        self.clock = clock
        self._directory = directory
        self._rates = rates
        self._queues = queues
        self._bounds = bounds
        self.held = Held(calls_limit, bytes_limit)
        self._hanging: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def call(self, caller: Caller, request: CallRequest) -> AsyncIterator[Run]:
        model = self._admitted(caller, request)
        self.held.enter(caller.name)
        run = None
        try:
            await self._rates.admit(caller)
            await self._room(caller, key_of(model))
            run = Run(self, caller, request, model, Chain.of(model, stays=_stays(request)))
            await run.begin()
            yield run
        finally:
            if run is not None:
                run.close()
            self.held.leave(caller.name, 0 if run is None else run.held_bytes)

    async def queue(self, run: Run) -> None:
        """Queues the run's present attempt at its present model."""
        destination = str(key_of(run.assigned))
        about = tracing.queued(destination, run.id, run.caller.namespace, run.attempt)
        with tracing.child("enqueue", tracing.Kind.PRODUCER, about):
            await self._queue(run)

    async def _queue(self, run: Run) -> None:
        request, model = run.request, run.assigned
        envelope = Envelope(
            uid=run.id,
            kind=WorkClass.CALL,
            namespace=run.caller.namespace,
            name=run.id,
            attempt=run.attempt,
            created_ms=run.created_ms,
            priority=request.priority,
            cost_tokens=run.work_tokens,
            payload=run.payload,
            traceparent=tracing.traceparent(),
        )
        try:
            await self.hub.bus.call(key_of(model), envelope, reader=self.hub.reader, lease_ms=LEASE_MS)
        except PayloadTooLarge as error:
            raise InvalidCall("the input is larger than a call may be: shorten it") from error
        except BusOutOfMemory as error:
            raise ModelUnavailable("Redis has no memory left for another call: try again", 5) from error
        except BusError as error:
            raise Unavailable("Redis, through which calls go, does not answer: try again") from error

    def work(self, request: CallRequest, model: LLMModel) -> Work:
        """The request resolved against the model, as the operator resolves a task. Raises InvalidCall."""
        defaults = model.spec.defaults or Defaults()
        given = request.parameters.model_dump(exclude_none=True)
        filled = {
            "temperature": defaults.temperature,
            "max_tokens": defaults.max_tokens,
            "stop": defaults.stop,
            **given,
        }
        counts = request.options.count is not None
        if counts:
            # A runner that does not know what is asked generates as little as can be.
            filled["max_tokens"] = 1
        try:
            return Work(
                model=str(key_of(model)),
                generation=0,
                messages=request.messages,
                embed=request.embed,
                parameters=Parameters.model_validate(filled),
                output=request.output,
                tools=request.tools,
                tool_choice=request.tool_choice,
                stream_to=self.hub.reader,
                call=request.options,
                attempt_timeout_ms=request.timeout_seconds * 1000,
                cache=None if counts else cache_use(model.spec.cache, model.metadata.uid, model.metadata.generation),
                price=model.spec.price,
            )
        except ValidationError as error:
            fields = sorted({".".join(map(str, each["loc"])) for each in error.errors(include_input=False)})
            raise InvalidCall(f"the request does not fit together: {', '.join(fields)}") from error

    def tokens_of(self, work: Work) -> int:
        """What fairness between namespaces counts."""
        return may_take(work).tokens

    def next_model(self, run: Run, chain: Chain) -> LLMModel | None:
        """The first of the chain that can serve the call now; those before it are passed over for good."""
        while chain.left:
            model = self._directory.any_model(chain.left.pop(0))
            if model is None or not self._directory.may_call(run.caller, model) or serves_now(model):
                continue
            try:
                self._check(run.caller, run.request, model)
            except FacadeError:
                continue
            return model
        return None

    def hang_up(self, model: ModelKey, uid: str) -> None:
        """In the background: who hangs up may be cancelled, or gone."""
        task = asyncio.create_task(self._hang_up(model, uid), name="hang-up")
        self._hanging.add(task)
        task.add_done_callback(self._hanging.discard)

    async def charge(self, caller: Caller, tokens: int) -> None:
        await self._rates.charge(caller, tokens)

    def charge_later(self, caller: Caller, tokens: int) -> None:
        """In the background: of a call that ended without an answer."""
        task = asyncio.create_task(self._rates.charge(caller, tokens), name="charge")
        self._hanging.add(task)
        task.add_done_callback(self._hanging.discard)

    def condition_of(self, model: ModelKey) -> str:
        """Why the model does not serve at the moment; empty: it does."""
        found = self._directory.any_model(model)
        return serves_now(found) if found is not None else ""

    async def ahead(self, model: ModelKey, uid: str) -> int | None:
        try:
            return await self._queues.ahead(model, uid)
        except QueueUnknown:
            return None

    async def aclose(self) -> None:
        """Waits for those that hang up."""
        if self._hanging:
            await asyncio.wait(set(self._hanging), timeout=HANG_UP_SECONDS)

    async def _hang_up(self, model: ModelKey, uid: str) -> None:
        for number in range(HANG_UP_TRIES):
            try:
                async with asyncio.timeout(HANG_UP_SECONDS):
                    await self.hub.bus.hang_up(model, uid, reader=self.hub.reader)
                return
            except (BusError, TimeoutError) as error:
                # Its waiter's lease ends it only once this replica has no other call of the model.
                _log.warning("not hung up", call=uid, error=type(error).__name__)
            await asyncio.sleep(2**number)

    def _admitted(self, caller: Caller, request: CallRequest) -> LLMModel:
        model = self._directory.model(caller, request.model)
        if model is None:
            self._directory.check_synced()
            told = f"no LLMModel {request.model[:128]!r} serves namespace {caller.namespace!r}"
            raise ModelNotFound(f"{told}: `name` is one of that namespace, `namespace/name` one that is shared with it")
        self._check(caller, request, model)
        return model

    def _check(self, caller: Caller, request: CallRequest, model: LLMModel) -> None:
        needed = _needed(request)
        if not can(model, needed):
            told = f"LLMModel {model.metadata.name!r} has no capability {' or '.join(needed)}"
            raise InvalidCall(f"{told}: name another model, or have its spec.capabilities changed")
        quota = self._directory.quota(caller.namespace)
        if quota is None:
            return
        if model.spec.remote is not None and quota.spec.remote_models is False:
            told = f"LLMModel {model.metadata.name!r} is a remote model, and LLMQuota {QUOTA_NAME!r} admits none"
            raise RemoteNotAllowed(f"{told} in namespace {caller.namespace!r}: name a local model, or have it allowed")
        if quota.spec.budgets:
            told = f"namespace {caller.namespace!r} has budgets (LLMQuota {QUOTA_NAME!r}), which calls do not count in"
            raise CallsNotAllowed(f"{told}: submit an LLMTask, by POST /api/v1/tasks or kubectl")

    async def _room(self, caller: Caller, model: ModelKey) -> None:
        try:
            stats = await self._queues.recent_stats(model)
        except QueueUnknown as error:
            raise Unavailable(str(error)) from error
        full = queue_filled(caller.namespace, model, stats, self._bounds)
        if full is not None:
            raise full


def _needed(request: CallRequest) -> tuple[Capability, ...]:
    """One of them."""
    if request.options.count is Count.TEXT:
        return (*_CHATS, *_EMBEDS)
    return _EMBEDS if request.embed else _CHATS


def _stays(request: CallRequest) -> bool:
    """What is asked is the model's own: vectors of different models cannot be compared, nor can tokens."""
    return bool(request.embed) or request.options.count is not None
