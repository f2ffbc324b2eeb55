"""A batch's tasks as lines of its output and error files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from headrace_crds.task import LLMTaskStatus, Outcome
from headrace_facade.caller import Caller
from headrace_facade.calls.assembling import vectors
from headrace_facade.calls.contract import CallResult, Choice
from headrace_facade.calls.failures import failure_of
from headrace_facade.kube import KubeObject
from headrace_facade.openai_batches.lines import CHAT, EMBEDDINGS
from headrace_facade.openai_batches.names import ANNOTATION_CUSTOM_ID, line_of
from headrace_facade.openai_batches.record import Batch, RefusedLine
from headrace_facade.openai_batches.tally import EXPIRED
from headrace_facade.openai_batches.times import unix_time
from headrace_facade.openai_dialect import chat_answer, chat_request, completions, embeddings
from headrace_facade.openai_dialect.errors import members
from headrace_facade.openai_dialect.wire import json_text

_UNREADABLE: Final = "the task's result cannot be read"
_CHAT_BODY: Final = chat_request.ChatBody.model_validate({"model": "-", "messages": [{"role": "user", "content": ""}]})
_COMPLETION_BODY: Final = completions.CompletionBody(model="-", prompt="")
_EMBEDDING_BODY: Final = embeddings.EmbeddingBody(model="-", input=["-"])


@dataclass(frozen=True)
class _Ended:
    """What an answer's id is made of."""

    id: str


def answered(batch: Batch, task: KubeObject, status: LLMTaskStatus, text: str | None, caller: Caller) -> str | None:
    """The output file's line of a task that is Complete; None where the text cannot be had, which is an error."""
    result = status.result
    if text is None or result is None or status.usage is None or status.timings is None:
        return None
    model = status.assigned_model or ""
    embeds = batch.asked.endpoint == EMBEDDINGS
    choice = Choice(text, result.finish_reason, list(result.tool_calls or ()), result.reasoning or "")
    try:
        made = CallResult(
            choices=[] if embeds else [choice],
            usage=status.usage,
            timings=status.timings,
            model=model,
            embeddings=vectors(text) if embeds else [],
        )
    except (ValueError, KeyError, TypeError):
        return None
    ended = _Ended(str(task["metadata"]["uid"]).replace("-", ""))
    if embeds:
        body = embeddings.embeddings(made, _EMBEDDING_BODY, caller)
    elif batch.asked.endpoint == CHAT:
        body = chat_answer.completion(ended, made, _CHAT_BODY, caller)
    else:
        body = completions.completion(ended, made, _COMPLETION_BODY, caller)
    if "created" in body and status.completion_time is not None:
        body["created"] = unix_time(status.completion_time)
    response = {"status_code": 200, "request_id": task["metadata"]["uid"], "body": body}
    return _line(batch, _number(task), _custom_id(task), response, None)


def unanswered(batch: Batch, task: KubeObject, status: LLMTaskStatus, missing: str = "") -> str:
    """The line of a task without an answer; `missing` is why a Complete one's text cannot be had."""
    number, custom_id = _number(task), _custom_id(task)
    if status.outcome is Outcome.COMPLETE:
        return _line(batch, number, custom_id, None, {"code": "result_missing", "message": missing or _UNREADABLE})
    if status.outcome is Outcome.CANCELLED:
        told = "the task was cancelled before it was complete"
        return _line(batch, number, custom_id, None, {"code": "batch_cancelled", "message": told})
    if status.reason in EXPIRED:
        told = "the task was not complete within the batch's window"
        return _line(batch, number, custom_id, None, {"code": "batch_expired", "message": told})
    failure = failure_of(status.reason or "", status.message or "")
    response = {
        "status_code": failure.status,
        "request_id": task["metadata"]["uid"],
        "body": {"error": members(failure)},
    }
    return _line(batch, number, custom_id, response, None)


def refused(batch: Batch, number: int, why: RefusedLine) -> str:
    """The error file's line of one that no task could be made of."""
    error = {"message": why.message, "type": "invalid_request_error", "param": why.param, "code": why.code}
    response = {"status_code": 400, "request_id": None, "body": {"error": error}}
    return _line(batch, number, batch.custom_ids.get(number), response, None)


def without_task(batch: Batch, number: int) -> str:
    """The error file's line of one whose task was never made, or is gone."""
    code, told = "result_expired", "the task was deleted: by its time to live, by retention, or by somebody"
    if not batch.made:
        code, told = "batch_expired", "the task was not made within the batch's window"
        if batch.cancelling_at is not None:
            code, told = "batch_cancelled", "the batch was cancelled before the task was made"
    return _line(batch, number, batch.custom_ids.get(number), None, {"code": code, "message": told})


def status_of(task: KubeObject) -> LLMTaskStatus:
    """Of what cannot be read the status is nothing yet."""
    try:
        return LLMTaskStatus.model_validate(task.get("status") or {})
    except ValidationError:
        return LLMTaskStatus()


def _number(task: KubeObject) -> int:
    return line_of(str(task["metadata"]["name"])) or 0


def _custom_id(task: KubeObject) -> str | None:
    return (task["metadata"].get("annotations") or {}).get(ANNOTATION_CUSTOM_ID)


def _line(
    batch: Batch, number: int, custom_id: str | None, response: Mapping[str, Any] | None, error: dict[str, str] | None
) -> str:
    identity = {"id": f"batch_req_{batch.number}_{number:05d}", "custom_id": custom_id}
    return json_text({**identity, "response": response, "error": error}) + "\n"
