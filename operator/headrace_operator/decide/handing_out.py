"""An accepted task and its model: handed out once there is one, waiting while there is none, the reason kept true."""

from dataclasses import replace

from headrace_crds.model import LLMModel
from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTask, TaskPhase
from headrace_operator.decide import clocks, task_status, waiting
from headrace_operator.decide.next_attempt import backoff_left_ms, delayed, explain, next_attempt, undelivered
from headrace_operator.decide.plans import Enqueue, TaskPlan
from headrace_operator.decide.snapshots import Place, TaskSnapshot


def model_missing(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    if s.model is not None:
        return None
    attempt = task_status.attempt_of(task)
    why = waiting.model_not_found(s.ref.model, s.ref.namespace)
    if attempt == 0:
        status = task_status.waiting(task, why, attempt=1, now_ms=s.now_ms)
        return TaskPlan("accepted; waits", status=task_status.not_judged_yet(task, status, now_ms=s.now_ms))
    if task_status.phase_of(task) is TaskPhase.WAITING:
        return explain(s, task, why, remove=s.held is not None)
    if task_status.phase_of(task) is TaskPhase.SUSPENDED:
        status = task_status.waiting(task, why, attempt=attempt, now_ms=s.now_ms)
        return TaskPlan("resumed; waits", status=status, remove=s.held is not None)
    record = undelivered(s, task, Reason.MODEL_NOT_FOUND, "the model was deleted")
    return next_attempt(s, task, record, "model was deleted")


def not_handed_out(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    attempt = task_status.attempt_of(task)
    phase = task_status.phase_of(task)
    if s.model is None or (attempt > 0 and phase not in (TaskPhase.WAITING, TaskPhase.SUSPENDED)):
        return None
    number = max(1, attempt)
    hindrance = waiting.can_never_serve(s.model)
    if hindrance is not None and attempt > 0 and phase is TaskPhase.WAITING:
        return explain(s, task, hindrance, remove=s.held is not None)
    if hindrance is not None:
        status = task_status.waiting(task, hindrance, attempt=number, now_ms=s.now_ms)
        return TaskPlan("waits", status=status, remove=s.held is not None)
    if s.held is not None and s.held.attempt >= number:
        number = s.held.attempt + 1
    if phase is TaskPhase.WAITING and (delay_ms := backoff_left_ms(s, task)) > 0:
        record = task_status.records_of(task)[-1]
        return delayed(s, task, number, record, "handed out after its backoff", delay_ms=delay_ms)
    status = task_status.queued(task, _explained(s.model, task), attempt=number, now_ms=s.now_ms)
    return TaskPlan("handed out", status=status, enqueue=Enqueue(number))


def _explained(model: LLMModel, task: LLMTask) -> waiting.Waiting:
    """Of a task that has just fallen back, with where it came from."""
    why, records = waiting.explain(model), task_status.records_of(task)
    if not records or records[-1].reason != Reason.FELL_BACK:
        return why
    return replace(why, message=f"{why.message}; {records[-1].message}")


def priority_edited(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    if s.held is None or s.model is None or s.held.place not in (Place.QUEUED, Place.DELAYED):
        return None
    if task.status is None:
        return None
    if (task.status.observed_generation or 0) >= task.metadata.generation and not s.misplaced:
        return None
    # The bus gives a waiting copy its new place when the same attempt is offered again.
    why = waiting.explain(s.model)
    status = task_status.explanation(task, why, now_ms=s.now_ms)
    enqueue = Enqueue(task_status.attempt_of(task))
    return TaskPlan("moved in the queue", status=status, enqueue=enqueue, enqueue_first=True)


def explanation_outdated(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    if s.held is None or s.model is None or s.held.place is not Place.QUEUED:
        return None
    return explain(s, task, waiting.explain(s.model))


def clocks_not_begun(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    # Accepted by an operator that knew no deadlines.
    begun = clocks.begun(task, s.now_ms)
    return TaskPlan("clocks begin", status=begun) if begun else None
