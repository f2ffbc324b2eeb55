"""The only reads of a model's reconcile."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from headrace_bus import BusCorrupt
from headrace_crds.base import ConditionStatus, find_condition
from headrace_crds.model import LLMModel
from headrace_crds.names import ANNOTATION_ALLOWED_HOSTS, runner_name
from headrace_operator.context import Context, SecretLook, bus_key
from headrace_operator.decide import access, children, weights
from headrace_operator.decide.access import Access
from headrace_operator.decide.children import KINDS, spec_hash
from headrace_operator.decide.clocks import milliseconds
from headrace_operator.decide.snapshots import (
    CredentialsView,
    DeploymentView,
    JobView,
    LiveChild,
    ModelSnapshot,
    Ownership,
    Report,
)
from headrace_operator.errors import KubeRefused
from headrace_operator.kube import CHILDREN, CLAIMS, DEPLOYMENTS, JOBS, MODELS, Body
from headrace_operator.refs import ModelRef
from headrace_operator.views import controller_uid, deployment_view, job_view, parse_model, report

OLDER_LIMIT: Final = 100
CHILDREN_RESYNC_SECONDS: Final = 300.0
"""Children are applied again this often, whatever is known of them."""
RIGHTS_SECONDS: Final = 10.0
"""Between two times that a runner's word has its rights given anew."""
SECRET_SECONDS: Final = 5.0
"""So long the last look at a remote model's Secret counts; a refused model is looked at less often."""
UNWATCHED: Final = ("ServiceAccount", "RoleBinding", "Secret", "NetworkPolicy")
"""Watching them would take rights to list them. Their metadata is looked at with every sweep instead."""


async def observe(ref: ModelRef, ctx: Context) -> ModelSnapshot:
    now_ms, model = await ctx.clock.now_ms(), ctx.store.model(ref)
    if model is None:
        body = await ctx.kube.get(MODELS, ref.namespace, ref.name)
        if body is not None:
            model = parse_model(body)
            ctx.store.put_model(ref, model)
    if model is None or model.metadata.deletion_timestamp is not None:
        return ModelSnapshot(ref=ref, now_ms=now_ms, model=None, runner=ctx.settings.runner)
    deployment, live, reports = ctx.store.deployment(ref), None, await _reports(ref, ctx)
    credentials, certificate = await _secrets(ref, model, ctx)
    granted = access.of(model, ctx.settings.runner, credentials, certificate)
    planned = ctx.memory.planned.get(ref) if model.spec.scales_itself else None
    seen = ModelSnapshot(
        ref=ref,
        now_ms=now_ms,
        model=model,
        runner=ctx.settings.runner,
        redis_password=ctx.redis_password(model.metadata.uid),
        deployment=deployment,
        pods=[pod for pod in ctx.store.pods(ref) if not pod.fetches],
        reports=reports,
        served_uid=ctx.memory.granted.get(ref, ("", ""))[1],
        queue_older=ref in ctx.memory.inherited and await _queue_is_older(ref, model, ctx),
        job_pods=[pod for pod in ctx.store.pods(ref) if pod.fetches],
        claim_missing=await _claim_missing(model, ctx),
        credentials=credentials,
        client_certificate=certificate,
        may_share=ref.namespace in ctx.settings.sharing_model_namespaces,
        planned=planned,
    )
    if weights.wants_job(seen, model):
        seen = replace(seen, job=await _job(ref, model, ctx))
    due = children_due(ref, model, deployment, ctx, granted) or rights_doubted(ref, reports, ctx)
    due = due or _weights_came_or_went(seen, model, ctx)
    due |= deployment is not None and deployment.replicas != children.replicas(seen, model, granted)
    stopped = granted is not None and not granted.granted
    if deployment is None and (stopped or not weights.mountable(model, ctx.settings.runner.weights)):
        # There is nothing to stop, and nothing is made.
        due = False
    if due or await _children_changed(ref, ctx):
        live, deployment = await _live_children(ref, model, ctx)
    return replace(seen, deployment=deployment, live=live)


def _weights_came_or_went(s: ModelSnapshot, model: LLMModel, ctx: Context) -> bool:
    """The children were made for the other case."""
    applied = ctx.memory.applied.get(s.ref)
    return applied is not None and applied.weights_ready is not weights.judge(s, model).ready


async def _job(ref: ModelRef, model: LLMModel, ctx: Context) -> JobView | None:
    body = await ctx.kube.get(JOBS, ref.namespace, runner_name(ref.name))
    return None if body is None else job_view(body, _ownership(body, model))


async def _queue_is_older(ref: ModelRef, model: LLMModel, ctx: Context) -> bool:
    """Asked only before the first status, which every incarnation's first look writes."""
    if model.status is not None and model.status.observed_generation:
        return False
    created_ms = milliseconds(model.metadata.creation_timestamp) or 0
    try:
        page = await ctx.bus.uids(bus_key(ref), limit=OLDER_LIMIT)
        entries = [await ctx.bus.inspect(bus_key(ref), uid) for uid in page.entries]
    except BusCorrupt:
        return True
    return any(entry is not None and entry.since_ms < created_ms for entry in entries)


def children_due(
    ref: ModelRef, model: LLMModel, deployment: DeploymentView | None, ctx: Context, granted: Access | None = None
) -> bool:
    """Applying children takes ten requests: it is done when something differs, and now and then."""
    applied = ctx.memory.applied.get(ref)
    if applied is None or deployment is None:
        return True
    age_seconds = ctx.monotonic() - applied.at
    return (
        applied.uid != model.metadata.uid
        or applied.generation != model.metadata.generation
        or applied.deployment_generation != deployment.generation
        or (granted is not None and deployment.spec_hash != spec_hash(model, granted))
        or age_seconds > CHILDREN_RESYNC_SECONDS
    )


def rights_doubted(ref: ModelRef, reports: Mapping[str, Report], ctx: Context) -> bool:
    """A runner says that it may not commit: its rights are given anew, however often a stranger says so not all the
    time.
    """
    applied = ctx.memory.applied.get(ref)
    rested = applied is not None and ctx.monotonic() - applied.at > RIGHTS_SECONDS
    return rested and any(report.commit_forbidden for report in reports.values())


async def _children_changed(ref: ModelRef, ctx: Context) -> bool:
    """Whether somebody else wrote or deleted a child that is not watched: four small requests per sweep."""
    applied, now = ctx.memory.applied.get(ref), ctx.monotonic()
    # Models are looked at every so many seconds, and not to the millisecond.
    if applied is None or now - ctx.memory.probed.get(ref, 0.0) < 0.9 * ctx.settings.sweep_seconds:
        return False
    ctx.memory.probed[ref] = now
    for kind in UNWATCHED:
        try:
            body = await ctx.kube.probe(CHILDREN[kind], ref.namespace, runner_name(ref.name))
        except KubeRefused:
            return True
        if body is None or body["metadata"]["resourceVersion"] != applied.versions.get(kind):
            return True
    return False


async def _live_children(ref: ModelRef, model: LLMModel, ctx: Context) -> tuple[list[LiveChild], DeploymentView | None]:
    """Whose the children's names are. The Deployment is read whole: it remembers the spec that pods are made from."""
    name, live, deployment = runner_name(ref.name), [], None
    for kind in KINDS:
        resource = CHILDREN[kind]
        try:
            if resource is DEPLOYMENTS:
                body = await ctx.kube.get(resource, ref.namespace, name)
            else:
                body = await ctx.kube.probe(resource, ref.namespace, name)
        except KubeRefused:
            if resource.readable:
                raise
            # The chart's policy does not even let the operator probe what no model owns.
            live.append(LiveChild(kind, name, Ownership.FOREIGN, ""))
            continue
        ownership = _ownership(body, model)
        live.append(LiveChild(kind, name, ownership, body["metadata"]["uid"] if body is not None else ""))
        if resource is DEPLOYMENTS and body is not None and ownership is Ownership.OURS:
            deployment = deployment_view(body)
            ctx.store.put_deployment(ref, deployment)
    return live, deployment


def _ownership(body: Body | None, model: LLMModel) -> Ownership:
    if body is None:
        return Ownership.ABSENT
    uid = controller_uid(body["metadata"])
    if uid == model.metadata.uid:
        return Ownership.OURS
    name = ("LLMModel", model.metadata.name)
    owners = [
        (o.get("kind"), o.get("name")) for o in body["metadata"].get("ownerReferences") or [] if o.get("controller")
    ]
    return Ownership.PREDECESSOR if name in owners else Ownership.FOREIGN


async def _reports(ref: ModelRef, ctx: Context) -> dict[str, Report]:
    documents = await ctx.bus.reports(bus_key(ref))
    read = {pod: report(document) for pod, document in documents.items()}
    return {pod: each for pod, each in read.items() if each is not None}


async def _claim_missing(model: LLMModel, ctx: Context) -> bool:
    local = model.spec.local
    claim = local.source.persistent_volume_claim if local is not None else None
    cache = local.cache.persistent_volume_claim if local is not None and local.cache is not None else None
    if cache is not None and weights.known(model, "") is None:
        # Weights are fetched for a model at rest as well.
        return await ctx.kube.probe(CLAIMS, model.metadata.namespace, cache.claim_name) is None
    if claim is None or model.wanted_replicas == 0 or _is(model, "Available"):
        return False
    return await ctx.kube.probe(CLAIMS, model.metadata.namespace, claim.claim_name) is None


async def _secrets(
    ref: ModelRef, model: LLMModel, ctx: Context
) -> tuple[CredentialsView | None, CredentialsView | None]:
    """Of the Secrets that a model names, the metadata alone: a remote one's for key and client certificate, a local
    one's for fetching its weights. None where it names none.
    """
    remote, local = model.spec.remote, model.spec.local
    key = local.source.secret_name if local is not None else None
    certificate = None
    if remote is not None:
        key = None if remote.credentials is None else remote.credentials.secret_key_ref.name
        certificate = None if remote.client_certificate is None else remote.client_certificate.secret_name
    if key is None and certificate is None:
        return None, None
    last, kept = ctx.memory.secrets.get(ref, {}), dict[str, SecretLook]()
    for name in {each for each in (key, certificate) if each is not None}:
        # Reports wake this look every two seconds.
        look = last.get(name)
        if look is None or ctx.monotonic() - look.at > SECRET_SECONDS:
            look = SecretLook(ctx.monotonic(), await _secret(ref.namespace, name, ctx))
        kept[name] = look
    ctx.memory.secrets[ref] = kept
    return (
        None if key is None else kept[key].seen,
        None if certificate is None else kept[certificate].seen,
    )


async def _secret(namespace: str, name: str, ctx: Context) -> CredentialsView:
    """The chart's policy lets the operator look at Secrets that carry the annotation, and refuses it any other."""
    try:
        body = await ctx.kube.probe(CHILDREN["Secret"], namespace, name)
    except KubeRefused:
        return CredentialsView(exists=True)
    if body is None:
        return CredentialsView(exists=False)
    return CredentialsView(True, (body["metadata"].get("annotations") or {}).get(ANNOTATION_ALLOWED_HOSTS))


def _is(model: LLMModel, type_: str) -> bool:
    condition = find_condition(model.status.conditions, type_) if model.status is not None else None
    return condition is not None and condition.status is ConditionStatus.TRUE
