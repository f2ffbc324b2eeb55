"""What several gates of a task do: go on at the next attempt, say why it waits, record what nobody delivered."""

from typing import Any

from headrace_crds.outcome import timestamp
from headrace_crds.reasons import Reason
from headrace_crds.task import AttemptRecord, LLMTask
from headrace_operator.decide import clocks, retry, task_status, waiting
from headrace_operator.decide.plans import SETTLED, Enqueue, TaskPlan
from headrace_operator.decide.snapshots import TaskSnapshot


def next_attempt(
    s: TaskSnapshot, task: LLMTask, record: AttemptRecord, details: str, *, delay_ms: int = 0, **members: Any
) -> TaskPlan:
    """The record of the present attempt, and one beyond it and all that the bus has seen: suspended where the spec says
    so, else as the model allows queued, queued after a delay, or waiting.
    """
    number = max(task_status.attempt_of(task), s.held.attempt if s.held is not None else 0) + 1
    members = {**members, "attempts": task_status.kept([*task_status.records_of(task), record])}
    if task.spec.suspend:
        status = task_status.suspended(task, attempt=number, now_ms=s.now_ms, **members)
        return TaskPlan(details, status=status, remove=s.held is not None)
    if s.model is None:
        why = waiting.model_not_found(s.ref.model, s.ref.namespace)
        status = task_status.waiting(task, why, attempt=number, now_ms=s.now_ms, **members)
        return TaskPlan(details, status=status, remove=s.held is not None)
    if delay_ms == 0:
        status = task_status.queued(task, waiting.explain(s.model), attempt=number, now_ms=s.now_ms, **members)
        return TaskPlan(details, status=status, enqueue=Enqueue(number))
    return delayed(s, task, number, record, details, delay_ms=delay_ms, **members)


def delayed(
    s: TaskSnapshot, task: LLMTask, number: int, record: AttemptRecord, details: str, *, delay_ms: int, **members: Any
) -> TaskPlan:
    """Handed out at `number`, not before the delay is over. `record` tells of the attempt that it follows."""
    not_before_ms = s.now_ms + delay_ms
    why = waiting.Waiting(
        Reason.RETRY_BACKOFF,
        f"attempt {record.number} ended with {record.reason}; attempt {number} may start at {timestamp(not_before_ms)}",
    )
    status = task_status.queued(task, why, attempt=number, now_ms=s.now_ms, **members)
    return TaskPlan(
        details,
        status=status,
        enqueue=Enqueue(number, not_before_ms),
        # By then it is normally claimed; if not, the explanation changes from backoff to what it waits for.
        requeue_after_seconds=delay_ms / 1000 + 5.0,
    )


def present_attempt(s: TaskSnapshot, task: LLMTask, attempt: int) -> Enqueue:
    """The backoff of an attempt whose enqueue did not come about is drawn again."""
    status = task.status
    if status is None or status.reason != Reason.RETRY_BACKOFF:
        return Enqueue(attempt)
    return Enqueue(attempt, s.now_ms + retry.backoff_ms(max(1, status.retries or 0), s.jitter))


def backoff_left_ms(s: TaskSnapshot, task: LLMTask) -> int:
    """Of a retry that was held back: the backoff drawn again, less what passed since the attempt before it ended."""
    records, retries = task_status.records_of(task), task_status.counters_of(task)[0]
    ended_ms = clocks.milliseconds(records[-1].completion_time) if records else None
    # Another model has not failed yet.
    if ended_ms is None or retries < 1 or records[-1].reason == Reason.FELL_BACK:
        return 0
    return max(0, ended_ms + retry.backoff_ms(retries, s.jitter) - s.now_ms)


def explain(s: TaskSnapshot, task: LLMTask, why: waiting.Waiting, *, remove: bool = False) -> TaskPlan:
    """Writes a waiting reason only where it says something else than before."""
    status = task.status
    if status is not None and waiting.cause(status.reason, status.message) == why.cause:
        return TaskPlan("entry of a waiting task", remove=True) if remove else SETTLED
    patch = task_status.explanation(task, why, now_ms=s.now_ms)
    return TaskPlan("explained", status=patch, explains_only=True, remove=remove)


def undelivered(s: TaskSnapshot, task: LLMTask, reason: Reason, message: str) -> AttemptRecord:
    runner = task.status.runner if task.status is not None else None
    return retry.undelivered_record(
        attempt=task_status.attempt_of(task),
        model=str(s.ref.model),
        pod=runner.pod if runner is not None else None,
        now_ms=s.now_ms,
        reason=reason,
        message=message,
    )


def first_start(task: LLMTask, claimed_ms: int) -> dict[str, Any]:
    """status.startTime is the first claim; a runner writes it only when it writes anything."""
    known = task.status is not None and task.status.start_time is not None
    return {} if known or not claimed_ms else {"startTime": timestamp(claimed_ms)}
