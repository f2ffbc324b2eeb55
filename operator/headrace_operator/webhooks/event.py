"""The body of a webhook: how a task ended, without a word of what was asked and answered."""

import json

from headrace_crds.task import LLMTask, LLMTaskStatus, Outcome


def body_of(task: LLMTask, status: LLMTaskStatus, outcome: Outcome) -> bytes:
    """JSON in UTF-8, the same bytes for the same object."""
    data: dict[str, object] = {
        "uid": task.metadata.uid,
        "namespace": task.metadata.namespace,
        "name": task.metadata.name,
        "model": status.assigned_model or _model(task),
        "outcome": outcome.value,
        "reason": status.reason or "",
        "message": status.message or "",
        "attempt": status.attempt or 0,
        "completionTime": status.completion_time or "",
    }
    if status.result is not None:
        data["result"] = {
            "sizeBytes": status.result.size_bytes,
            "sha256": status.result.sha256,
            "finishReason": status.result.finish_reason,
        }
    event = {"type": f"llmtask.{outcome.value.lower()}", "timestamp": status.completion_time or "", "data": data}
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def _model(task: LLMTask) -> str:
    ref = task.spec.model_ref
    return f"{ref.namespace or task.metadata.namespace}/{ref.name}"
