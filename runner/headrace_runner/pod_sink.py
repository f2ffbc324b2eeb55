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
| result above 32 KiB                      | –               | park     |
| the bus takes none for ten minutes       | –               | release  |
| setback, AttemptTimeout among them       | –               | fail     |
| Failed that another model may spare it   | –               | fail     |
| task suspended                           | –               | release  |
| runner stops                             | –               | release  |
| lease lost, or the entry dropped         | –               | –        |

Cancelled and DeadlineExceeded are outcomes like others. A lease that is lost or dropped while an outcome is on its way
ends nothing: the test of the attempt fences the commit, the lease's nonce the parking.
"""

import asyncio
import time
from typing import Any

import structlog

from headrace_bus import Failure
from headrace_crds.cost import spend_of
from headrace_crds.reasons import Reason
from headrace_crds.result import Usage
from headrace_crds.task import INLINE_RESULT_LIMIT_BYTES
from headrace_runner.attempt import Attempt
from headrace_runner.bus_entry import BusEntry
from headrace_runner.commit import Commit, Committer, Ending
from headrace_runner.metrics import Metrics
from headrace_runner.parking import Parker, Parking
from headrace_runner.slots import Slots
from headrace_runner.streaming import CallStream
from headrace_runner.verdict import Setback, Verdict, handed_over, too_large_to_park

_log = structlog.get_logger()


class PodSink:
    """The sink of one execution. ``committing`` is True from the end of the generation on."""

    def __init__(
        self,
        attempt: Attempt,
        entry: BusEntry,
        committer: Committer,
        slots: Slots,
        metrics: Metrics,
        parker: Parker | None = None,
        stream: CallStream | None = None,
    ) -> None:
        self.stream = stream
        self.committing = False
        self.stopping = False
        self._attempt = attempt
        self._entry = entry
        self._committer = committer
        self._slots = slots
        self._metrics = metrics
        self._parker = Parker() if parker is None else parker
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
        if (setback := handed_over(verdict, self._attempt.work)) is not None:
            await self._fail(setback)
            return
        if verdict.large is not None:
            parking = await self._parker.park(self._entry, self._attempt, verdict)
            if parking is Parking.PARKED:
                await self._end_stream(verdict)
            if parking is not Parking.TOO_LARGE:
                await self._parked(parking, verdict)
                return
            verdict = too_large_to_park(verdict)
        begun = time.monotonic()
        commit = await self._committer.commit(self._attempt, verdict)
        if commit.ending is Ending.COMMITTED:
            self._measure(commit.verdict, time.monotonic() - begun)
            await self._end_stream(commit.verdict)
        else:
            self._drop(commit.ending)
            self._metrics.spent(self._attempt.namespace, verdict.usage)
        await self._tell(commit)

    async def give_back(self, setback: Setback) -> None:
        if self.stopping:
            # An engine that goes away is part of stopping: nobody is charged.
            await self.release(Reason.RUNNER_STOPPED, setback.usage)
            return
        await self._fail(setback)

    async def _fail(self, setback: Setback) -> None:
        self._metrics.spent(self._attempt.namespace, setback.usage)
        self._metrics.tasks.labels("Setback", setback.reason).inc()
        _log.warning("attempt failed", **self._entry.keys, reason=str(setback.reason), retryable=setback.retryable)
        spent = None if setback.usage is None else spend_of(setback.usage)
        await self._entry.fail(Failure(setback.reason, setback.message, setback.retryable, spent))

    async def release(self, reason: str, usage: Usage | None = None) -> None:
        self._metrics.tasks.labels("Released", reason).inc()
        self._metrics.spent(self._attempt.namespace, usage)
        await self._entry.release(reason, None if usage is None else spend_of(usage))

    def lost(self) -> None:
        """The lease is lost: the entry is somebody else's, there is nothing to say."""
        self._metrics.leases_lost.inc()
        self._metrics.tasks.labels("Lost", Reason.LEASE_EXPIRED).inc()
        _log.warning("lease lost", **self._entry.keys)

    def dropped(self) -> None:
        """The entry is gone, by the operator's word: nobody waits for an answer."""
        self._metrics.tasks.labels("Dropped", "Interrupted").inc()
        _log.info("attempt dropped", **self._entry.keys)

    async def _end_stream(self, verdict: Verdict) -> None:
        # While the lease is held: the bus takes nothing of a call without one.
        if self.stream is not None:
            await self.stream.end(outcome=verdict.outcome.value, reason=str(verdict.reason))

    async def _parked(self, parking: Parking, verdict: Verdict) -> None:
        match parking:
            case Parking.PARKED:
                self._metrics.tasks.labels("Parked", verdict.reason).inc()
                self._metrics.spent(self._attempt.namespace, verdict.usage)
                _log.info("result parked", **self._entry.keys, claim_to_park_millis=self._attempt.elapsed_ms)
            case Parking.NO_ROOM:
                await self.release(Reason.RESULT_NOT_PARKED, verdict.usage)
            case _:
                self._metrics.tasks.labels("Dropped", parking.value).inc()
                _log.warning("result not parked", **self._entry.keys, ending=parking.value)

    async def _tell(self, commit: Commit) -> None:
        usage = commit.verdict.usage
        spent = None if usage is None else spend_of(usage)
        match commit.ending:
            case Ending.COMMITTED:
                await self._entry.complete(_for_waiters(commit.status))
            case Ending.FINISHED:
                await self._entry.complete(None)
            case Ending.MOVED:
                await self._entry.release(Reason.ATTEMPT_SUPERSEDED, spent)
            case Ending.UNANSWERED:
                await self._entry.release(Reason.API_SERVER_UNAVAILABLE, spent)
            case Ending.FORBIDDEN:
                await self._entry.release(Reason.COMMIT_FORBIDDEN, spent)
            case Ending.NOT_ASSIGNED:
                await self._entry.release(Reason.ATTEMPT_SUPERSEDED, spent)
            case Ending.REFUSED:
                message = "the API server refused the outcome again and again"
                await self._entry.fail(Failure(Reason.COMMIT_REFUSED, message, spent=spent))

    def _drop(self, ending: Ending) -> None:
        if ending in (Ending.FINISHED, Ending.MOVED, Ending.NOT_ASSIGNED):
            self._metrics.fenced_commits.inc()
        self._metrics.tasks.labels("Dropped", ending.value).inc()
        _log.warning("outcome dropped", **self._entry.keys, ending=ending.value)

    def _measure(self, verdict: Verdict, commit_seconds: float) -> None:
        self._metrics.tasks.labels(verdict.outcome.value, verdict.reason).inc()
        self._metrics.commit.observe(commit_seconds)
        self._metrics.claim_to_commit.observe(self._attempt.elapsed_ms / 1000)
        if verdict.timings is not None and verdict.timings.first_token_millis is not None:
            self._metrics.first_token.observe(verdict.timings.first_token_millis / 1000)
        self._metrics.spent(self._attempt.namespace, verdict.usage)
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
