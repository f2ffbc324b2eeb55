"""What to do about one model: its children, its status, and what is left when it is gone.

`Ready` is True once an engine loaded the weights of this spec, and stays so at scale zero or while a runner is
displaced or restarts; it becomes False when an engine says that the weights cannot be served. A remote model is Ready
once a runner served this spec, and no more while its Secret does not allow it, or the provider wants somebody to act.
"""

from dataclasses import replace
from typing import Any, Final

from headrace_crds.base import Condition, ConditionStatus, find_condition
from headrace_crds.model import EngineInfo, LLMModel, ProviderStatus
from headrace_crds.reasons import Reason
from headrace_crds.remote import Remote
from headrace_crds.scaling import NO_GPU
from headrace_operator.decide import access, children, model_status, placement, provider, weights
from headrace_operator.decide.placement import Finding, Rank
from headrace_operator.decide.plans import Announcement, ModelPlan
from headrace_operator.decide.snapshots import LiveChild, ModelSnapshot, Ownership, PodView, Report

BUSY_LOOK_SECONDS: Final = 2.0
"""Between looks while an engine starts or loads; reports also wake the operator when they change."""
PATIENT_LOOK_SECONDS: Final = 10.0
"""Between looks while somebody else has to move: a GPU, a claim, an image."""
SETTLED_LOOK_SECONDS: Final = 30.0


def decide(s: ModelSnapshot) -> ModelPlan:
    """One plan for one look."""
    if s.model is None:
        return ModelPlan("gone", retire=True)
    retire = replaced(s, s.model)
    foreign = next((child for child in s.live or () if child.ownership is Ownership.FOREIGN), None)
    if foreign is not None:
        return _told(s, s.model, "name conflict", name_conflict(foreign), retire=retire)
    if any(child.ownership is Ownership.PREDECESSOR for child in s.live or ()):
        finding = Finding(Rank.NONE, Reason.STARTING, "waits until the objects of the deleted model are collected")
        return _told(s, s.model, "waits for the predecessor", finding, retire=retire)
    manifests = children.build(s, s.model) if s.live is not None else []
    fetching = weights.judge(s, s.model)
    return _told(
        s,
        s.model,
        "applied" if manifests else "observed",
        find(s, s.model),
        retire=retire,
        serve=True,
        may_run=children.may_run(s, s.model, access.of(s.model, s.runner, s.credentials, s.client_certificate)),
        children=manifests,
        weights=fetching.plan,
        weights_ready=fetching.ready,
        uids={child.kind: child.uid for child in s.live or () if child.ownership is Ownership.OURS},
    )


def replaced(s: ModelSnapshot, model: LLMModel) -> bool:
    """What stands in Redis is another incarnation's. An operator that did not see the deletion tells it by work that is
    older than the model; the credentials of older runners end with the grant.
    """
    return s.served_uid != model.metadata.uid if s.served_uid else s.queue_older


def refused(s: ModelSnapshot, model: LLMModel, message: str) -> ModelPlan:
    """The API server does not take a child: a quota, an admission policy, missing rights."""
    told = f"the API server refused a runner object: mend the quota, policy or right that it names: {message}"
    finding = Finding(Rank.NONE, Reason.CHILD_REFUSED, told)
    return _told(s, model, "child refused", finding)


def name_conflict(foreign: LiveChild) -> Finding:
    message = f"{foreign.kind} {foreign.name!r} exists and is not this model's: rename the model or delete that object"
    return Finding(Rank.NONE, Reason.NAME_CONFLICT, message, stalled=True)


def find(s: ModelSnapshot, model: LLMModel) -> Finding:
    """What speaks for the model, its spec, its claim and its Secret included."""
    granted = access.of(model, s.runner, s.credentials, s.client_certificate)
    if granted is not None and granted.refusal is not None:
        return granted.refusal
    if (fetching := weights.judge(s, model)).finding is not None:
        return fetching.finding
    if s.replicas(model) == 0:
        return _at_zero(s, model)
    local = model.spec.local
    finding = placement.best(
        _current_pods(s, model),
        _current_reports(s, model),
        s.deployment,
        gpu=local.gpu if local else None,
        now_ms=s.now_ms,
    )
    if model.spec.remote is not None:
        return _of_remote(s, model, model.spec.remote, finding)
    claim = local.source.persistent_volume_claim if local else None
    if s.claim_missing and claim is not None and finding.rank >= Rank.STARTING:
        return Finding(finding.rank, Reason.CLAIM_NOT_FOUND, placement.claim_not_found(claim.claim_name), finding.stage)
    return finding


def _at_zero(s: ModelSnapshot, model: LLMModel) -> Finding:
    if not model.spec.scales_itself:
        return Finding(Rank.NONE, Reason.SCALED_TO_ZERO, "spec.replicas is 0: scale the model up and it is loaded")
    if s.planned is None:
        return Finding(Rank.NONE, Reason.STARTING, "the planner has not looked at it yet", stage="Scheduling")
    stalled = _condition(model, "Stalled")
    if stalled is not None and stalled.observed_generation >= children.spec_generation(s, model):
        # It failed, and went to zero because nobody asks for it.
        return Finding(Rank.NONE, stalled.reason, stalled.message, stalled=True)
    reason = Reason.WAITING_FOR_GPU if s.planned.reason in NO_GPU else Reason.SCALED_TO_ZERO
    return Finding(Rank.NONE, reason, s.planned.message)


def _of_remote(s: ModelSnapshot, model: LLMModel, remote: Remote, finding: Finding) -> Finding:
    """A provider that is not asked speaks louder than a runner that would; a key that the Secret does not have shows in
    pods alone, as nobody here reads Secrets.
    """
    paused = provider.pause(finding.provider, model.status)
    if paused is not None:
        return replace(finding, reason=paused.reason, message=paused.message, stalled=paused.needs_somebody)
    if finding.reason == Reason.STARTING and finding.rank is Rank.STARTING:
        return replace(finding, message="the runner is starting")
    if finding.reason == Reason.VOLUME_NOT_READY and remote.credentials is not None:
        key = remote.credentials.secret_key_ref
        finding = replace(finding, message=f"{finding.message}; has Secret {key.name!r} the key {key.key!r}?")
    if finding.reason == Reason.VOLUME_NOT_READY and remote.client_certificate is not None:
        name = remote.client_certificate.secret_name
        finding = replace(finding, message=f"{finding.message}; has Secret {name!r} tls.crt and tls.key?")
    return finding


def _verified(s: ModelSnapshot, model: LLMModel) -> bool:
    """Whether Ready tells of what pods are made from at present."""
    ready = _condition(model, "Ready")
    return ready is not None and ready.observed_generation >= children.spec_generation(s, model)


def remembered_engine(s: ModelSnapshot, model: LLMModel) -> EngineInfo | None:
    """What an engine found in the weights of the present spec, as the status remembers it."""
    return model.status.engine if model.status is not None and _verified(s, model) else None


def judge(s: ModelSnapshot, model: LLMModel, finding: Finding) -> model_status.Judgement:
    """Facts for the conditions."""
    gpu = model.spec.local.gpu if model.spec.local else None
    remote = model.spec.remote
    pods = [pod for pod in s.pods if not pod.terminating]
    engine = (finding.engine or remembered_engine(s, model)) if remote is None else None
    ready_pods = sum(pod.ready for pod in pods)
    was_ready = (ready := _condition(model, "Ready")) is not None and ready.status is ConditionStatus.TRUE
    unplaced = [placement.unplaced(pod, gpu=gpu) for pod in pods if pod.scheduled is not True]
    if finding.rank is Rank.NONE and finding.reason == Reason.WAITING_FOR_GPU:
        unplaced.append(finding)
    granted = access.of(model, s.runner, s.credentials, s.client_certificate)
    refused = granted is not None and not granted.granted
    known = engine is not None if remote is None else _verified(s, model) and not refused
    paused = provider.pause(finding.provider, model.status) if remote is not None else None
    serving = finding.rank is Rank.SERVING and not finding.stalled
    return model_status.Judgement(
        # After a failure only an engine that serves makes it True again.
        ready=serving or (known and was_ready and not finding.stalled),
        available=(ready_pods > 0 or finding.rank is Rank.SERVING) and paused is None and not refused,
        finding=finding,
        stalled=finding.stalled,
        unplaced=min(unplaced, key=lambda each: each.reason != Reason.WAITING_FOR_GPU) if unplaced else None,
        engine=engine,
        pods=len(pods),
        ready_pods=ready_pods,
        remote=remote is not None,
        paused=paused is not None,
        provider=_provider(model, remote, finding, paused),
        may_share=s.may_share,
        replicas=s.replicas(model),
        planned=s.planned,
        weights=weights.judge(s, model).fetched,
    )


def _provider(
    model: LLMModel, remote: Remote | None, finding: Finding, paused: provider.Pause | None
) -> ProviderStatus | None:
    if remote is None or finding.rank is not Rank.SERVING:
        return None
    before = model.status.provider if model.status is not None else None
    return provider.status(finding.provider, paused, before, most=remote.max_concurrency)


def _told(s: ModelSnapshot, model: LLMModel, details: str, finding: Finding, **plan: Any) -> ModelPlan:
    judgement = judge(s, model, finding)
    before = model.status.dump() if model.status is not None else {}
    status = model_status.changed_members(before, model_status.build(model, judgement, now_ms=s.now_ms))
    return ModelPlan(
        details,
        status=status,
        announcement=_announcement(model, judgement),
        requeue_after_seconds=_next_look(judgement),
        **plan,
    )


def _next_look(judgement: model_status.Judgement) -> float:
    finding = judgement.finding
    if (finding.rank is Rank.SERVING and not judgement.paused) or finding.reason == Reason.SCALED_TO_ZERO:
        return SETTLED_LOOK_SECONDS
    if finding.rank in (Rank.LOADING, Rank.VERIFYING, Rank.STARTING) or finding.reason == Reason.STARTING:
        return BUSY_LOOK_SECONDS
    return PATIENT_LOOK_SECONDS


def _announcement(model: LLMModel, judgement: model_status.Judgement) -> Announcement | None:
    """Ready turned True, or another standstill: told once, because the status is then the same."""
    ready, stalled = _condition(model, "Ready"), _condition(model, "Stalled")
    if judgement.stalled:
        told = stalled is not None and stalled.reason == judgement.finding.reason
        return None if told else Announcement("Warning", judgement.finding.reason, judgement.finding.message)
    if judgement.ready and (ready is None or ready.status is not ConditionStatus.TRUE):
        what = "the provider is set up" if judgement.remote else "an engine loaded the weights"
        return Announcement("Normal", "Ready", f"{what}; the model serves on demand")
    return None


def _condition(model: LLMModel, type_: str) -> Condition | None:
    return find_condition(model.status.conditions, type_) if model.status is not None else None


def _current_pods(s: ModelSnapshot, model: LLMModel) -> list[PodView]:
    """Pods made from the present spec; those that ended count only when there is no other."""
    generation = children.spec_generation(s, model)
    pods = [pod for pod in s.pods if not pod.terminating and pod.spec_generation == generation]
    return [pod for pod in pods if pod.phase not in ("Failed", "Succeeded")] or pods


def _current_reports(s: ModelSnapshot, model: LLMModel) -> dict[str, Report]:
    generation = children.spec_generation(s, model)
    return {pod: report for pod, report in s.reports.items() if report.generation == generation}
