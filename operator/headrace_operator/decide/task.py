"""What to do about one task. The gates are asked in order; the first that finds its invariant broken makes the plan.

object              bus            plan
gone                anything       remove
any                 nonsense       remove, look again
finished            anything       remove, but leave a lease's holder time to complete
no attempt          –              fail, wait, or hand out at 1
n                   returned n     attempt n + 1, or Failed
n, Queued/Running   –              attempt n + 1 (the bus lost it), or Waiting if the model is gone
n, Waiting          –              hand out at n once there is a model
n                   older than n   enqueue at n
n                   newer than n   attempt beyond the bus's
n                   queued at n    keep the explanation true
"""

from collections.abc import Callable
from typing import Any, Final

from headrace_crds.outcome import timestamp
from headrace_crds.reasons import Reason
from headrace_crds.task import AttemptRecord, LLMTask, LLMTaskStatus, TaskPhase
from headrace_operator.decide import acceptance, retry, task_status, untrusted, waiting
from headrace_operator.decide.plans import Announcement, Enqueue, TaskPlan
from headrace_operator.decide.snapshots import Place, TaskSnapshot

COMPLETION_GRACE_SECONDS: Final = 20.0
"""After a commit the runner has this long to leave the result for who waits; then the entry is removed."""

SETTLED: Final = TaskPlan("as it should be")


def decide(s: TaskSnapshot) -> TaskPlan:
    """One plan; applied to what it was decided on, it leads to SETTLED or to a wait for somebody else."""
    if s.task is None:
        return TaskPlan("object is gone", remove=True)
    return next((plan for gate in GATES if (plan := gate(s, s.task)) is not None), SETTLED)


def entry_senseless(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    beyond = task_status.attempt_of(task) + untrusted.ATTEMPTS_AHEAD
    if not s.senseless and (s.held is None or s.held.attempt <= beyond):
        return None
    return TaskPlan("entry makes no sense", remove=True, requeue_after_seconds=0.0)


def finished(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    if task.status is None or task.status.outcome is None:
        return None
    status = None
    if (task.status.observed_generation or 0) < task.metadata.generation:
        # Edited during or after the run; kstatus, and with it helm and Flux, would wait for ever.
        status = {"observedGeneration": task.metadata.generation}
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
    ended_ms = max(s.held.since_ms, task_status.completed_ms(status))
    return min(ended_ms + int(COMPLETION_GRACE_SECONDS * 1000) - s.now_ms, int(COMPLETION_GRACE_SECONDS * 1000))


def not_acceptable(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    if task_status.attempt_of(task) > 0:
        return None
    refusal = acceptance.refusal(task)
    if refusal is None:
        return None
    status = task_status.failed(task, refusal.reason, refusal.message, now_ms=s.now_ms, attempts=[])
    return TaskPlan(
        "refused at accept",
        status=status,
        remove=s.held is not None,
        announcement=Announcement("Warning", refusal.reason, refusal.message),
    )


def unacceptable(s: TaskSnapshot, task: LLMTask, reason: Reason, message: str) -> TaskPlan:
    """The queue refused the envelope for good: no further attempt would fare better."""
    if task.status is not None and task.status.outcome is not None:
        return decide(s)
    status = task_status.failed(task, reason, message, now_ms=s.now_ms, attempts=task_status.records_of(task))
    return TaskPlan(
        "refused by the queue",
        status=status,
        remove=s.held is not None,
        announcement=Announcement("Warning", reason, message),
    )


def delivery_returned(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    attempt = task_status.attempt_of(task)
    if attempt == 0 or s.held is None or s.held.returned is None or s.held.attempt != attempt:
        return None
    records = task_status.records_of(task)
    retries = (task.status.retries or 0) if task.status is not None else 0
    verdict = retry.verdict(
        s.held.returned,
        attempt=attempt,
        retries=retries,
        backoff_limit=task.spec.backoff_limit,
        records=records,
        model=str(s.ref.model),
        jitter=s.jitter,
    )
    if isinstance(verdict, retry.GiveUp):
        status = task_status.failed(
            task, verdict.reason, verdict.message, now_ms=s.now_ms, attempts=[*records, verdict.record]
        )
        return TaskPlan(
            "attempts are used up",
            status={**status, **_first_start(task, s.held.returned.claimed_ms)},
            remove=True,
            announcement=Announcement("Warning", verdict.reason, f"attempt {attempt}: {verdict.record.reason}"),
        )
    return _next_attempt(
        s,
        task,
        verdict.record,
        "delivery came back",
        delay_ms=verdict.delay_ms,
        retries=retries + (1 if verdict.charged else 0),
        **_first_start(task, s.held.returned.claimed_ms),
    )


def model_missing(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    if s.model is not None:
        return None
    attempt = task_status.attempt_of(task)
    if attempt == 0:
        why = waiting.model_not_found(s.ref.model)
        return TaskPlan("accepted; waits", status=task_status.waiting(task, why, attempt=1, now_ms=s.now_ms))
    if _phase(task) is TaskPhase.WAITING:
        return _explain(s, task, waiting.model_not_found(s.ref.model), remove=s.held is not None)
    record = _undelivered(s, task, Reason.MODEL_NOT_FOUND, "the model was deleted")
    return _next_attempt(s, task, record, "model was deleted")


def not_handed_out(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    attempt = task_status.attempt_of(task)
    if s.model is None or (attempt > 0 and _phase(task) is not TaskPhase.WAITING):
        return None
    hindrance = waiting.can_never_serve(s.model)
    if hindrance is not None and attempt > 0:
        return _explain(s, task, hindrance, remove=s.held is not None)
    if hindrance is not None:
        return TaskPlan("accepted; waits", status=task_status.waiting(task, hindrance, attempt=1, now_ms=s.now_ms))
    number = max(1, attempt)
    if s.held is not None and s.held.attempt >= number:
        number = s.held.attempt + 1
    status = task_status.queued(task, waiting.explain(s.model), attempt=number, now_ms=s.now_ms)
    return TaskPlan("handed out", status=status, enqueue=Enqueue(number))


def envelope_missing(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    if s.held is not None:
        return None
    attempt = task_status.attempt_of(task)
    if s.refused_attempt == attempt:
        return TaskPlan("offered again", enqueue=_enqueue(s, task, attempt))
    if s.model_replaced:
        record = _undelivered(s, task, Reason.MODEL_REPLACED, "the model was deleted and created again")
    else:
        record = _undelivered(s, task, Reason.QUEUE_STATE_LOST, "the queue holds nothing under this attempt")
    return _next_attempt(s, task, record, "rebuilt")


def envelope_outdated(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    attempt = task_status.attempt_of(task)
    if s.held is None or s.held.attempt >= attempt:
        return None
    return TaskPlan("enqueued at the object's attempt", enqueue=_enqueue(s, task, attempt))


def envelope_ahead(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    # An object that was restored from a backup: the bus saw later attempts than it tells of.
    attempt = task_status.attempt_of(task)
    if s.held is None or s.held.attempt <= attempt or s.model is None:
        return None
    number = s.held.attempt + 1
    status = task_status.queued(task, waiting.explain(s.model), attempt=number, now_ms=s.now_ms)
    return TaskPlan("caught up with the queue", status=status, enqueue=Enqueue(number))


def priority_edited(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    if s.held is None or s.model is None or s.held.place not in (Place.QUEUED, Place.DELAYED):
        return None
    if task.status is None or (task.status.observed_generation or 0) >= task.metadata.generation:
        return None
    # The bus gives a waiting copy its new place when the same attempt is offered again.
    why = waiting.explain(s.model)
    status = task_status.explanation(task, why, now_ms=s.now_ms)
    return TaskPlan("moved in the queue", status=status, enqueue=Enqueue(task_status.attempt_of(task)))


def explanation_outdated(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    if s.held is None or s.model is None or s.held.place is not Place.QUEUED:
        return None
    return _explain(s, task, waiting.explain(s.model))


GATES: Final[tuple[Callable[[TaskSnapshot, LLMTask], TaskPlan | None], ...]] = (
    entry_senseless,
    finished,
    not_acceptable,
    delivery_returned,
    model_missing,
    not_handed_out,
    envelope_missing,
    envelope_outdated,
    envelope_ahead,
    priority_edited,
    explanation_outdated,
)


def _next_attempt(
    s: TaskSnapshot, task: LLMTask, record: AttemptRecord, details: str, *, delay_ms: int = 0, **members: Any
) -> TaskPlan:
    """The record of the present attempt, and attempt + 1 where the model allows: queued, after a delay, or waiting."""
    number = task_status.attempt_of(task) + 1
    members = {**members, "attempts": task_status.kept([*task_status.records_of(task), record])}
    if s.model is None:
        why = waiting.model_not_found(s.ref.model)
        status = task_status.waiting(task, why, attempt=number, now_ms=s.now_ms, **members)
        return TaskPlan(details, status=status, remove=s.held is not None)
    if delay_ms == 0:
        status = task_status.queued(task, waiting.explain(s.model), attempt=number, now_ms=s.now_ms, **members)
        return TaskPlan(details, status=status, enqueue=Enqueue(number))
    not_before_ms = s.now_ms + delay_ms
    why = waiting.Waiting(
        Reason.RETRY_BACKOFF,
        f"attempt {number - 1} ended with {record.reason}; attempt {number} may start at {timestamp(not_before_ms)}",
    )
    status = task_status.queued(task, why, attempt=number, now_ms=s.now_ms, **members)
    return TaskPlan(
        details,
        status=status,
        enqueue=Enqueue(number, not_before_ms),
        # By then it is normally claimed; if not, the explanation changes from backoff to what it waits for.
        requeue_after_seconds=delay_ms / 1000 + 5.0,
    )


def _enqueue(s: TaskSnapshot, task: LLMTask, attempt: int) -> Enqueue:
    """The backoff of an attempt whose enqueue did not come about is drawn again."""
    status = task.status
    if status is None or status.reason != Reason.RETRY_BACKOFF:
        return Enqueue(attempt)
    return Enqueue(attempt, s.now_ms + retry.backoff_ms(max(1, status.retries or 0), s.jitter))


def _explain(s: TaskSnapshot, task: LLMTask, why: waiting.Waiting, *, remove: bool = False) -> TaskPlan:
    status = task.status
    if status is not None and waiting.cause(status.reason, status.message) == why.cause:
        return TaskPlan("entry of a waiting task", remove=True) if remove else SETTLED
    patch = task_status.explanation(task, why, now_ms=s.now_ms)
    return TaskPlan("explained", status=patch, explains_only=True, remove=remove)


def _undelivered(s: TaskSnapshot, task: LLMTask, reason: Reason, message: str) -> AttemptRecord:
    runner = task.status.runner if task.status is not None else None
    return retry.undelivered_record(
        attempt=task_status.attempt_of(task),
        model=str(s.ref.model),
        pod=runner.pod if runner is not None else None,
        now_ms=s.now_ms,
        reason=reason,
        message=message,
    )


def _first_start(task: LLMTask, claimed_ms: int) -> dict[str, str]:
    """status.startTime is the first claim; a runner writes it only when it writes anything."""
    known = task.status is not None and task.status.start_time is not None
    return {} if known or not claimed_ms else {"startTime": timestamp(claimed_ms)}


def _phase(task: LLMTask) -> TaskPhase | None:
    return task.status.phase if task.status is not None else None
