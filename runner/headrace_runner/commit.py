"""Commits one attempt's outcome to its object, and stays with it while the API server is away.

The only writer of outcomes in a runner. It decides nothing itself: ``commit_rule`` reads the answers.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import structlog

from headrace_runner import patches
from headrace_runner.attempt import Attempt
from headrace_runner.commit_rule import Next, after_commit, after_read
from headrace_runner.kube import Answer, Operation, TaskStatus
from headrace_runner.patience import pause_seconds
from headrace_runner.verdict import Verdict, too_large_for_object

PATIENCE_SECONDS: Final = 600.0
FORBIDDEN_SECONDS: Final = 120.0
"""So long a commit waits for its right: a RoleBinding that comes back, a policy or authorizer that lags."""
REFUSALS: Final = 8
"""So often the object may refuse a commit while it still waits for this attempt."""
_LONGEST_PAUSE_SECONDS: Final = 10.0

_log = structlog.get_logger()


class Ending(StrEnum):
    """What became of a commit."""

    COMMITTED = "Committed"
    FINISHED = "Finished"
    """Dropped: the object is gone or has its outcome from elsewhere."""
    MOVED = "Moved"
    """Dropped: another attempt is under way."""
    FORBIDDEN = "Forbidden"
    """Dropped: the runner's right to commit did not come back."""
    NOT_ASSIGNED = "NotAssigned"
    """Dropped: the task is another runner's."""
    REFUSED = "Refused"
    """Refused again and again although the object waits for it."""
    UNANSWERED = "Unanswered"
    """The API server was away for longer than a commit waits."""


@dataclass(frozen=True)
class Commit:
    """``verdict`` and ``status`` are what was committed: a smaller one where the result did not fit."""

    ending: Ending
    verdict: Verdict
    status: dict[str, Any]


_DROPPED: Final = {
    Next.COMMITTED: Ending.COMMITTED,
    Next.FINISHED: Ending.FINISHED,
    Next.MOVED: Ending.MOVED,
    Next.NOT_ASSIGNED: Ending.NOT_ASSIGNED,
}


class Committer:
    """``forbidden`` while the API server's last word was that this runner has no right to commit."""

    def __init__(
        self,
        tasks: TaskStatus,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.forbidden = False
        self._tasks = tasks
        self._patience_seconds = patience_seconds
        self._sleep = sleep
        self._monotonic = monotonic

    async def commit(self, attempt: Attempt, verdict: Verdict) -> Commit:
        """Try until the outcome is in the object, cannot be any more, or patience ends."""
        # Built once: a commit that is sent again after a lost answer has to be the same one.
        completed_ms = attempt.now_ms
        status = attempt.terminal_status(verdict, completed_ms)
        deadline = self._monotonic() + self._patience_seconds
        refusals = tries = 0
        forbidden_since: float | None = None
        shrunk = False
        while self._monotonic() < deadline and refusals < REFUSALS:
            step = after_commit(await self._send(attempt, patches.commit(attempt, status)))
            if step is Next.SHRINK and not shrunk:
                shrunk, verdict = True, too_large_for_object(verdict)
                status = attempt.terminal_status(verdict, completed_ms)
                continue
            if step in (Next.READ, Next.SHRINK):
                refusals += 1
            if step is Next.WAIT:
                forbidden_since = None
            if step not in (Next.COMMITTED, Next.FORBIDDEN, Next.NOT_ASSIGNED):
                step = await self._read(attempt, status, deadline)
            if step in _DROPPED:
                return Commit(_DROPPED[step], verdict, status)
            if step is not Next.FORBIDDEN:
                forbidden_since = None
            elif forbidden_since is None:
                forbidden_since = self._monotonic()
                _log.warning("commit waits for its right", **_keys(attempt))
            elif self._monotonic() - forbidden_since >= FORBIDDEN_SECONDS:
                return Commit(Ending.FORBIDDEN, verdict, status)
            await self._sleep(pause_seconds(tries, _LONGEST_PAUSE_SECONDS))
            tries += 1
        return Commit(Ending.REFUSED if refusals >= REFUSALS else Ending.UNANSWERED, verdict, status)

    async def _read(self, attempt: Attempt, status: dict[str, Any], deadline: float) -> Next:
        """Ask for the object until it is told, at most until the deadline."""
        tries = 0
        while True:
            answer = await self._send(attempt, patches.read(attempt.uid))
            step = after_read(answer, number=attempt.number, ours=status)
            if step is not Next.WAIT or self._monotonic() >= deadline:
                return step
            if tries == 0:
                _log.warning("commit waits for the API server", **_keys(attempt), http_status=answer.status)
            await self._sleep(pause_seconds(tries, _LONGEST_PAUSE_SECONDS))
            tries += 1

    async def _send(self, attempt: Attempt, operations: list[Operation]) -> Answer:
        answer = await self._tasks.patch(attempt.namespace, attempt.name, operations)
        # Silence says nothing about rights.
        if answer.status in range(200, 500) and answer.status not in (401, 429):
            self.forbidden = after_commit(answer) is Next.FORBIDDEN
        return answer


async def announce_running(tasks: TaskStatus, attempt: Attempt) -> None:
    """Write ``phase: Running``. A courtesy to people who look: a failure is nobody's concern."""
    answer = await tasks.patch(attempt.namespace, attempt.name, patches.read(attempt.uid))
    status = (answer.body or {}).get("status") or {}
    if status.get("attempt") == attempt.number and not status.get("outcome"):
        answer = await tasks.patch(attempt.namespace, attempt.name, patches.running(attempt, status))
    if answer.status != 200:
        _log.info("running not written", **_keys(attempt), http_status=answer.status)


def _keys(attempt: Attempt) -> dict[str, Any]:
    return {"task": attempt.name, "namespace": attempt.namespace, "attempt": attempt.number}
