"""What becomes of a hand-out for which there is no room, or no right."""

from dataclasses import replace

from headrace_crds.task import LLMTask, TaskPhase
from headrace_operator.decide import task_status, waiting
from headrace_operator.decide.plans import TaskPlan
from headrace_operator.decide.snapshots import TaskSnapshot


def held_back(plan: TaskPlan, s: TaskSnapshot, task: LLMTask, why: waiting.Waiting) -> TaskPlan:
    """`plan` hands the task out; instead it waits at the attempt that the plan gave, never handed out at it.

    A plan without a status is about a task that the object says is handed out already: it stays out of the queue.
    """
    status, remove = task.status, s.held is not None
    if plan.enqueue is None:
        return plan
    if plan.status is None:
        return replace(plan, details="not offered", enqueue=None)
    unchanged = status is not None and status.phase is TaskPhase.WAITING and plan.enqueue.attempt == status.attempt
    if unchanged and status is not None and waiting.cause(status.reason, status.message) == why.cause:
        return replace(plan, details="still waits", status=None, enqueue=None, announcement=None, remove=remove)
    patch = task_status.explanation(task, why, now_ms=s.now_ms)
    if not unchanged:
        out = {"phase": TaskPhase.WAITING.value, "assignedModel": None, "runner": None}
        patch = {**plan.status, **patch, **out}
    return replace(
        plan, details="held back", status=patch, enqueue=None, explains_only=unchanged, announcement=None, remove=remove
    )
