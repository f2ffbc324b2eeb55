"""The bounds of what is handed out, and what becomes of a hand-out for which there is no room, or no right."""

from dataclasses import dataclass, replace
from enum import StrEnum

from headrace_crds.reasons import Reason
from headrace_crds.task import HANDED_OUT, LLMTask, TaskPhase
from headrace_operator.decide import task_status, waiting
from headrace_operator.decide.plans import TaskPlan
from headrace_operator.decide.snapshots import TaskSnapshot
from headrace_operator.refs import ModelRef


@dataclass(frozen=True, slots=True)
class Bounds:
    """Tasks and bytes of input that are handed out at once. One task always fits where there is none."""

    model_tasks: int = 20_000
    model_bytes: int = 256 * 1024 * 1024
    namespace_tasks: int = 10_000
    namespace_bytes: int = 128 * 1024 * 1024


class Scope(StrEnum):
    """Whose bound it is that keeps a task waiting."""

    QUOTA = "Quota"
    NAMESPACE = "Namespace"
    MODEL = "Model"
    TURN = "Turn"
    """There may be room, but others come first."""


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Why a task is not handed out: what is in that scope."""

    scope: Scope
    tasks: int = 0
    size_bytes: int = 0


def queue_full(hindrance: Hindrance, model: ModelRef, namespace: str, bounds: Bounds) -> waiting.Waiting:
    """Words for everything but a quota. The numbers are those of the first look: a full window is not written about
    each time that something leaves it.
    """
    held = f"{hindrance.tasks} tasks with {hindrance.size_bytes} bytes of input"
    match hindrance.scope:
        case Scope.NAMESPACE:
            most = f"{bounds.namespace_tasks} tasks and {bounds.namespace_bytes} bytes"
            message = f"namespace {namespace!r} has {held} in the queue of LLMModel {model.name!r}, of at most {most}"
        case Scope.MODEL:
            most = f"{bounds.model_tasks} tasks and {bounds.model_bytes} bytes"
            message = f"LLMModel {model.name!r} has {held} in its queue, of at most {most}"
        case _:
            message = f"others of namespace {namespace!r} come first in the queue of LLMModel {model.name!r}"
    return waiting.Waiting(Reason.QUEUE_FULL, f"{message}: goes on as soon as there is room")


def holds_room(task: LLMTask) -> bool:
    """It is handed out: what follows for it needs no other room."""
    return task.status is not None and task.status.phase in HANDED_OUT


def held_back(plan: TaskPlan, s: TaskSnapshot, task: LLMTask, why: waiting.Waiting) -> TaskPlan:
    """`plan` hands the task out; instead it waits at the attempt that the plan gave, never handed out at it.

    A plan without a status is about an attempt that the object says is handed out, and that the queue never had.
    """
    status, remove = task.status, s.held is not None
    if plan.enqueue is None:
        return plan
    waits = status is not None and status.phase is TaskPhase.WAITING and plan.enqueue.attempt == status.attempt
    told = status is not None and waiting.cause(status.reason, status.message) == why.cause
    if waits and told and not _edited(task):
        return replace(plan, details="still waits", status=None, enqueue=None, announcement=None, remove=remove)
    patch = task_status.explanation(task, why, now_ms=s.now_ms)
    if not waits:
        out = {"phase": TaskPhase.WAITING.value, "assignedModel": task_status.kept_model(task), "runner": None}
        patch = {**(plan.status or {}), **patch, **out}
    return replace(
        plan, details="held back", status=patch, enqueue=None, explains_only=waits, announcement=None, remove=remove
    )


def _edited(task: LLMTask) -> bool:
    return task.status is not None and (task.status.observed_generation or 0) < task.metadata.generation
