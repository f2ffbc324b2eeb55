"""The terminal part of a task's status, built in one place for every writer.

Runner, operator and ``headrace run`` all finish tasks; whoever does writes the same
shape. Pure: time comes in as an argument.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from headrace_crds.base import Condition, ConditionStatus, find_condition
from headrace_crds.reasons import Reason
from headrace_crds.task import (
    AttemptRecord,
    Enforcement,
    LLMTask,
    Outcome,
    Result,
    Timings,
    ToolCall,
    Usage,
    derive_phase,
)


def timestamp(milliseconds: int) -> str:
    """Milliseconds since the epoch (Redis TIME) as an API timestamp."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def with_condition(
    conditions: Sequence[Condition],
    type_: str,
    status: ConditionStatus,
    reason: str,
    message: str,
    *,
    generation: int,
    now: str,
) -> list[Condition]:
    """The list with one condition set; lastTransitionTime moves only when the status changes."""
    before = find_condition(conditions, type_)
    since = before.last_transition_time if before is not None and before.status == status else now
    new = Condition(
        type=type_,
        status=status,
        observed_generation=generation,
        last_transition_time=since,
        reason=reason,
        message=message[:1024],
    )
    if before is None:
        return [*conditions, new]
    return [new if c.type == type_ else c for c in conditions]


def terminal_conditions(outcome: Outcome, reason: str, message: str, *, generation: int, now: str) -> list[Condition]:
    """Finished for people and scripts, Ready and Stalled for Helm, Flux and Argo CD, which read only those."""
    done = outcome is Outcome.COMPLETE
    conditions = with_condition([], "Finished", ConditionStatus.TRUE, reason, message, generation=generation, now=now)
    conditions = with_condition(
        conditions,
        "Ready",
        ConditionStatus.TRUE if done else ConditionStatus.FALSE,
        reason,
        message,
        generation=generation,
        now=now,
    )
    if outcome is Outcome.FAILED:
        conditions = with_condition(
            conditions, "Stalled", ConditionStatus.TRUE, reason, message, generation=generation, now=now
        )
    return conditions


def notified_outcomes(task: LLMTask) -> list[Outcome]:
    """The outcomes that the task's webhook wants to hear of."""
    if task.spec.webhook is None:
        return []
    return list(task.spec.webhook.events or Outcome)


def text_digest(text: str) -> tuple[int, str]:
    """Size in bytes and SHA-256 of the text in UTF-8."""
    raw = text.encode()
    return len(raw), hashlib.sha256(raw).hexdigest()


def text_result(
    text: str,
    finish_reason: str,
    enforcement: Enforcement | None,
    *,
    partial: bool | None = None,
    repairs: int | None = None,
    tool_calls: list[ToolCall] | None = None,
    reasoning: str | None = None,
) -> Result:
    size_bytes, sha256 = text_digest(text)
    return Result(
        text=text,
        partial=partial,
        finish_reason=finish_reason,
        size_bytes=size_bytes,
        sha256=sha256,
        enforcement=enforcement,
        repairs=repairs,
        tool_calls=tool_calls,
        reasoning=reasoning,
    )


def terminal_status(
    outcome: Outcome,
    *,
    reason: str = Reason.SUCCEEDED,
    message: str = "",
    generation: int,
    completed_ms: int,
    attempts: Sequence[AttemptRecord],
    result: Result | None = None,
    usage: Usage | None = None,
    timings: Timings | None = None,
    notify: Sequence[Outcome] = (),
) -> dict[str, Any]:
    """The status members that change when a task ends, in wire form.

    `notify` holds the outcomes that a webhook waits for: one of them makes the outbox entry Notified=False.
    """
    now = timestamp(completed_ms)
    conditions = terminal_conditions(outcome, reason, message, generation=generation, now=now)
    if outcome in notify:
        conditions = with_condition(
            conditions,
            "Notified",
            ConditionStatus.FALSE,
            Reason.NOT_DELIVERED,
            "the webhook was not called yet",
            generation=generation,
            now=now,
        )
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "outcome": outcome.value,
        "phase": derive_phase(outcome=outcome, queued=False, running=False).value,
        "reason": reason,
        "message": message[:1024],
        "completionTime": now,
        "conditions": [condition.dump() for condition in conditions],
        "attempts": [record.dump() for record in attempts][-10:],
    }
    for name, part in (("result", result), ("usage", usage), ("timings", timings)):
        if part is not None:
            status[name] = part.dump()
    return status
