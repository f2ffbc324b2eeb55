"""A task's report, of its object alone. Pure: no text of a prompt or result is in it."""

from datetime import datetime

from headrace_crds.base import ObjectMeta
from headrace_crds.result import AttemptRecord, Result
from headrace_crds.task import LLMTaskStatus
from headrace_facade.kube import KubeObject
from headrace_facade.native.task_schema import ReportedAttempt, ReportedResult, TaskReport
from headrace_facade.objects import to_task


def report(item: KubeObject) -> TaskReport:
    task = to_task(item)
    status = LLMTaskStatus.model_validate(item.get("status") or {})
    created = ObjectMeta.model_validate(item["metadata"]).creation_timestamp
    return TaskReport(
        task_id=task.task_id,
        status=task.status,
        reason=status.reason,
        message=status.message,
        model=task.model,
        assigned_model=status.assigned_model,
        tried_models=status.tried_models or [],
        created_at=created,
        accepted_at=status.accept_time,
        started_at=status.start_time,
        completed_at=status.completion_time,
        seconds=_between(created, status.completion_time),
        suspended_seconds=status.suspended_seconds or 0,
        attempt=status.attempt,
        retries=status.retries or 0,
        losses=status.losses or 0,
        attempts=[_attempt(each) for each in status.attempts or []],
        timings=task.timings,
        usage=task.usage,
        result=None if status.result is None else _result(status.result),
    )


def _attempt(record: AttemptRecord) -> ReportedAttempt:
    return ReportedAttempt(
        number=record.number,
        model=record.model,
        pod=record.pod,
        started_at=record.start_time,
        completed_at=record.completion_time,
        seconds=_between(record.start_time, record.completion_time),
        outcome=record.outcome,
        reason=record.reason,
        message=record.message,
    )


def _result(result: Result) -> ReportedResult:
    return ReportedResult(
        finish_reason=result.finish_reason,
        size_bytes=result.size_bytes,
        sha256=result.sha256,
        partial=bool(result.partial),
        enforcement=result.enforcement,
        repairs=result.repairs or 0,
    )


def _between(start: str | None, end: str | None) -> float | None:
    if start is None or end is None:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def as_text(told: TaskReport) -> str:
    """For people; what is not known is left out. Control characters of a message do nothing to a terminal."""
    why = f" ({told.reason})" if told.reason else ""
    model = told.model
    if told.assigned_model is not None and told.assigned_model.rpartition("/")[2] != model.rpartition("/")[2]:
        model += f", answered by {told.assigned_model}"
    lines = [f"Task {told.task_id}: {told.status}{why}"]
    lines += [f"  {told.message}"] if told.message else []
    rows = [
        ("model", model),
        ("moved from", ", ".join(told.tried_models)),
        ("created", told.created_at),
        ("started", told.started_at),
        ("completed", told.completed_at),
        ("took", None if told.seconds is None else f"{told.seconds:g} s"),
        ("suspended", f"{told.suspended_seconds} s" if told.suspended_seconds else None),
        ("attempts", None if told.attempt is None else _attempts(told)),
        ("final attempt", _timings(told)),
        ("tokens", _tokens(told)),
        ("cost", _cost(told)),
        ("result", _told_result(told)),
    ]
    lines += [f"  {name + ':':<15}{value}" for name, value in rows if value]
    lines += [f"  attempt {_line(each)}" for each in told.attempts]
    return "\n".join("".join(each if each.isprintable() else " " for each in line) for line in lines) + "\n"


def _attempts(told: TaskReport) -> str:
    return f"{told.attempt}, {told.retries} retried, {told.losses} lost"


def _timings(told: TaskReport) -> str | None:
    times = told.timings
    if times is None:
        return None
    return (
        f"queued {times.queued_ms} ms, first token after {times.first_token_ms} ms, generated in "
        f"{times.generation_ms} ms"
    )


def _tokens(told: TaskReport) -> str | None:
    used = told.usage
    if used is None:
        return None
    return f"{used.prompt_tokens} in ({used.cached_tokens} cached), {used.completion_tokens} out"


def _cost(told: TaskReport) -> str | None:
    used = told.usage
    if used is None or used.cost_micros is None:
        return None
    return f"{used.cost_micros / 1_000_000:.6f} {used.currency or ''}".rstrip()


def _told_result(told: TaskReport) -> str | None:
    result = told.result
    if result is None:
        return None
    part = ", a part" if result.partial else ""
    return f"{result.finish_reason}{part}, {result.size_bytes} bytes, sha256 {result.sha256}"


def _line(each: ReportedAttempt) -> str:
    took = "" if each.seconds is None else f" in {each.seconds:g} s"
    at = f" at {each.pod}" if each.pod else ""
    said = f": {each.message}" if each.message else ""
    return f"{each.number}{at}: {each.outcome} ({each.reason}){took}{said}"
