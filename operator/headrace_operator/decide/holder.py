"""Whether somebody works on a task, and what becomes of that attempt when the operator ends the task."""

from collections.abc import Sequence
from typing import Any

from headrace_crds.reasons import Reason
from headrace_crds.task import HANDED_OUT, AttemptRecord, LLMTask, Outcome
from headrace_operator.decide import retry, task_status
from headrace_operator.decide.delivery import judged
from headrace_operator.decide.next_attempt import first_start
from headrace_operator.decide.plans import TakeBack
from headrace_operator.decide.snapshots import Place, TaskSnapshot


def may_commit(s: TaskSnapshot, task: LLMTask) -> bool:
    """Somebody works on the very attempt that the object says is handed out."""
    return (
        s.held is not None
        and s.held.place is Place.LEASED
        and s.held.attempt == task_status.attempt_of(task)
        and task_status.phase_of(task) in HANDED_OUT
    )


def taken_back(s: TaskSnapshot, task: LLMTask) -> TakeBack:
    """The entry out of the bus, from its holder too where it was seen that there is one to be passed over."""
    if s.held is not None and s.held.place is Place.LEASED:
        return TakeBack(s.held.attempt, from_holder=True)
    if s.held is not None and s.held.place is Place.RETURNED:
        return TakeBack(s.held.attempt, came_back=True)
    return TakeBack(max(1, task_status.attempt_of(task)))


def status_at_end(
    s: TaskSnapshot, task: LLMTask, reason: Reason, message: str, *, outcome: Outcome = Outcome.FAILED
) -> dict[str, Any]:
    """The outcome as the operator writes it, with all that the bus knows of the attempt that the task ends in."""
    write = task_status.cancelled if outcome is Outcome.CANCELLED else task_status.failed
    records = records_at_end(s, task, reason, message)
    status = write(task, reason, message, now_ms=s.now_ms, attempts=records)
    return {**status, **start_at_end(s, task), **losses_at_end(s, task)}


def records_at_end(s: TaskSnapshot, task: LLMTask, reason: Reason, message: str) -> Sequence[AttemptRecord]:
    """The records with that of the attempt that the task ends in: as it came back, or taken from its holder."""
    records, attempt = task_status.records_of(task), task_status.attempt_of(task)
    if s.held is None or attempt == 0 or s.held.attempt != attempt:
        return records
    if s.held.returned is not None:
        return [*records, retry.attempt_record(s.held.returned, attempt=attempt, model=str(s.ref.model))]
    if s.held.place is not Place.LEASED:
        return records
    pod = task.status.runner.pod if task.status is not None and task.status.runner is not None else None
    lost = retry.taken_record(
        attempt=attempt,
        model=str(s.ref.model),
        pod=pod,
        claimed_ms=s.held.since_ms,
        now_ms=s.now_ms,
        reason=reason,
        message=message,
    )
    return [*records, lost]


def losses_at_end(s: TaskSnapshot, task: LLMTask) -> dict[str, int]:
    """status.losses, where the attempt that the task ends in came back lost. It is no retry: none follows."""
    found = judged(s, task)
    return {name: count for name, count in found[1].items() if name == "losses"} if found is not None else {}


def start_at_end(s: TaskSnapshot, task: LLMTask) -> dict[str, Any]:
    """status.startTime, where only the bus knows of the first claim."""
    if s.held is None or s.held.attempt != task_status.attempt_of(task):
        return {}
    if s.held.returned is not None:
        return first_start(task, s.held.returned.claimed_ms)
    return first_start(task, s.held.since_ms) if s.held.place is Place.LEASED else {}
