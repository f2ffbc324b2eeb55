"""The status of a model out of a finding: conditions, phase, counts. The one place that derives the phase."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from headrace_crds.base import Condition, ConditionStatus, find_condition
from headrace_crds.model import EngineInfo, FetchedWeights, LLMModel, Load, ModelPhase, ProviderStatus
from headrace_crds.names import runner_labels
from headrace_crds.outcome import timestamp, with_condition
from headrace_crds.reasons import Reason
from headrace_crds.scaling import ScalingStatus
from headrace_operator.decide.placement import Fetched, Finding
from headrace_operator.decide.sharing import reaches_out
from headrace_operator.decide.waiting import not_named


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the conditions are made of."""

    ready: bool
    available: bool
    finding: Finding
    stalled: bool
    unplaced: Finding | None
    """Of a pod that has no node; None when all have one."""
    engine: EngineInfo | None
    pods: int
    ready_pods: int
    remote: bool = False
    paused: bool = False
    """A remote model makes no requests at the moment; the finding says why."""
    provider: ProviderStatus | None = None
    weights: FetchedWeights | None = None
    may_share: bool = True
    """The chart lets models of this namespace serve others."""
    replicas: int = 1
    """Runner pods that it is to have."""
    planned: ScalingStatus | None = None


_LOADS: Final = frozenset({Reason.DOWNLOADING_WEIGHTS, Reason.VERIFYING_WEIGHTS, Reason.LOADING_WEIGHTS})


def derive_phase(judgement: Judgement) -> ModelPhase:
    """The one place that turns facts into a phase."""
    if judgement.stalled:
        return ModelPhase.FAILED
    if judgement.available:
        return ModelPhase.SERVING
    if judgement.unplaced is not None and judgement.unplaced.reason == Reason.WAITING_FOR_GPU:
        return ModelPhase.WAITING_FOR_GPU
    if judgement.replicas == 0 and not (judgement.planned is not None and judgement.finding.reason in _LOADS):
        return ModelPhase.SCALED_TO_ZERO
    if judgement.paused:
        return ModelPhase.PAUSED
    if judgement.finding.reason in _LOADS:
        return ModelPhase.LOADING
    return ModelPhase.STARTING


def build(model: LLMModel, judgement: Judgement, *, now_ms: int) -> dict[str, Any]:
    """The whole status in wire form."""
    status: dict[str, Any] = {
        "observedGeneration": model.metadata.generation,
        "conditions": [c.dump() for c in _conditions(model, judgement, now=timestamp(now_ms))],
        "phase": derive_phase(judgement).value,
        "replicas": judgement.pods,
        "readyReplicas": judgement.ready_pods,
        "selector": ",".join(f"{k}={v}" for k, v in sorted(runner_labels(model.metadata.name).items())),
    }
    if judgement.engine is not None:
        status["engine"] = judgement.engine.dump()
    if judgement.weights is not None:
        status["weights"] = judgement.weights.dump()
    if judgement.provider is not None:
        status["provider"] = judgement.provider.dump()
    if (scaling := _scaling(model, judgement.planned)) is not None:
        status["scaling"] = scaling.dump()
    if judgement.finding.stage is not None:
        since_ms = judgement.finding.since_ms
        fetched = judgement.finding.fetched or Fetched()
        load = Load(
            stage=judgement.finding.stage,
            since=timestamp(since_ms) if since_ms else None,
            percent=fetched.percent,
            bytes_per_second=fetched.bytes_per_second,
            eta_seconds=fetched.eta_seconds,
        )
        status["load"] = load.dump()
    return status


def _scaling(model: LLMModel, planned: ScalingStatus | None) -> ScalingStatus | None:
    """The numbers in the message are another with every look: they are not worth a write."""
    if not model.spec.scales_itself:
        return None
    before = model.status.scaling if model.status is not None else None
    if planned is None or (before is not None and same_plan(before, planned)):
        return before
    return planned


def same_plan(one: ScalingStatus, other: ScalingStatus) -> bool:
    return (one.replicas, one.wanted, one.reason) == (other.replicas, other.wanted, other.reason)


def changed_members(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any] | None:
    """A merge patch from one status to the other; None when they are the same."""
    patch = {key: value for key, value in after.items() if before.get(key) != value}
    patch |= {key: None for key in before if key not in after}
    # A merge patch merges objects: members that are gone must be named.
    for key, value in patch.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            patch[key] = {**{member: None for member in old if member not in value}, **value}
    return patch or None


def _conditions(model: LLMModel, judgement: Judgement, *, now: str) -> list[Condition]:
    finding, generation = judgement.finding, model.metadata.generation
    conditions: Sequence[Condition] = model.status.conditions if model.status is not None else []
    told: list[tuple[str, bool, str, str]] = [
        ("Ready", judgement.ready, *_ready(judgement)),
        ("Available", judgement.available, *_available(judgement)),
    ]
    if judgement.unplaced is not None:
        told.append(("Placed", False, judgement.unplaced.reason, judgement.unplaced.message))
    elif judgement.pods:
        told.append(("Placed", True, Reason.SCHEDULED, "every runner pod has a node"))
    if judgement.stalled:
        told.append(("Stalled", True, finding.reason, finding.message))
    if reaches_out(model):
        told.append(("Shared", judgement.may_share, *_shared(judgement, model.metadata.namespace)))
    for type_, value, reason, message in told:
        status = ConditionStatus.TRUE if value else ConditionStatus.FALSE
        conditions = with_condition(conditions, type_, status, reason, message, generation=generation, now=now)
    names = [type_ for type_, *_ in told]
    return [condition for name in names if (condition := find_condition(conditions, name)) is not None]


def _ready(judgement: Judgement) -> tuple[str, str]:
    finding = judgement.finding
    if not judgement.ready:
        return finding.reason, finding.message
    if judgement.available:
        return Reason.SERVING, "a runner serves"
    good = "the configuration is valid" if judgement.remote else "the weights are verified"
    if finding.reason == Reason.SCALED_TO_ZERO:
        return Reason.SCALED_TO_ZERO, f"{good}; it is at zero replicas"
    if judgement.paused:
        return Reason.CONFIGURATION_VALID, f"{good}; Available says why no request is made at the moment"
    if judgement.remote:
        return Reason.CONFIGURATION_VALID, f"{good}; a runner serves once there is one"
    return Reason.WEIGHTS_VERIFIED, "the weights are verified; a runner serves once there is one"


def _shared(judgement: Judgement, namespace: str) -> tuple[str, str]:
    if judgement.may_share:
        return Reason.SHARED, "spec.sharing is in effect"
    message = f"{not_named(namespace)}: spec.sharing has no effect until the cluster's admins add it"
    return Reason.SHARING_NOT_ALLOWED, message


def _available(judgement: Judgement) -> tuple[str, str]:
    if judgement.available:
        return Reason.SERVING, f"{judgement.ready_pods} runner pods serve" if judgement.ready_pods != 1 else (
            "1 runner pod serves"
        )
    return judgement.finding.reason, judgement.finding.message
