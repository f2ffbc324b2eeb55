"""How many of a batch's tasks stand where, and what they took. Pure."""

from dataclasses import dataclass, replace
from typing import Final

from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTaskStatus, Outcome
from headrace_facade.openai_batches.times import unix_time

EXPIRED: Final = frozenset({Reason.DEADLINE_EXCEEDED.value, Reason.QUEUE_DEADLINE_EXCEEDED.value})
"""Reasons of tasks for which the batch's window was too short."""


@dataclass(frozen=True)
class Tally:
    """Of the tasks that are there. `failed` are those that are neither cancelled nor expired."""

    open: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    last_end: int = 0
    """Unix time of the latest end."""

    @property
    def seen(self) -> int:
        return self.open + self.completed + self.failed + self.cancelled + self.expired

    def with_task(self, status: LLMTaskStatus) -> "Tally":
        if status.outcome is None:
            return replace(self, open=self.open + 1)
        place = _place(status)
        counts = {place: getattr(self, place) + 1}
        if (used := status.usage) is not None:
            counts |= {
                "prompt_tokens": self.prompt_tokens + used.prompt_tokens,
                "completion_tokens": self.completion_tokens + used.completion_tokens,
                "cached_tokens": self.cached_tokens + used.cached_tokens,
                "reasoning_tokens": self.reasoning_tokens + (used.reasoning_tokens or 0),
            }
        end = 0 if status.completion_time is None else unix_time(status.completion_time)
        return replace(self, **counts, last_end=max(self.last_end, end))


def _place(status: LLMTaskStatus) -> str:
    if status.outcome is Outcome.COMPLETE:
        return "completed"
    if status.outcome is Outcome.CANCELLED:
        return "cancelled"
    return "expired" if status.reason in EXPIRED else "failed"
