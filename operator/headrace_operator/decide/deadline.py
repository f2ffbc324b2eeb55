"""Deadlines that the operator enforces: on the first claim, and on the whole task.

A runner ends its own attempt at the active deadline (`Work.deadline_ms`), with what it knows of it; the operator waits
for that, and no longer than its grace.
"""

from typing import Final

from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTask
from headrace_operator.decide import clocks, task_status
from headrace_operator.decide.holder import may_commit, status_at_end, taken_back
from headrace_operator.decide.plans import Announcement, TaskPlan
from headrace_operator.decide.snapshots import Place, TaskSnapshot

HOLDER_GRACE_MS: Final = 10_000


def queue_deadline_passed(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    end_ms = clocks.queue_end_ms(task)
    was_claimed = s.held is not None and s.held.place in (Place.LEASED, Place.RETURNED)
    if end_ms is None or s.now_ms < end_ms or was_claimed:
        return None
    limit = task.spec.queue_deadline_seconds
    message = f"no runner took it within queueDeadlineSeconds ({limit} s): raise it, or the model's replicas"
    return _end(s, task, Reason.QUEUE_DEADLINE_EXCEEDED, message)


def active_deadline_passed(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    end_ms = clocks.active_end_ms(task)
    if end_ms is None or s.now_ms < end_ms or _came_to_an_end(s, task):
        return None
    if may_commit(s, task) and s.now_ms < end_ms + HOLDER_GRACE_MS:
        left_ms = end_ms + HOLDER_GRACE_MS - s.now_ms
        return TaskPlan("over; its runner is ending it", requeue_after_seconds=left_ms / 1000)
    limit = task.spec.active_deadline_seconds
    message = f"not done within activeDeadlineSeconds ({limit} s): raise it, or lower maxTokens"
    return _end(s, task, Reason.DEADLINE_EXCEEDED, message)


def _came_to_an_end(s: TaskSnapshot, task: LLMTask) -> bool:
    """With a result, or a failure whose own reason says more than the deadline: its attempt was over in time."""
    if s.held is None or s.held.returned is None or s.held.attempt != task_status.attempt_of(task):
        return False
    returned = s.held.returned
    return returned.how == "Parked" or (returned.how == "Failed" and not returned.retryable)


def _end(s: TaskSnapshot, task: LLMTask, reason: Reason, message: str) -> TaskPlan:
    return TaskPlan(
        "deadline passed",
        take_back=taken_back(s, task),
        status=status_at_end(s, task, reason, message),
        announcement=Announcement("Warning", reason, message),
    )
