"""A delivery that came back: by `retry`'s verdict another attempt, another model's, or the end."""

from dataclasses import replace

from headrace_crds.task import LLMTask
from headrace_operator.decide import fallback, retry, task_status
from headrace_operator.decide.next_attempt import first_start, next_attempt
from headrace_operator.decide.plans import Announcement, TaskPlan
from headrace_operator.decide.snapshots import TaskSnapshot


def judged(s: TaskSnapshot, task: LLMTask) -> tuple[retry.NextAttempt | retry.GiveUp, dict[str, int]] | None:
    """The verdict on the present attempt, and those of status.retries and status.losses that it raises; None where the
    attempt did not come back.
    """
    attempt = task_status.attempt_of(task)
    if attempt == 0 or s.held is None or s.held.returned is None or s.held.attempt != attempt:
        return None
    retries, losses = task_status.counters_of(task)
    verdict = retry.verdict(
        s.held.returned,
        attempt=attempt,
        retries=retries,
        losses=losses,
        backoff_limit=task.spec.backoff_limit,
        suspended=task.spec.suspend,
        records=task_status.records_of(task),
        model=str(s.ref.model),
        jitter=s.jitter,
    )
    raised = {"losses": losses + 1} if verdict.lost else {}
    if isinstance(verdict, retry.NextAttempt) and verdict.charged:
        raised["retries"] = retries + 1
    return verdict, raised


def delivery_returned(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    found = judged(s, task)
    if found is None or s.held is None or s.held.returned is None:
        return None
    verdict, raised = found
    members = {**first_start(task, s.held.returned.claimed_ms), **raised}
    if isinstance(verdict, retry.NextAttempt):
        details = "delivery came back"
        return next_attempt(s, task, verdict.record, details, delay_ms=verdict.delay_ms, **members)
    moved = fallback.moved_at_end(s, task, verdict.record, verdict.reason)
    if moved is not None and moved.status is not None:
        return replace(moved, status={**moved.status, **members})
    records = [*task_status.records_of(task), verdict.record]
    status = task_status.failed(task, verdict.reason, verdict.message, now_ms=s.now_ms, attempts=records)
    return TaskPlan(
        "attempts are used up",
        status={**status, **members},
        remove=True,
        announcement=Announcement("Warning", verdict.reason, f"attempt {s.held.attempt}: {verdict.record.reason}"),
    )
