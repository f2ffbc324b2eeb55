"""The only writes of a model's reconcile: queue and grant, children, status once, then the event."""

import contextlib
from typing import Final

import structlog

from headrace_crds.names import runner_name
from headrace_operator import announce, bindings
from headrace_operator.context import Applied, Context, bus_key
from headrace_operator.decide import children
from headrace_operator.decide.children import redis_user, weights_password, weights_user
from headrace_operator.decide.plans import ModelPlan, WeightsPlan
from headrace_operator.decide.snapshots import ModelSnapshot
from headrace_operator.errors import KubeNotFound, NotLeading
from headrace_operator.kube import JOBS, MODELS
from headrace_operator.refs import ModelRef
from headrace_operator.views import deployment_view, parse_model

STATUS_LATER_SECONDS: Final = 2.0

_log = structlog.get_logger()


async def apply(plan: ModelPlan, s: ModelSnapshot, ctx: Context) -> float | None:
    """Seconds after which to look again. Raises KubeConflict when something changed since it was observed."""
    if plan.retire:
        await _retire(s.ref, s.now_ms, ctx)
    if s.model is None:
        return None
    ctx.memory.may_run[s.ref] = plan.may_run
    if plan.serve:
        await _grant(s, ctx)
    if plan.children:
        await _apply_children(plan, s, ctx)
    if plan.weights is not None:
        await _fetch_weights(plan.weights, s, ctx)
    if plan.status is not None and not ctx.model_statuses.take(s.ref):
        return STATUS_LATER_SECONDS
    try:
        await _write_status(plan, s, ctx)
    except KubeNotFound:
        ctx.store.drop_model(s.ref, s.model.metadata.uid)
        return 0.0
    return plan.requeue_after_seconds


async def _retire(ref: ModelRef, now_ms: int, ctx: Context) -> None:
    """Nothing of the model stays in Redis. Its tasks find an empty queue and draw their conclusions."""
    if not await ctx.leads():
        raise NotLeading(f"{ref} is left to whoever leads")
    # In this order: whoever is still connected could write while its keys go, and a registration that stands until
    # all is done is what the sweep finds after a crash in between.
    await ctx.bus.revoke(redis_user(ref))
    await ctx.bus.revoke(weights_user(ref))
    await ctx.bus.purge(bus_key(ref))
    if ref in ctx.memory.granted or ref in ctx.memory.registered:
        _log.info("model retired", model=str(ref))
    ctx.memory.may_run.pop(ref, None)
    ctx.memory.applied.pop(ref, None)
    ctx.memory.probed.pop(ref, None)
    ctx.memory.secrets.pop(ref, None)
    ctx.memory.granted.pop(ref, None)
    ctx.memory.registered.discard(ref)
    ctx.memory.inherited.discard(ref)
    ctx.memory.complaints.pop(ref, None)
    ctx.explanations.forget(ref)
    ctx.model_statuses.forget(ref)
    ctx.memory.note_replaced(ref, now_ms)
    for view in ctx.store.open_tasks_of(ref):
        ctx.tasks.add(view.ref)


async def _grant(s: ModelSnapshot, ctx: Context) -> None:
    """Once per incarnation of the model and life of Redis, which forgets users when it restarts."""
    if s.model is None:
        return
    stands = (ctx.memory.redis_run_id, s.model.metadata.uid)
    if s.ref not in ctx.memory.registered:
        await ctx.bus.register(bus_key(s.ref))
        ctx.memory.registered.add(s.ref)
    if ctx.memory.granted.get(s.ref) != stands:
        await ctx.bus.grant(bus_key(s.ref), redis_user(s.ref), s.redis_password)
        if s.model.spec.local is not None:
            await ctx.bus.grant(
                bus_key(s.ref), weights_user(s.ref), weights_password(s.redis_password), reports_alone=True
            )
        ctx.memory.granted[s.ref] = stands
    ctx.memory.inherited.discard(s.ref)


async def _apply_children(plan: ModelPlan, s: ModelSnapshot, ctx: Context) -> None:
    if s.model is None:
        return
    versions: dict[str, str] = {}
    account_uid = ""
    for child in plan.children:
        # The account comes before the pods that are its.
        manifest = children.of_account(child, account_uid) if child["kind"] == "Deployment" else child
        body = await ctx.kube.apply(manifest, uid=plan.uids.get(manifest["kind"], ""))
        versions[manifest["kind"]] = body["metadata"]["resourceVersion"]
        if manifest["kind"] == "ServiceAccount":
            account_uid = body["metadata"]["uid"]
        if manifest["kind"] == "Deployment":
            view = deployment_view(body)
            ctx.store.put_deployment(s.ref, view)
            metadata = s.model.metadata
            ctx.memory.applied[s.ref] = Applied(
                metadata.uid,
                metadata.generation,
                view.generation,
                ctx.monotonic(),
                versions,
                plan.weights_ready,
            )
            ctx.memory.probed[s.ref] = ctx.monotonic()
    if any(report.commit_forbidden for report in s.reports.values()):
        await bindings.renew(s.ref, ctx)
    _log.info("children applied", model=str(s.ref), generation=s.model.metadata.generation)


async def _fetch_weights(plan: WeightsPlan, s: ModelSnapshot, ctx: Context) -> None:
    """Raises KubeConflict where a Job of that name has come meanwhile."""
    name = runner_name(s.ref.name)
    if plan.remove_uid:
        with contextlib.suppress(KubeNotFound):
            await ctx.kube.delete(JOBS, s.ref.namespace, name, uid=plan.remove_uid)
    if plan.policy is not None:
        await ctx.kube.apply(plan.policy)
    if plan.job is not None:
        await ctx.kube.create(JOBS, s.ref.namespace, plan.job)
        _log.info("weights job made", model=str(s.ref), replaces=plan.remove_uid)


async def _write_status(plan: ModelPlan, s: ModelSnapshot, ctx: Context) -> None:
    if plan.status is None or s.model is None:
        return
    metadata = s.model.metadata
    body = await ctx.kube.patch_status(
        MODELS, s.ref.namespace, s.ref.name, plan.status, resource_version=metadata.resource_version
    )
    ctx.store.put_model(s.ref, parse_model(body))
    _log.info("model status", model=str(s.ref), phase=plan.status.get("phase"), details=plan.details)
    if plan.announcement is not None:
        await announce.publish("LLMModel", metadata, plan.announcement, ctx)
    ctx.enqueue_tasks_of(s.ref)
