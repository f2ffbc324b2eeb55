"""`spec.inputFrom`: what a ConfigMap gives a hand-out, and what becomes of the hand-out where it gives nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from headrace_crds.inputs import LARGE_INPUT_LIMIT_BYTES, KeyRef
from headrace_crds.names import LABEL_INPUT
from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTask
from headrace_operator.decide.acceptance import ESCAPED_INPUT_LIMIT_BYTES, MESSAGE_OVERHEAD_BYTES
from headrace_operator.decide.holder import status_at_end
from headrace_operator.decide.plans import Announcement, TaskPlan
from headrace_operator.decide.snapshots import Place, TaskSnapshot
from headrace_operator.decide.waiting import Waiting
from headrace_operator.decide.window import held_back

FIRST_LOOK_SECONDS: Final = 10.0
LAST_LOOK_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class MissedInput:
    """A look that found nothing: remembered, so that a task that waits costs a request now and then."""

    why: Waiting
    generation: int
    """Of the task; an edited one is looked at again at once."""
    looks: int
    again_at: float
    """On the leader's monotonic clock."""


def text_of(ref: KeyRef, config_map: Mapping[str, Any] | None) -> str | Waiting:
    """The text, or why there is none."""
    what = f"ConfigMap {ref.name!r}"
    if config_map is None:
        return _missing(
            f'{what} does not exist: create it with the label {LABEL_INPUT}: "true" and the key {ref.key!r}'
        )
    if (config_map["metadata"].get("labels") or {}).get(LABEL_INPUT) != "true":
        return _missing(f'{what} lacks the label {LABEL_INPUT}: "true", which lets tasks read its key {ref.key!r}')
    text = (config_map.get("data") or {}).get(ref.key)
    if not isinstance(text, str) or not text:
        return _missing(
            f"{what} with the label {LABEL_INPUT} holds no text under the key {ref.key!r}: add it to its data"
        )
    return text


def _missing(message: str) -> Waiting:
    minutes = int(LAST_LOOK_SECONDS // 60)
    return Waiting(Reason.INPUT_NOT_FOUND, f"{message}; it is looked for again within {minutes} minutes")


def look_again_seconds(looks: int) -> float:
    return min(LAST_LOOK_SECONDS, FIRST_LOOK_SECONDS * float(1 << min(max(looks - 1, 0), 8)))


def too_large(task: LLMTask, text: str) -> str:
    """Why the text is too large; empty when it is not."""
    size_bytes = len(text.encode(errors="replace"))
    if size_bytes > LARGE_INPUT_LIMIT_BYTES:
        return f"inputFrom refers to {size_bytes} bytes in UTF-8, {LARGE_INPUT_LIMIT_BYTES} are allowed: shorten them"
    parts = [text, *(task.spec.output.texts() if task.spec.output is not None else ())]
    escaped_bytes = sum(len(json.dumps(part, ensure_ascii=False).encode(errors="replace")) for part in parts)
    if escaped_bytes + MESSAGE_OVERHEAD_BYTES <= ESCAPED_INPUT_LIMIT_BYTES:
        return ""
    return (
        f"what inputFrom refers to and output have {escaped_bytes} bytes as JSON, {ESCAPED_INPUT_LIMIT_BYTES} are "
        "allowed: shorten them, or remove line breaks, quotes and control characters, which JSON escapes"
    )


def waits(plan: TaskPlan, s: TaskSnapshot, task: LLMTask, why: Waiting, again_seconds: float) -> TaskPlan:
    """Instead of the hand-out. A copy that is queued already stays there: its input was read when it was handed out."""
    queued = s.held is not None and s.held.place in (Place.QUEUED, Place.DELAYED)
    if queued and plan.enqueue is not None and s.held is not None and s.held.attempt == plan.enqueue.attempt:
        return replace(plan, enqueue=replace(plan.enqueue, as_it_is=True))
    return replace(held_back(plan, s, task, why), requeue_after_seconds=again_seconds)


def refused(s: TaskSnapshot, task: LLMTask, message: str) -> TaskPlan:
    """The end: no further attempt would fare better."""
    reason = Reason.INPUT_TOO_LARGE
    return TaskPlan(
        "input is too large",
        status=status_at_end(s, task, reason, message),
        remove=s.held is not None,
        announcement=Announcement("Warning", reason, message),
    )
