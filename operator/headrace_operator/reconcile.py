"""The two reconciles. This is all there is: observe, decide, apply."""

from headrace_operator import admission, apply_model, apply_task, budgets, inputs, observe_model, observe_task, traces
from headrace_operator.context import Context
from headrace_operator.decide import large_result
from headrace_operator.decide import model as decide_model
from headrace_operator.decide import task as decide_task
from headrace_operator.decide.plans import ModelPlan
from headrace_operator.decide.snapshots import ModelSnapshot, TaskSnapshot
from headrace_operator.errors import KubeConflict, KubeRefused, ResultUnwritable, WorkUnacceptable
from headrace_operator.kube import MODELS
from headrace_operator.refs import ModelRef, TaskRef
from headrace_operator.views import parse_model


async def reconcile_task(ref: TaskRef, ctx: Context) -> float | None:
    """Seconds after which to look again."""
    snapshot = await observe_task.observe(ref, ctx)
    if snapshot is None:
        return None
    with traces.followed(snapshot.task, ctx.tracing):
        return await _reconcile(ref, snapshot, ctx)


async def _reconcile(ref: TaskRef, snapshot: TaskSnapshot, ctx: Context) -> float | None:
    try:
        try:
            return await _apply_task(snapshot, ctx)
        except ResultUnwritable as error:
            return await _apply_task(large_result.unwritable(snapshot, error.reason, str(error), error.retryable), ctx)
    except WorkUnacceptable as error:
        seen = await observe_task.observe(ref, ctx)
        if seen is None or seen.task is None:
            return None
        plan = decide_task.unacceptable(seen, seen.task, error.reason, str(error))
        return await apply_task.apply(plan, seen, ctx)


async def _apply_task(snapshot: TaskSnapshot, ctx: Context) -> float | None:
    """Decide by the gates; what is handed out passes five more, each of which makes it wait instead, in this order: an
    input that was missing a moment ago, the window with the quota, the runner's right, the input, the budgets.
    """
    plan = decide_task.decide(snapshot)
    plan = inputs.not_due(plan, snapshot, ctx)
    plan = await admission.admit(plan, snapshot, ctx)
    # An input may be large: it is read for those who have a seat.
    plan = await inputs.provide(plan, snapshot, ctx)
    plan = await budgets.admit(plan, snapshot, ctx)
    return await apply_task.apply(plan, snapshot, ctx)


async def reconcile_model(ref: ModelRef, ctx: Context) -> float | None:
    """Seconds after which to look again."""
    snapshot = await observe_model.observe(ref, ctx)
    plan = decide_model.decide(snapshot)
    try:
        return await _apply(plan, snapshot, ctx)
    except KubeConflict:
        # The store is behind; without this look the next try would be as stale.
        body = await ctx.kube.get(MODELS, ref.namespace, ref.name)
        if body is None:
            ctx.store.drop_model(ref)
        else:
            ctx.store.put_model(ref, parse_model(body))
        raise


async def _apply(plan: ModelPlan, snapshot: ModelSnapshot, ctx: Context) -> float | None:
    try:
        return await apply_model.apply(plan, snapshot, ctx)
    except KubeRefused as error:
        if snapshot.model is None or not (plan.children or plan.weights):
            raise
        refused = decide_model.refused(snapshot, snapshot.model, str(error))
        return await apply_model.apply(refused, snapshot, ctx)
