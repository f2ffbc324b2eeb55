"""The object and its entry in the bus: where they disagree, the object is brought on and the entry follows."""

from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTask
from headrace_operator.decide import task_status, untrusted, waiting
from headrace_operator.decide.next_attempt import next_attempt, present_attempt, undelivered
from headrace_operator.decide.plans import Enqueue, TaskPlan
from headrace_operator.decide.snapshots import TaskSnapshot


def entry_senseless(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    beyond = task_status.attempt_of(task) + untrusted.ATTEMPTS_AHEAD
    if not s.senseless and (s.held is None or s.held.attempt <= beyond):
        return None
    return TaskPlan("entry makes no sense", remove=True, requeue_after_seconds=0.0)


def envelope_missing(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    if s.held is not None:
        return None
    attempt = task_status.attempt_of(task)
    if s.refused_attempt == attempt:
        return TaskPlan("offered again", enqueue=present_attempt(s, task, attempt))
    if s.model_replaced:
        record = undelivered(s, task, Reason.MODEL_REPLACED, "the model was deleted and created again")
    else:
        record = undelivered(s, task, Reason.QUEUE_STATE_LOST, "the queue holds nothing under this attempt")
    return next_attempt(s, task, record, "rebuilt")


def envelope_outdated(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    attempt = task_status.attempt_of(task)
    if s.held is None or s.held.attempt >= attempt:
        return None
    return TaskPlan("enqueued at the object's attempt", enqueue=present_attempt(s, task, attempt))


def envelope_ahead(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    # An object that was restored from a backup: the bus saw later attempts than it tells of.
    attempt = task_status.attempt_of(task)
    if s.held is None or s.held.attempt <= attempt or s.model is None:
        return None
    number = s.held.attempt + 1
    status = task_status.queued(task, waiting.explain(s.model), attempt=number, now_ms=s.now_ms)
    return TaskPlan("caught up with the queue", status=status, enqueue=Enqueue(number))
