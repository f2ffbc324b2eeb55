"""Why an open task is not running: words for people, out of the model's conditions.

Messages hold no durations: a text that changes with the clock would be a write per look.
"""

from dataclasses import dataclass
from typing import Final

from headrace_crds.base import Condition, ConditionStatus, find_condition
from headrace_crds.model import LLMModel
from headrace_crds.reasons import Reason
from headrace_crds.scaling import NO_GPU
from headrace_operator.decide import provider
from headrace_operator.refs import ModelRef

# A status that still says Serving or ScaledToZero of a model that does neither any more is about to be written.
_ON_ITS_WAY: Final = frozenset(
    {
        Reason.STARTING,
        Reason.DOWNLOADING_WEIGHTS,
        Reason.VERIFYING_WEIGHTS,
        Reason.LOADING_WEIGHTS,
        Reason.SERVING,
        Reason.SCALED_TO_ZERO,
    }
)


@dataclass(frozen=True, slots=True)
class Waiting:
    """`cause` names what the message is about: while reason and cause stay, the object is not written."""

    reason: Reason
    message: str

    @property
    def cause(self) -> str:
        return cause(self.reason, self.message)


def cause(reason: str | None, message: str | None) -> str:
    """Decides whether an explanation is out of date: ModelNotReady carries the model's own reason before a
    colon, InputNotFound what is missing, BudgetExhausted which budget and until when, before a colon.
    """
    if reason == Reason.MODEL_NOT_READY:
        return f"{reason}/{(message or '').partition(':')[0]}"
    if reason == Reason.INPUT_NOT_FOUND:
        return f"{reason}/{message}"
    if reason == Reason.BUDGET_EXHAUSTED:
        return f"{reason}/{(message or '').partition(': ')[0]}"
    return str(reason)


def model_not_found(ref: ModelRef, namespace: str) -> Waiting:
    """Of a task in `namespace`. In another namespace a model that is created without being shared would end it."""
    missing = f"LLMModel {ref.name!r} does not exist in namespace {ref.namespace!r}"
    if ref.namespace == namespace:
        return Waiting(Reason.MODEL_NOT_FOUND, f"{missing}: create it and the task goes on")
    how = f"create it with a spec.sharing that admits namespace {namespace!r}, and the task goes on"
    return Waiting(Reason.MODEL_NOT_FOUND, f"{missing}: {how}")


def not_named(model_namespace: str) -> str:
    return f"the chart's sharing.modelNamespaces does not name {model_namespace!r}"


def can_never_serve(model: LLMModel) -> Waiting | None:
    """A model that has no runner of its own and will get none by itself: nothing is handed out to it."""
    ready = _condition(model, "Ready")
    if ready is not None and ready.status is ConditionStatus.FALSE and ready.reason == Reason.NAME_CONFLICT:
        return Waiting(Reason.MODEL_NOT_READY, f"{ready.reason}: {ready.message}")
    return None


def explain(model: LLMModel) -> Waiting:
    """Why a task that is queued for this model may not be running."""
    name = model.metadata.name
    if model.wanted_replicas == 0:
        return _at_zero(model)
    if _is(model, "Available", ConditionStatus.TRUE):
        return Waiting(Reason.QUEUED, f"queued for LLMModel {name!r}")
    placed = _condition(model, "Placed")
    if placed is not None and placed.status is ConditionStatus.FALSE and placed.reason == Reason.WAITING_FOR_GPU:
        return Waiting(Reason.WAITING_FOR_GPU, f"LLMModel {name!r}: {placed.message}")
    # A model that has served stays Ready; what keeps it from serving at the moment is said by Available.
    ready = _condition(model, "Ready")
    telling = _condition(model, "Available") if ready is None or ready.status is ConditionStatus.TRUE else ready
    if telling is None or telling.reason in _ON_ITS_WAY:
        return Waiting(Reason.MODEL_LOADING, f"LLMModel {name!r} is being started; its conditions tell how far it is")
    if telling.reason in provider.PAUSES:
        return Waiting(Reason(telling.reason), f"LLMModel {name!r}: {telling.message}")
    return Waiting(Reason.MODEL_NOT_READY, f"{telling.reason}: {telling.message}")


def _at_zero(model: LLMModel) -> Waiting:
    name, planned = model.metadata.name, model.status.scaling if model.status is not None else None
    if not model.spec.scales_itself:
        return Waiting(Reason.MODEL_SCALED_TO_ZERO, f"LLMModel {name!r} has spec.replicas 0: scale it up")
    if planned is not None and planned.reason in NO_GPU:
        return Waiting(Reason.WAITING_FOR_GPU, f"LLMModel {name!r}: {planned.message}")
    ready = _condition(model, "Ready")
    if ready is not None and ready.status is ConditionStatus.FALSE and ready.reason not in _ON_ITS_WAY:
        return Waiting(Reason.MODEL_NOT_READY, f"{ready.reason}: {ready.message}")
    return Waiting(Reason.MODEL_LOADING, f"LLMModel {name!r} is at zero replicas, and is started for what waits")


def _condition(model: LLMModel, type_: str) -> Condition | None:
    return find_condition(model.status.conditions, type_) if model.status is not None else None


def _is(model: LLMModel, type_: str, status: ConditionStatus) -> bool:
    condition = _condition(model, type_)
    return condition is not None and condition.status is status
