"""A delivery that came back: by `retry`'s verdict another attempt, or the end."""

from headrace_crds.task import LLMTask
from headrace_operator.decide import retry, task_status
from headrace_operator.decide.next_attempt import first_start, next_attempt
from headrace_operator.decide.plans import Announcement, TaskPlan
from headrace_operator.decide.snapshots import TaskSnapshot


def delivery_returned(s: TaskSnapshot, task: LLMTask) -> TaskPlan | None:
    attempt = task_status.attempt_of(task)
    if attempt == 0 or s.held is None or s.held.returned is None or s.held.attempt != attempt:
        return None
    records = task_status.records_of(task)
    retries, losses = task_status.counters_of(task)
    verdict = retry.verdict(
        s.held.returned,
        attempt=attempt,
        retries=retries,
        losses=losses,
        backoff_limit=task.spec.backoff_limit,
        suspended=task.spec.suspend,
        records=records,
        model=str(s.ref.model),
        jitter=s.jitter,
    )
    members = first_start(task, s.held.returned.claimed_ms)
    if verdict.lost:
        members["losses"] = losses + 1
    if isinstance(verdict, retry.GiveUp):
        status = task_status.failed(
            task, verdict.reason, verdict.message, now_ms=s.now_ms, attempts=[*records, verdict.record]
        )
        return TaskPlan(
            "attempts are used up",
            status={**status, **members},
            remove=True,
            announcement=Announcement("Warning", verdict.reason, f"attempt {attempt}: {verdict.record.reason}"),
        )
    return next_attempt(
        s,
        task,
        verdict.record,
        "delivery came back",
        delay_ms=verdict.delay_ms,
        retries=retries + (1 if verdict.charged else 0),
        **members,
    )
