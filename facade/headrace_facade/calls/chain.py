"""Which model a call goes to when its own cannot serve it: the model's `fallback`, as tasks follow it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from headrace_bus import ModelKey
from headrace_crds.base import ConditionStatus, find_condition
from headrace_crds.fallback import FallbackWhen, ModelFallback, ModelFallbackPolicy
from headrace_crds.model import Capability, LLMModel
from headrace_crds.reasons import Reason

_LIMITED: Final = frozenset({Reason.RATE_LIMITED, Reason.PROVIDER_OVERLOADED})
_WHEN: Final = {
    Reason.CONTENT_REFUSED: FallbackWhen.REFUSED,
    Reason.INVALID_OUTPUT: FallbackWhen.INVALID_OUTPUT,
    **dict.fromkeys(_LIMITED, FallbackWhen.RATE_LIMITED),
}
_FAULTS: Final = frozenset(
    {
        Reason.PROVIDER_UNREACHABLE,
        Reason.PROVIDER_FAILED,
        Reason.PROVIDER_ANSWER_INVALID,
        Reason.CIRCUIT_OPEN,
        Reason.ENGINE_LOST,
        Reason.ENGINE_OVERLOADED,
        Reason.ENGINE_STOPPING,
        Reason.RUNNER_STOPPED,
        Reason.LEASE_EXPIRED,
        Reason.QUEUE_STATE_LOST,
    }
)


def key_of(model: LLMModel) -> ModelKey:
    return ModelKey(model.metadata.namespace, model.metadata.name)


@dataclass
class Chain:
    """What is left of it."""

    left: list[ModelKey] = field(default_factory=list)
    when: frozenset[FallbackWhen] = frozenset()
    after_seconds: int = 0

    @classmethod
    def of(cls, model: LLMModel, *, stays: bool) -> "Chain":
        """`stays`: asks for what is this model's own, vectors or tokens."""
        own = model.spec.fallback or ModelFallback()
        if stays or own.policy is not ModelFallbackPolicy.LIST:
            return cls()
        home = model.metadata.namespace
        listed = (ModelKey(each.namespace or home, each.name) for each in own.models or [])
        left = [key for key in dict.fromkeys(listed) if key != key_of(model)]
        return cls(left, frozenset(own.when), own.after_seconds)

    def moves_for(self, reason: str) -> bool:
        """Whether a call that ended for this reason goes on."""
        if not self.left:
            return False
        when = _WHEN.get(Reason(reason)) if reason in tuple(Reason) else None
        if when is None and reason in _FAULTS:
            when = FallbackWhen.UNAVAILABLE
        return when in self.when

    @property
    def hold_seconds(self) -> float | None:
        """So long a call waits for this model before it goes on; None: as long as any."""
        patient = {FallbackWhen.UNAVAILABLE, FallbackWhen.QUEUE_TIMEOUT}
        return float(self.after_seconds) if self.left and self.when & patient else None


def serves_now(model: LLMModel) -> str:
    """Empty, or the reason for which it does not."""
    for kind in ("Ready", "Available"):
        told = find_condition((model.status.conditions if model.status is not None else None) or [], kind)
        if told is None or told.status is not ConditionStatus.TRUE:
            return told.reason if told is not None else Reason.MODEL_LOADING.value
    return ""


def can(model: LLMModel, needed: Sequence[Capability]) -> bool:
    return any(each in model.spec.capabilities for each in needed)
