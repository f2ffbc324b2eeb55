"""One delivery in a pod: from the claim to its end, whoever ends it.

The execution runs in a task of its own, so that a lost lease or a stopping runner can end it at any point. What is told
to whom then is ``pod_sink``'s.
"""

import asyncio
import contextlib
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Final

import structlog
from pydantic import ValidationError

from headrace_bus import Bus, Delivery, Failure, Interruption, LeaseToken, ModelKey, WorkClass
from headrace_bus.tracing import SILENT, TraceContext, Tracing, current, entered
from headrace_crds.reasons import Reason
from headrace_crds.remote import Remote
from headrace_crds.work import Work
from headrace_runner.attempt import Attempt
from headrace_runner.backend import Backend
from headrace_runner.bus_entry import BusEntry
from headrace_runner.call_sink import CallSink
from headrace_runner.commit import Committer, announce_running
from headrace_runner.curb import Curb
from headrace_runner.cut import Halt
from headrace_runner.engine.client import EngineLost
from headrace_runner.execute import execute
from headrace_runner.kube import TaskStatus
from headrace_runner.lease import LeaseKeeper
from headrace_runner.logs import error_keys
from headrace_runner.metrics import Metrics
from headrace_runner.pod_sink import PodSink
from headrace_runner.response_cache import ResponseCache
from headrace_runner.slots import Slots
from headrace_runner.streaming import TokenStreams
from headrace_runner.traced import Served, TracedEngine, TracedSink, begun
from headrace_runner.validate import Validator
from headrace_runner.verdict import Setback

ANNOUNCE_AFTER_SECONDS: Final = 1.0

_log = structlog.get_logger()


class Abort(Enum):
    """Why an execution is ended from outside, with nothing to show for it."""

    LEASE_LOST = auto()
    DROPPED = auto()
    """The operator said that the entry is gone."""
    STOPPING = auto()


@dataclass(frozen=True)
class Deck:
    """What every flight of a runner shares."""

    bus: Bus
    model: ModelKey
    pod: str
    tasks: TaskStatus
    committer: Committer
    leases: LeaseKeeper
    backend: Backend
    validator: Validator
    slots: Slots
    metrics: Metrics
    streams: TokenStreams
    tracing: Tracing = SILENT
    remote: Remote | None = None
    """Of a remote model: what its spans tell."""


class Flight:
    """Takes a slot when it is made; ``run`` gives it back."""

    def __init__(self, delivery: Delivery, deck: Deck) -> None:
        envelope = delivery.envelope
        keys: dict[str, Any] = {
            "task": envelope.name,
            "namespace": envelope.namespace,
            "attempt": delivery.token.attempt,
        }
        if (traced := TraceContext.parse(envelope.traceparent)) is not None:
            keys["trace_id"] = traced.trace_id
        self._delivery = delivery
        self._deck = deck
        self._entry = BusEntry(deck.bus, deck.model, delivery.token, keys)
        self._claimed_at, self._claimed_ns = time.monotonic(), time.time_ns()
        self._sink: PodSink | CallSink | None = None
        self._stopping = False
        self._abort: Abort | None = None
        self._aborted = asyncio.Event()
        self._curb = Curb()
        deck.slots.take()

    @property
    def token(self) -> LeaseToken:
        return self._delivery.token

    @property
    def keys(self) -> dict[str, Any]:
        """Keys of its log lines."""
        return self._entry.keys

    @property
    def committing(self) -> bool:
        return self._sink is not None and self._sink.committing

    def abort(self, why: Abort) -> None:
        """End the execution. A commit goes on without its lease: the test of the attempt fences it."""
        if self._abort is None and not (why is not Abort.STOPPING and self.committing):
            self._abort = why
            self._aborted.set()

    def interrupt(self, word: Interruption) -> None:
        """Do what the operator says, unless the text is generated: who commits first wins."""
        match word:
            case Interruption.CANCEL:
                self._curb.ask(Halt.CANCEL)
            case Interruption.SUSPEND:
                self._curb.ask(Halt.SUSPEND)
            case Interruption.DROP:
                self.abort(Abort.DROPPED)

    def prepare_to_stop(self) -> None:
        """From here on a failing engine charges nobody."""
        self._stopping = True
        if self._sink is not None:
            self._sink.stopping = True

    async def run(self, after: Collection[asyncio.Task[None]] = ()) -> None:
        """Until the entry is completed, handed back or lost. Those `after` have left the engine before it is asked: it
        takes one generation of an attempt at a time.
        """
        token = self._delivery.token
        if (trace_id := self._entry.keys.get("trace_id")) is not None:
            # For lines that have no keys of ours; this is a task of its own.
            structlog.contextvars.bind_contextvars(trace_id=trace_id)
        self._deck.leases.hold(token, lambda: self.abort(Abort.LEASE_LOST))
        try:
            if after:
                await asyncio.wait(after)
            attempt = self._attempt()
            if attempt is not None:
                served = Served.of(self._deck.model, self._deck.remote)
                span = begun(self._deck.tracing, self._delivery, attempt.work, served, self._claimed_ns)
                with entered(span):
                    await self._guard(attempt, served)
            else:
                await self._entry.fail(Failure(Reason.INVALID_WORK, "the envelope holds no work", retryable=False))
        finally:
            self._deck.leases.drop(token)
            self._deck.slots.leave(parked=self.committing)

    async def _guard(self, attempt: Attempt, served: Served) -> None:
        sink = self._sink = self._opened(attempt)
        sink.stopping = self._stopping
        execution = asyncio.create_task(self._execute(attempt, sink, served), name="execution")
        aborted = asyncio.create_task(self._aborted.wait(), name="abort")
        try:
            await asyncio.wait({execution, aborted}, return_when=asyncio.FIRST_COMPLETED)
            if not execution.done():
                await _cancel(execution)
                await self._end(sink)
            elif error := execution.exception():
                _log.error("attempt broke", **self._entry.keys, **error_keys(error))
                current().fail(type(error).__name__)
                await sink.give_back(Setback(Reason.RUNNER_ERROR, f"the runner broke: {type(error).__name__}"))
        finally:
            await _cancel(execution)
            await _cancel(aborted)

    def _opened(self, attempt: Attempt) -> PodSink | CallSink:
        deck, work, stream = self._deck, attempt.work, None
        if work.stream_to is not None and (work.call is None or work.call.stream):
            stream = deck.streams.open(self._delivery.token, work.stream_to, self._claimed_at)
        if work.call is not None:
            entry = replace(self._entry, reader=work.stream_to or "")
            return CallSink(attempt, entry, deck.slots, deck.metrics, stream)
        return PodSink(attempt, self._entry, deck.committer, deck.slots, deck.metrics, stream=stream)

    async def _execute(self, attempt: Attempt, sink: PodSink | CallSink, served: Served) -> None:
        try:
            engine = TracedEngine(self._deck.backend.trial(attempt, sink.stream), served)
        except EngineLost:
            # It was never asked: nobody is charged.
            await sink.release(Reason.ENGINE_LOST)
            return
        validator, use = self._deck.validator, attempt.work.cache
        cached = None
        if use is not None:
            deck = self._deck
            cached = ResponseCache(deck.bus, deck.model, attempt, use, engine, sink, sink.stream, deck.metrics)
        told = TracedSink(cached or sink, attempt)
        if isinstance(sink, CallSink):
            await execute(attempt, cached or engine, validator, told, self._curb)
            return
        announcement = asyncio.create_task(self._announce(attempt, sink), name="announcement")
        try:
            await execute(attempt, cached or engine, validator, told, self._curb)
        finally:
            await _cancel(announcement)

    async def _announce(self, attempt: Attempt, sink: PodSink) -> None:
        """Say that it runs, unless its outcome is on the way already."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANNOUNCE_AFTER_SECONDS):
                await sink.wait_generated()
                return
        try:
            await announce_running(self._deck.tasks, attempt)
        except Exception as error:
            _log.error("running not written", **self._entry.keys, **error_keys(error))

    async def _end(self, sink: PodSink | CallSink) -> None:
        if self._abort is not None:
            current().fail(self._abort.name.lower())
        match self._abort:
            case Abort.LEASE_LOST:
                sink.lost()
            case Abort.DROPPED:
                sink.dropped()
            case _:
                await sink.release(Reason.RUNNER_STOPPED)

    def _attempt(self) -> Attempt | None:
        """None where the payload is no work, or not of the envelope's kind: a call never reaches the commit."""
        envelope = self._delivery.envelope
        try:
            work = Work.model_validate(envelope.payload)
        except ValidationError as error:
            fields = [".".join(map(str, each["loc"])) for each in error.errors(include_input=False)]
            _log.error("invalid work", **self._entry.keys, fields=fields)
            return None
        if (work.call is not None) is not (envelope.kind is WorkClass.CALL):
            _log.error("no work of its kind", **self._entry.keys, kind=envelope.kind.value)
            return None
        return Attempt(
            uid=envelope.uid,
            namespace=envelope.namespace,
            name=envelope.name,
            number=envelope.attempt,
            work=work,
            pod=self._deck.pod,
            claimed_ms=self._delivery.claimed_ms,
            enqueued_ms=self._delivery.enqueued_ms,
            claimed_at=self._claimed_at,
        )


async def _cancel(task: asyncio.Task[Any]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
