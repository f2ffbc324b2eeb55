"""LLMTask objects as answers: what an object says, in the words that HTTP clients bring along."""

from typing import Any, Final

from headrace_crds.base import ObjectMeta
from headrace_crds.task import LLMTaskStatus, Outcome, Result, TaskPhase
from headrace_facade.kube import KubeObject
from headrace_facade.schema import ResultPlace, Task, TaskResult, TaskStatus, TaskSummary, TaskTimings, TaskUsage
from headrace_facade.submission import METADATA_PREFIX

_OUTCOMES: Final = {
    Outcome.COMPLETE: TaskStatus.COMPLETED,
    Outcome.FAILED: TaskStatus.FAILED,
    Outcome.CANCELLED: TaskStatus.CANCELLED,
}
_PHASES: Final = {
    TaskPhase.SUSPENDED: TaskStatus.CREATED,
    TaskPhase.WAITING: TaskStatus.CREATED,
    TaskPhase.QUEUED: TaskStatus.QUEUED,
    TaskPhase.RUNNING: TaskStatus.PROCESSING,
    TaskPhase.COMPLETE: TaskStatus.COMPLETED,
    TaskPhase.FAILED: TaskStatus.FAILED,
    TaskPhase.CANCELLED: TaskStatus.CANCELLED,
}


def task_status(status: LLMTaskStatus) -> TaskStatus:
    """The outcome decides; before it the phase; before that nobody has looked at the task."""
    if status.outcome is not None:
        return _OUTCOMES[status.outcome]
    return TaskStatus.CREATED if status.phase is None else _PHASES[status.phase]


def _summary(item: KubeObject, metadata: ObjectMeta, status: LLMTaskStatus) -> dict[str, Any]:
    spec = item["spec"]
    return {
        "task_id": f"{metadata.namespace}.{metadata.name}",
        "namespace": metadata.namespace,
        "name": metadata.name,
        "model": "/".join(part for part in (spec["modelRef"].get("namespace"), spec["modelRef"]["name"]) if part),
        "status": task_status(status),
        "reason": status.reason,
        "message": status.message,
        "priority": spec.get("priority", 0),
        "attempt": status.attempt,
        "retries": status.retries or 0,
        "created_at": metadata.creation_timestamp,
        "started_at": status.start_time,
        "completed_at": status.completion_time,
    }


def _read(item: KubeObject) -> tuple[ObjectMeta, LLMTaskStatus]:
    # Not LLMTask as a whole: a spec of a newer version must not keep its status from being read.
    return ObjectMeta.model_validate(item["metadata"]), LLMTaskStatus.model_validate(item.get("status") or {})


def to_summary(item: KubeObject) -> TaskSummary:
    return TaskSummary.model_validate(_summary(item, *_read(item)))


def to_task(item: KubeObject) -> Task:
    metadata, status = _read(item)
    return Task(
        **_summary(item, metadata, status),
        metadata={
            name.removeprefix(METADATA_PREFIX): text
            for name, text in metadata.annotations.items()
            if name.startswith(METADATA_PREFIX)
        },
        result=_result(status.result) if status.result else None,
        usage=TaskUsage.model_validate(status.usage.model_dump()) if status.usage else None,
        timings=TaskTimings(
            queued_ms=status.timings.queued_millis,
            first_token_ms=status.timings.first_token_millis,
            generation_ms=status.timings.generation_millis,
        )
        if status.timings
        else None,
    )


def _result(result: Result) -> TaskResult:
    place = result.config_map_ref
    return TaskResult(
        text=result.text,
        config_map=ResultPlace(name=place.name, key=place.key) if place else None,
        partial=bool(result.partial),
        finish_reason=result.finish_reason,
        size_bytes=result.size_bytes,
        sha256=result.sha256,
        enforcement=result.enforcement,
    )
