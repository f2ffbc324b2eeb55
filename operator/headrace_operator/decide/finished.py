"""A task that ended: its status is final, and what the bus still holds of it goes."""

from typing import Final

from headrace_crds.task import LLMTask, LLMTaskStatus
from headrace_operator.decide import ended, task_status
from headrace_operator.decide.plans import SETTLED, TaskPlan
from headrace_operator.decide.snapshots import Place, TaskSnapshot

COMPLETION_GRACE_SECONDS: Final = 20.0
"""After a commit the runner has this long to leave the result for who waits; then the entry is removed."""


def finished(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    if task.status is None or task.status.outcome is None:
        return None
    status = None
    if (task.status.observed_generation or 0) < task.metadata.generation:
        # Edited during or after the run; kstatus, kubectl wait, and with them helm and Flux, would wait for ever.
        status = task_status.caught_up(task)
    completing_ms = _completing_ms(s, task.status)
    if completing_ms > 0:
        details = "finished; its runner is completing"
        return TaskPlan(details, status=status, requeue_after_seconds=completing_ms / 1000)
    if s.held is None and status is None:
        return SETTLED
    return TaskPlan("finished", status=status, remove=s.held is not None)


def _completing_ms(s: TaskSnapshot, status: LLMTaskStatus) -> int:
    """What is left of the time that the committing runner has; its lease may be much older than the commit."""
    if s.held is None or s.held.place is not Place.LEASED or s.held.attempt != (status.attempt or 0):
        return 0
    completed_ms = task_status.completed_ms(status)
    ended_ms = max(s.held.since_ms, ended.ended_ms(completed_ms, task_status.accepted_ms(status), s.now_ms))
    return min(ended_ms + int(COMPLETION_GRACE_SECONDS * 1000) - s.now_ms, int(COMPLETION_GRACE_SECONDS * 1000))
