"""Sharing that ends while a task is open: the task waits for an hour, so that a mistyped label ends nobody's work.

The condition `Shared=False` holds when that began: a restart of the operator grants no second hour. `Shared=Unknown`
holds that no model has admitted the task yet: such a one has no grace.
"""

from dataclasses import replace
from typing import Final

from headrace_crds.base import Condition, ConditionStatus, find_condition
from headrace_crds.outcome import timestamp
from headrace_crds.reasons import Reason
from headrace_crds.task import HANDED_OUT, LLMTask, TaskPhase
from headrace_operator.decide import clocks, retry, task_status
from headrace_operator.decide.delivery import judged
from headrace_operator.decide.holder import records_at_end, start_at_end, taken_back
from headrace_operator.decide.next_attempt import explain
from headrace_operator.decide.plans import Announcement, TaskPlan
from headrace_operator.decide.sharing import message_of, refused, unserved
from headrace_operator.decide.snapshots import TaskSnapshot
from headrace_operator.decide.waiting import Waiting

GRACE_SECONDS: Final = 3600


def not_shared(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    """Fails at once what was never admitted, and after its grace what was. Who is suspended needs no model yet."""
    if not refused(s) or (task.spec.suspend and task_status.attempt_of(task) > 0):
        return None
    if _was_admitted(task) and s.now_ms < _grace_end_ms(s, task):
        return None
    return unserved(s, task)


def sharing_withdrawn(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    """Also off its runner, which has lost the right to commit it. Charged is only what had come back by itself."""
    if not refused(s):
        return None
    end_ms = _grace_end_ms(s, task)
    message = f"{message_of(s)}; the task goes on once it is served, and fails at {timestamp(end_ms)} if it is not"
    why = Waiting(Reason.MODEL_NOT_SHARED, message)
    left_seconds = (end_ms - s.now_ms) / 1000
    attempt, phase = task_status.attempt_of(task), task_status.phase_of(task)
    if phase is TaskPhase.WAITING:
        return replace(explain(s, task, why, remove=s.held is not None), requeue_after_seconds=left_seconds)
    if phase not in HANDED_OUT:
        status = task_status.waiting(task, why, attempt=attempt, now_ms=s.now_ms)
        remove = s.held is not None
        return TaskPlan("resumed; not shared", status=status, remove=remove, requeue_after_seconds=left_seconds)
    found = judged(s, task)
    if found is not None and (task.spec.suspend or isinstance(found[0], retry.GiveUp)):
        return None  # `delivery_returned` suspends it, or ends it: no sharing would have given it another attempt
    raised = found[1] if found is not None else {}
    number = max(attempt, s.held.attempt if s.held is not None else 0) + 1
    records = records_at_end(s, task, Reason.MODEL_NOT_SHARED, "the model does not serve the namespace any more")
    members = {"attempts": task_status.kept(records), **start_at_end(s, task), **raised}
    return TaskPlan(
        "not shared any more; waits",
        take_back=taken_back(s, task),
        status=task_status.waiting(task, why, attempt=number, now_ms=s.now_ms, **members),
        announcement=Announcement("Warning", Reason.MODEL_NOT_SHARED, message),
        requeue_after_seconds=left_seconds,
    )


def _was_admitted(task: LLMTask) -> bool:
    """Only who names a model that is missing is accepted without having been admitted, and says so until it is."""
    told = _shared(task)
    return task_status.attempt_of(task) > 0 and (told is None or told.status is not ConditionStatus.UNKNOWN)


def _shared(task: LLMTask) -> Condition | None:
    return find_condition(task.status.conditions, "Shared") if task.status is not None else None


def _grace_end_ms(s: TaskSnapshot, task: LLMTask) -> int:
    told = _shared(task)
    since_ms = s.now_ms
    if told is not None and told.status is ConditionStatus.FALSE:
        since_ms = min(clocks.milliseconds(told.last_transition_time) or s.now_ms, s.now_ms)
    return since_ms + GRACE_SECONDS * 1000
