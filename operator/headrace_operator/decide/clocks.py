"""A task's clocks, all on Redis TIME: they begin at acceptance and stand still while it is suspended.

The status holds whole seconds, so that a clock may have begun up to a second after what it says: deadlines leave that
second to the task, and none comes early.
"""

from datetime import datetime
from typing import Any, Final

from headrace_crds.outcome import timestamp
from headrace_crds.task import LLMTask, LLMTaskStatus

ROUNDED_MS: Final = 1_000
"""What a timestamp of whole seconds leaves open."""

_NO_STATUS: Final = LLMTaskStatus()


def milliseconds(text: str | None) -> int | None:
    """An API timestamp as milliseconds since the epoch; None when that is not to be read."""
    try:
        return int(datetime.fromisoformat(text or "").timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def queue_end_ms(task: LLMTask) -> int | None:
    """When the first claim is overdue; None: never, already claimed, not accepted, or the clock stands still."""
    limit_seconds = task.spec.queue_deadline_seconds
    if limit_seconds is None or (task.status or _NO_STATUS).start_time is not None:
        return None
    return _end_ms(task, limit_seconds)


def active_end_ms(task: LLMTask) -> int | None:
    """When the whole task is over; None: not accepted, or the clock stands still."""
    return _end_ms(task, task.spec.active_deadline_seconds)


def next_look_seconds(task: LLMTask, now_ms: int) -> float | None:
    """Until the next deadline of an open task; None when none lies ahead."""
    if task.status is None or task.status.outcome is not None:
        return None
    ahead = [end for end in (queue_end_ms(task), active_end_ms(task)) if end is not None and end > now_ms]
    return (min(ahead) - now_ms) / 1000 if ahead else None


def running(task: LLMTask, now_ms: int) -> dict[str, Any]:
    """Status members of a task whose clocks run: begun at acceptance, a suspension ended and counted."""
    members = begun(task, now_ms)
    status = task.status or _NO_STATUS
    if status.suspend_time is not None:
        since_ms = milliseconds(status.suspend_time)
        # Rounded up: a suspension never costs the task time.
        seconds = 0 if since_ms is None else -((since_ms - max(now_ms, since_ms)) // 1000)
        members |= {"suspendTime": None, "suspendedSeconds": (status.suspended_seconds or 0) + seconds}
    return members


def suspended(task: LLMTask, now_ms: int) -> dict[str, Any]:
    """Status members of a task whose clocks stand still."""
    since = (task.status or _NO_STATUS).suspend_time
    return {**begun(task, now_ms), "suspendTime": since or timestamp(now_ms)}


def begun(task: LLMTask, now_ms: int) -> dict[str, Any]:
    known = (task.status or _NO_STATUS).accept_time
    return {} if known is not None else {"acceptTime": timestamp(now_ms)}


def _end_ms(task: LLMTask, limit_seconds: int) -> int | None:
    status = task.status or _NO_STATUS
    accepted_ms = milliseconds(status.accept_time)
    if accepted_ms is None or status.suspend_time is not None:
        return None
    return accepted_ms + ROUNDED_MS + ((status.suspended_seconds or 0) + limit_seconds) * 1000
