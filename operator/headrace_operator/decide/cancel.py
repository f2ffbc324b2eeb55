"""`spec.cancel`: the operator ends what nobody works on; a runner ends its own, and has ten seconds for it."""

from typing import Final

from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTask, Outcome
from headrace_operator.decide.holder import may_commit, status_at_end, taken_back
from headrace_operator.decide.plans import Announcement, TaskPlan
from headrace_operator.decide.snapshots import TaskSnapshot

UNANSWERED_MS: Final = 10_000
ASK_AGAIN_SECONDS: Final = 1.0
"""A word may get lost with its worker, and the lease may change hands."""


def cancelled(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    if not task.spec.cancel:
        return None
    if not may_commit(s, task):
        return _end(s, task, Reason.CANCELLED, "cancelled while no runner worked on it")
    if s.cancel_asked_ms is None or s.now_ms - s.cancel_asked_ms < UNANSWERED_MS:
        return TaskPlan("its runner is told to cancel", interrupt="Cancel", requeue_after_seconds=ASK_AGAIN_SECONDS)
    message = f"cancelled; its runner did not answer within {UNANSWERED_MS // 1000} s"
    return _end(s, task, Reason.CANCEL_UNANSWERED, message)


def _end(s: TaskSnapshot, task: LLMTask, reason: Reason, message: str) -> TaskPlan:
    return TaskPlan(
        "cancelled",
        take_back=taken_back(s, task),
        status=status_at_end(s, task, reason, message, outcome=Outcome.CANCELLED),
        announcement=Announcement("Normal", reason, message),
    )
