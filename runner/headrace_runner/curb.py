"""What may end an attempt before it has generated its text, and which reason wins. It ends nothing itself."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from headrace_runner.attempt import Attempt
from headrace_runner.cut import Halt

T = TypeVar("T")


class Curb:
    """The wishes and bounds of one attempt. Time is Redis' at the claim, carried on by the monotonic clock."""

    def __init__(self) -> None:
        self._asked: set[Halt] = set()
        self._told = asyncio.Event()

    def ask(self, why: Halt) -> None:
        """Wish for its end; it cannot be taken back."""
        self._asked.add(why)
        self._told.set()

    def why(self, attempt: Attempt) -> Halt | None:
        """The reason to end, None while there is none."""
        reasons = set(self._asked)
        if attempt.left_ms <= 0:
            reasons.add(Halt.ATTEMPT_TIMEOUT)
        if attempt.deadline_left_ms is not None and attempt.deadline_left_ms <= 0:
            reasons.add(Halt.DEADLINE)
        return min(reasons, default=None)

    async def first(self, attempt: Attempt, work: asyncio.Task[Any]) -> Halt | None:
        """Wait for the work (None) or for a reason to end it, whichever comes first; the work goes on."""
        told = asyncio.create_task(self._told.wait())
        try:
            while not work.done():
                if (why := self.why(attempt)) is not None:
                    return why
                await asyncio.wait({work, told}, timeout=_left_seconds(attempt), return_when=asyncio.FIRST_COMPLETED)
            return None
        finally:
            told.cancel()

    async def unless_halted(self, attempt: Attempt, work: Coroutine[Any, Any, T]) -> T | Halt:
        """What the work gives, or the reason for which it was cancelled. Raises what the work raises."""
        task = asyncio.create_task(work)
        try:
            why = await self.first(attempt, task)
            return task.result() if why is None else why
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})


def _left_seconds(attempt: Attempt) -> float:
    left_ms = attempt.left_ms
    if attempt.deadline_left_ms is not None:
        left_ms = min(left_ms, attempt.deadline_left_ms)
    return max(left_ms, 1) / 1000
