"""`spec.suspend`: out of the queue, or off its runner, with the clocks standing still.

The phase Suspended says the same as Waiting of the attempt: it was never handed out. What was handed out is therefore
suspended at attempt + 1, and handed out again without a further write. Resuming is what `handing_out` does with it.
"""

from dataclasses import replace
from typing import Final

from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTask, TaskPhase
from headrace_operator.decide import task_status
from headrace_operator.decide.holder import may_commit, taken_back
from headrace_operator.decide.next_attempt import next_attempt, undelivered
from headrace_operator.decide.plans import SETTLED, TaskPlan
from headrace_operator.decide.snapshots import TaskSnapshot

ASK_AGAIN_SECONDS: Final = 2.0


def suspended(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    if not task.spec.suspend:
        return None
    attempt, phase = task_status.attempt_of(task), task_status.phase_of(task)
    if phase is TaskPhase.SUSPENDED and attempt > 0:
        return _stays(s, task)
    if attempt == 0 or phase is TaskPhase.WAITING:
        number = max(1, attempt)
        if s.held is not None and s.held.attempt >= number:
            number = s.held.attempt + 1
        status = task_status.suspended(task, attempt=number, now_ms=s.now_ms)
        if attempt == 0 and s.model is None:
            status = task_status.not_judged_yet(task, status, now_ms=s.now_ms)
        return TaskPlan("suspended before it was handed out", status=status, remove=s.held is not None)
    if may_commit(s, task):
        return TaskPlan("its runner is told to let go", interrupt="Suspend", requeue_after_seconds=ASK_AGAIN_SECONDS)
    if s.held is not None and s.held.returned is not None and s.held.attempt == attempt:
        return None  # `delivery_returned` judges it, and suspends what goes on
    record = undelivered(s, task, Reason.SUSPENDED, "suspended while no runner worked on it")
    plan = next_attempt(s, task, record, "suspended")
    return replace(plan, take_back=taken_back(s, task), remove=False)


def _stays(s: TaskSnapshot, task: LLMTask) -> TaskPlan:
    status = None
    if task.status is not None and (task.status.observed_generation or 0) < task.metadata.generation:
        status = task_status.suspended(task, attempt=task_status.attempt_of(task), now_ms=s.now_ms)
    if status is None and s.held is None:
        return SETTLED
    return TaskPlan("stays suspended", status=status, remove=s.held is not None)
