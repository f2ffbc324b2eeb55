"""One attempt of a task: who it is, when it was claimed, and the status that it leaves behind."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from headrace_crds.outcome import terminal_status, timestamp
from headrace_crds.task import AttemptRecord
from headrace_crds.work import Work
from headrace_runner.verdict import Verdict

_MESSAGE_CHARS: Final = 512


@dataclass(frozen=True)
class Attempt:
    """``claimed_ms`` and ``enqueued_ms`` are Redis' time; ``claimed_at`` is the monotonic second of the claim."""

    uid: str
    namespace: str
    name: str
    number: int
    work: Work
    pod: str
    claimed_ms: int
    enqueued_ms: int
    claimed_at: float
    monotonic: Callable[[], float] = time.monotonic

    @property
    def elapsed_ms(self) -> int:
        return int((self.monotonic() - self.claimed_at) * 1000)

    @property
    def now_ms(self) -> int:
        """Redis' time, carried on by this machine's monotonic clock."""
        return self.claimed_ms + self.elapsed_ms

    @property
    def left_ms(self) -> int:
        """What is left of the attempt's own time."""
        return self.work.attempt_timeout_ms - self.elapsed_ms

    @property
    def deadline_left_ms(self) -> int | None:
        """What is left of the whole task's time; None where nothing bounds it."""
        return None if self.work.deadline_ms is None else self.work.deadline_ms - self.now_ms

    @property
    def queued_ms(self) -> int:
        return max(0, self.claimed_ms - self.enqueued_ms)

    @property
    def start_time(self) -> str:
        return timestamp(self.claimed_ms)

    def terminal_status(self, verdict: Verdict, completed_ms: int) -> dict[str, Any]:
        """The status members that an outcome sets, in wire form, ``startTime`` and ``runner`` left out."""
        record = AttemptRecord(
            number=self.number,
            model=self.work.model,
            pod=self.pod,
            start_time=self.start_time,
            completion_time=timestamp(completed_ms),
            outcome=verdict.outcome.value,
            reason=verdict.reason,
            message=verdict.message[:_MESSAGE_CHARS],
        )
        earlier = [AttemptRecord.model_validate(each) for each in self.work.attempts]
        return terminal_status(
            verdict.outcome,
            # A plain string: YAML knows no enums.
            reason=str(verdict.reason),
            message=verdict.message,
            generation=self.work.generation,
            completed_ms=completed_ms,
            attempts=[*earlier, record],
            result=verdict.result,
            usage=verdict.usage,
            timings=verdict.timings,
            notify=self.work.notify,
        )
