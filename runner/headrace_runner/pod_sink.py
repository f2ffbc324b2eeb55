"""What a pod does with the end of an attempt: commit it to the object, then say the word that ends its bus entry.

| ending                                   | object          | bus      |
|------------------------------------------|-----------------|----------|
| outcome committed                        | outcome         | complete |
| object gone or finished by somebody else | –               | complete |
| attempt moved on                         | –               | release  |
| API server away for ten minutes          | –               | release  |
| commit forbidden for two minutes         | –               | release  |
| the task is another runner's             | –               | release  |
| commit refused all along                 | –               | fail     |
| setback                                  | –               | fail     |
| runner stops                             | –               | release  |
| lease lost                               | –               | –        |
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import structlog

from headrace_bus import Bus, BusError, Failure, LeaseToken, ModelKey
from headrace_crds.reasons import Reason
from headrace_crds.task import INLINE_RESULT_LIMIT_BYTES
from headrace_runner.attempt import Attempt
from headrace_runner.commit import Commit, Committer, Ending
from headrace_runner.metrics import Metrics
from headrace_runner.slots import Slots
from headrace_runner.verdict import Setback, Verdict

_BUS_TRIES: Final = 5

_log = structlog.get_logger()


@dataclass(frozen=True)
class BusEntry:
    """A delivery's entry, and the three words that end it. They insist: the bus may be away for a while."""

    bus: Bus
    model: ModelKey
    token: LeaseToken
    keys: dict[str, Any]
    """Keys of its log lines."""

    async def complete(self, result: dict[str, Any] | None) -> None:
        await self._insist(lambda: self.bus.complete(self.model, self.token, result=result))

    async def fail(self, failure: Failure) -> None:
        await self._insist(lambda: self.bus.fail(self.model, self.token, failure))

    async def release(self, reason: str) -> None:
        _log.info("attempt released", **self.keys, reason=str(reason))
        await self._insist(lambda: self.bus.release(self.model, self.token, str(reason)))

    async def _insist(self, call: Callable[[], Awaitable[bool]]) -> None:
        """What cannot be told runs out with the lease, and the operator looks at the object then."""
        for number in range(_BUS_TRIES):
            try:
                if not await call():
                    _log.info("entry was not ours any more", **self.keys)
                return
            except BusError as error:
                _log.warning("bus not told", **self.keys, reason=error.reason)
                await asyncio.sleep(0.2 * 2**number)


class PodSink:
    """The sink of one execution. ``committing`` is True from the end of the generation on."""

    def __init__(self, attempt: Attempt, entry: BusEntry, committer: Committer, slots: Slots, metrics: Metrics) -> None:
        self.committing = False
        self.stopping = False
        self._attempt = attempt
        self._entry = entry
        self._committer = committer
        self._slots = slots
        self._metrics = metrics
        self._generated = asyncio.Event()

    def progress(self, completion_tokens: int) -> None:
        """Nobody is told: tokens never touch the object."""

    def generated(self) -> None:
        self.committing = True
        self._generated.set()
        self._slots.park()

    async def wait_generated(self) -> None:
        await self._generated.wait()

    async def conclude(self, verdict: Verdict) -> None:
        begun = time.monotonic()
        commit = await self._committer.commit(self._attempt, verdict)
        if commit.ending is Ending.COMMITTED:
            self._measure(commit.verdict, time.monotonic() - begun)
        else:
            self._drop(commit.ending)
        await self._tell(commit)

    async def give_back(self, setback: Setback) -> None:
        if self.stopping:
            # An engine that goes away is part of stopping: nobody is charged.
            await self.release(Reason.RUNNER_STOPPED)
            return
        self._metrics.tasks.labels("Setback", setback.reason).inc()
        _log.warning("attempt failed", **self._entry.keys, reason=str(setback.reason), retryable=setback.retryable)
        await self._entry.fail(Failure(setback.reason, setback.message, setback.retryable))

    async def release(self, reason: str) -> None:
        self._metrics.tasks.labels("Released", reason).inc()
        await self._entry.release(reason)

    def lost(self) -> None:
        """The lease is lost: the entry is somebody else's, there is nothing to say."""
        self._metrics.leases_lost.inc()
        self._metrics.tasks.labels("Lost", Reason.LEASE_EXPIRED).inc()
        _log.warning("lease lost", **self._entry.keys)

    async def _tell(self, commit: Commit) -> None:
        match commit.ending:
            case Ending.COMMITTED:
                await self._entry.complete(_for_waiters(commit.status))
            case Ending.FINISHED:
                await self._entry.complete(None)
            case Ending.MOVED:
                await self._entry.release(Reason.ATTEMPT_SUPERSEDED)
            case Ending.UNANSWERED:
                await self._entry.release(Reason.API_SERVER_UNAVAILABLE)
            case Ending.FORBIDDEN:
                await self._entry.release(Reason.COMMIT_FORBIDDEN)
            case Ending.NOT_ASSIGNED:
                await self._entry.release(Reason.ATTEMPT_SUPERSEDED)
            case Ending.REFUSED:
                await self._entry.fail(
                    Failure(Reason.COMMIT_REFUSED, "the API server refused the outcome again and again")
                )

    def _drop(self, ending: Ending) -> None:
        if ending in (Ending.FINISHED, Ending.MOVED, Ending.NOT_ASSIGNED):
            self._metrics.fenced_commits.inc()
        self._metrics.tasks.labels("Dropped", ending.value).inc()
        _log.warning("outcome dropped", **self._entry.keys, ending=ending.value)

    def _measure(self, verdict: Verdict, commit_seconds: float) -> None:
        self._metrics.tasks.labels(verdict.outcome.value, verdict.reason).inc()
        self._metrics.commit.observe(commit_seconds)
        self._metrics.claim_to_commit.observe(self._attempt.elapsed_ms / 1000)
        for kind, count in (verdict.usage.dump() if verdict.usage else {}).items():
            self._metrics.tokens.labels(kind).inc(count)
        _log.info(
            "task finished",
            **self._entry.keys,
            outcome=verdict.outcome.value,
            reason=str(verdict.reason),
            commit_millis=int(commit_seconds * 1000),
            claim_to_commit_millis=self._attempt.elapsed_ms,
            generation_millis=verdict.timings.generation_millis if verdict.timings else None,
        )


def _for_waiters(status: dict[str, Any]) -> dict[str, Any]:
    """What Redis keeps for who waits: its memory is for queued work. A longer text is read from the object."""
    kept: dict[str, Any] = {name: status[name] for name in ("outcome", "reason", "usage") if name in status}
    text = (status.get("result") or {}).get("text")
    if text is not None and len(text.encode()) <= INLINE_RESULT_LIMIT_BYTES:
        kept["text"] = text
    return kept
