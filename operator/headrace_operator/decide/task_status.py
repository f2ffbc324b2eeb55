"""Merge patches of a task's status: the one place that writes its open (unfinished) shape."""

from collections.abc import Sequence
from typing import Any, Final

from headrace_crds.base import Condition, ConditionStatus, find_condition
from headrace_crds.names import assigned_model, runner_service_account
from headrace_crds.outcome import notified_outcomes, terminal_status, timestamp, with_condition
from headrace_crds.reasons import Reason
from headrace_crds.task import ATTEMPTS_KEPT, AttemptRecord, LLMTask, LLMTaskStatus, Outcome, TaskPhase
from headrace_operator.decide import clocks
from headrace_operator.decide.waiting import Waiting
from headrace_operator.refs import ModelRef

SUSPENDED: Final = Waiting(Reason.SUSPENDED, "spec.suspend is true: set it to false and the task goes on")

_SAYS_NOTHING_OF_SHARING: Final = frozenset({Reason.SUSPENDED, Reason.MODEL_NOT_FOUND})
_NO_STATUS = LLMTaskStatus()


def attempt_of(task: LLMTask) -> int:
    """0 while the task is not accepted."""
    return (task.status.attempt or 0) if task.status is not None else 0


def records_of(task: LLMTask) -> list[AttemptRecord]:
    return list(task.status.attempts or []) if task.status is not None else []


def counters_of(task: LLMTask) -> tuple[int, int]:
    """Retries and losses."""
    status = task.status or _NO_STATUS
    return status.retries or 0, status.losses or 0


def phase_of(task: LLMTask) -> TaskPhase | None:
    return task.status.phase if task.status is not None else None


def completed_ms(status: LLMTaskStatus) -> int:
    """When the task ended, by the clock of whoever ended it; 0 when that is not to be read."""
    return clocks.milliseconds(status.completion_time) or 0


def accepted_ms(status: LLMTaskStatus) -> int:
    """0 where that is not to be read."""
    return clocks.milliseconds(status.accept_time) or 0


def named_model(task: LLMTask) -> ModelRef:
    """That of modelRef."""
    return ModelRef(task.spec.model_ref.namespace or task.metadata.namespace, task.spec.model_ref.name)


def model_of(task: LLMTask) -> ModelRef:
    """The model that the task is for at present: that of modelRef until it falls back."""
    found = assigned_model(task.status.assigned_model) if task.status is not None else None
    return ModelRef(*found) if found is not None else named_model(task)


def kept_model(task: LLMTask) -> str | None:
    """status.assignedModel of a task that is not handed out: where modelRef does not say it."""
    return str(model_of(task)) if model_of(task) != named_model(task) else None


def explanation(task: LLMTask, why: Waiting, *, now_ms: int) -> dict[str, Any]:
    """The members that say why an open task does not run."""
    return {
        **clocks.begun(task, now_ms),
        "observedGeneration": task.metadata.generation,
        "reason": why.reason.value,
        "message": why.message[:1024],
        "conditions": _open_conditions(task, why, now_ms=now_ms),
    }


def queued(task: LLMTask, why: Waiting, *, attempt: int, now_ms: int, **members: Any) -> dict[str, Any]:
    """Handed out at `attempt` to the task's present model. `members` are added as they are."""
    model = model_of(task)
    return {
        **explanation(task, why, now_ms=now_ms),
        **clocks.running(task, now_ms),
        "phase": TaskPhase.QUEUED.value,
        "attempt": attempt,
        "assignedModel": str(model),
        "runner": {"serviceAccount": runner_service_account(*model), "pod": None},
        **_counters(task),
        **members,
    }


def waiting(task: LLMTask, why: Waiting, *, attempt: int, now_ms: int, **members: Any) -> dict[str, Any]:
    """Never handed out at `attempt`: nobody may commit."""
    return {
        **explanation(task, why, now_ms=now_ms),
        **clocks.running(task, now_ms),
        "phase": TaskPhase.WAITING.value,
        "attempt": attempt,
        "assignedModel": kept_model(task),
        "runner": None,
        **_counters(task),
        **members,
    }


def suspended(task: LLMTask, *, attempt: int, now_ms: int, **members: Any) -> dict[str, Any]:
    """As `waiting`, because the spec says so, with the clocks standing still."""
    return {
        **explanation(task, SUSPENDED, now_ms=now_ms),
        **clocks.suspended(task, now_ms),
        "phase": TaskPhase.SUSPENDED.value,
        "attempt": attempt,
        "assignedModel": kept_model(task),
        "runner": None,
        **_counters(task),
        **members,
    }


def moved(
    task: LLMTask, target: ModelRef, why: Waiting, *, attempt: int, now_ms: int, record: AttemptRecord
) -> dict[str, Any]:
    """Given to another model at `attempt`, where it waits, or is suspended, as one that was never handed out."""
    write = suspended(task, attempt=attempt, now_ms=now_ms) if task.spec.suspend else None
    return {
        **(write or waiting(task, why, attempt=attempt, now_ms=now_ms)),
        "assignedModel": str(target),
        "triedModels": [*((task.status or _NO_STATUS).tried_models or []), str(model_of(task))],
        "attempts": kept([*records_of(task), record]),
    }


def not_judged_yet(task: LLMTask, status: dict[str, Any], *, now_ms: int) -> dict[str, Any]:
    """`status` accepts a task without a model. Of one in another namespace nobody can say whether it will serve the
    task: Shared=Unknown keeps that, whatever the task waits for meanwhile, until a model admits it.
    """
    if task.spec.model_ref.namespace in (None, task.metadata.namespace):
        return status
    conditions = with_condition(
        [Condition.model_validate(each) for each in status["conditions"]],
        "Shared",
        ConditionStatus.UNKNOWN,
        Reason.MODEL_NOT_FOUND,
        "whether the model serves this namespace is seen once it exists",
        generation=task.metadata.generation,
        now=timestamp(now_ms),
    )
    return {**status, "conditions": [each.dump() for each in conditions]}


def caught_up(task: LLMTask) -> dict[str, Any]:
    """What an edit after the end changes: the generation, also in each condition, where kubectl wait looks for it."""
    generation = task.metadata.generation
    conditions = (task.status or _NO_STATUS).conditions
    return {
        "observedGeneration": generation,
        "conditions": [each.model_copy(update={"observed_generation": generation}).dump() for each in conditions],
    }


def failed(
    task: LLMTask, reason: str, message: str, *, now_ms: int, attempts: Sequence[AttemptRecord]
) -> dict[str, Any]:
    """The outcome Failed, at the present attempt; a task that was not accepted is by this very write."""
    return _ended(Outcome.FAILED, task, reason, message, now_ms=now_ms, attempts=attempts)


def cancelled(
    task: LLMTask, reason: str, message: str, *, now_ms: int, attempts: Sequence[AttemptRecord]
) -> dict[str, Any]:
    """The outcome Cancelled, at the present attempt, without a result."""
    return _ended(Outcome.CANCELLED, task, reason, message, now_ms=now_ms, attempts=attempts)


def _ended(
    outcome: Outcome, task: LLMTask, reason: str, message: str, *, now_ms: int, attempts: Sequence[AttemptRecord]
) -> dict[str, Any]:
    terminal = terminal_status(
        outcome,
        reason=reason,
        message=message,
        generation=task.metadata.generation,
        completed_ms=now_ms,
        attempts=attempts,
        notify=notified_outcomes(task),
    )
    return {
        **clocks.running(task, now_ms),
        "attempt": max(1, attempt_of(task)),
        "retries": counters_of(task)[0],
        **terminal,
    }


def kept(records: Sequence[AttemptRecord]) -> list[dict[str, Any]]:
    return [record.dump() for record in records][-ATTEMPTS_KEPT:]


def _counters(task: LLMTask) -> dict[str, Any]:
    return {"retries": counters_of(task)[0], "attempts": kept(records_of(task))}


def _open_conditions(task: LLMTask, why: Waiting, *, now_ms: int) -> list[dict[str, Any]]:
    conditions: Sequence[Condition] = (task.status or _NO_STATUS).conditions
    types = ["Finished", "Ready"]
    if find_condition(conditions, "Running") is not None:
        types.append("Running")
    shared = find_condition(conditions, "Shared")
    withdrawn = why.reason is Reason.MODEL_NOT_SHARED
    if withdrawn or (shared is not None and why.reason not in _SAYS_NOTHING_OF_SHARING):
        conditions = with_condition(
            conditions,
            "Shared",
            ConditionStatus.FALSE if withdrawn else ConditionStatus.TRUE,
            Reason.MODEL_NOT_SHARED if withdrawn else Reason.SHARED,
            why.message if withdrawn else "",
            generation=task.metadata.generation,
            now=timestamp(now_ms),
        )
    suspension = find_condition(conditions, "Suspended")
    if why.reason is Reason.SUSPENDED or (suspension is not None and suspension.status is ConditionStatus.TRUE):
        suspends = why.reason is Reason.SUSPENDED
        conditions = with_condition(
            conditions,
            "Suspended",
            ConditionStatus.TRUE if suspends else ConditionStatus.FALSE,
            Reason.SUSPENDED if suspends else Reason.RESUMED,
            why.message if suspends else "",
            generation=task.metadata.generation,
            now=timestamp(now_ms),
        )
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
