"""Merge patches of a task's status: the one place that writes its open (unfinished) shape."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from headrace_crds.base import Condition, ConditionStatus, find_condition
from headrace_crds.names import runner_service_account
from headrace_crds.outcome import notified_outcomes, terminal_status, timestamp, with_condition
from headrace_crds.task import ATTEMPTS_KEPT, AttemptRecord, LLMTask, LLMTaskStatus, Outcome, TaskPhase
from headrace_operator.decide.waiting import Waiting

_NO_STATUS = LLMTaskStatus()


def attempt_of(task: LLMTask) -> int:
    """0 while the task is not accepted."""
    return (task.status.attempt or 0) if task.status is not None else 0


def records_of(task: LLMTask) -> list[AttemptRecord]:
    return list(task.status.attempts or []) if task.status is not None else []


def phase_of(task: LLMTask) -> TaskPhase | None:
    return task.status.phase if task.status is not None else None


def completed_ms(status: LLMTaskStatus) -> int:
    """When the task ended, by the clock of whoever ended it; 0 when that is not to be read."""
    try:
        return int(datetime.fromisoformat(status.completion_time or "").timestamp() * 1000)
    except (ValueError, OverflowError):
        return 0


def explanation(task: LLMTask, why: Waiting, *, now_ms: int) -> dict[str, Any]:
    """The members that say why an open task does not run."""
    return {
        "observedGeneration": task.metadata.generation,
        "reason": why.reason.value,
        "message": why.message[:1024],
        "conditions": _open_conditions(task, why, now_ms=now_ms),
    }


def queued(task: LLMTask, why: Waiting, *, attempt: int, now_ms: int, **members: Any) -> dict[str, Any]:
    """Handed out at `attempt` to the model that the task names. `members` are added as they are."""
    namespace, model = task.spec.model_ref.namespace or task.metadata.namespace, task.spec.model_ref.name
    return {
        **explanation(task, why, now_ms=now_ms),
        "phase": TaskPhase.QUEUED.value,
        "attempt": attempt,
        "assignedModel": f"{namespace}/{model}",
        "runner": {"serviceAccount": runner_service_account(namespace, model), "pod": None},
        **_counters(task),
        **members,
    }


def waiting(task: LLMTask, why: Waiting, *, attempt: int, now_ms: int, **members: Any) -> dict[str, Any]:
    """Never handed out at `attempt`: nobody may commit."""
    return {
        **explanation(task, why, now_ms=now_ms),
        "phase": TaskPhase.WAITING.value,
        "attempt": attempt,
        "assignedModel": None,
        "runner": None,
        **_counters(task),
        **members,
    }


def failed(
    task: LLMTask, reason: str, message: str, *, now_ms: int, attempts: Sequence[AttemptRecord]
) -> dict[str, Any]:
    """The outcome Failed, at the present attempt; a task that was not accepted is by this very write."""
    terminal = terminal_status(
        Outcome.FAILED,
        reason=reason,
        message=message,
        generation=task.metadata.generation,
        completed_ms=now_ms,
        attempts=attempts,
        notify=notified_outcomes(task),
    )
    return {"attempt": max(1, attempt_of(task)), "retries": _retries(task), **terminal}


def kept(records: Sequence[AttemptRecord]) -> list[dict[str, Any]]:
    return [record.dump() for record in records][-ATTEMPTS_KEPT:]


def _retries(task: LLMTask) -> int:
    return (task.status.retries or 0) if task.status is not None else 0


def _counters(task: LLMTask) -> dict[str, Any]:
    return {"retries": _retries(task), "attempts": kept(records_of(task))}


def _open_conditions(task: LLMTask, why: Waiting, *, now_ms: int) -> list[dict[str, Any]]:
    conditions: Sequence[Condition] = (task.status or _NO_STATUS).conditions
    types = ["Finished", "Ready"]
    if find_condition(conditions, "Running") is not None:
        types.append("Running")
    for type_ in types:
        conditions = with_condition(
            conditions,
            type_,
            ConditionStatus.FALSE,
            why.reason,
            why.message,
            generation=task.metadata.generation,
            now=timestamp(now_ms),
        )
    return [condition.dump() for condition in conditions]
