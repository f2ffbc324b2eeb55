"""The only reads of a task's reconcile."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headrace_bus import BusDenied, BusError, Entry
from headrace_crds.model import LLMModel
from headrace_crds.task import LLMTask
from headrace_operator import large_results, namespaces
from headrace_operator.context import Context, bus_key
from headrace_operator.decide import fallback, task_status, untrusted
from headrace_operator.decide.snapshots import Held, Place, ReturnedDelivery, Target, TaskSnapshot
from headrace_operator.kube import TASKS
from headrace_operator.refs import ModelRef, TaskRef
from headrace_operator.views import parse_task, task_ref, task_view


async def observe(ref: TaskRef, ctx: Context) -> TaskSnapshot | None:
    """None: finished, and nothing of it is left in the bus.

    The bus is asked first: a runner commits before it completes, so an entry that is missing because its task
    finished is followed by an object that says so.
    """
    entry, senseless = None, False
    try:
        entry = await ctx.bus.inspect(bus_key(ref.model), ref.uid)
    except BusDenied:
        raise
    except BusError as error:
        if error.retryable:
            raise
        senseless = True
    now_ms = await ctx.clock.now_ms()
    held = held_of(entry, now_ms)
    view = ctx.store.task(ref.uid)
    if held is None and not senseless and view is not None and view.finished and not view.behind:
        ctx.memory.forget_task(ref)
        return None
    task = await _task(ref, ctx)
    may_share = ref.model.namespace in (ref.namespace, *ctx.settings.sharing_model_namespaces)
    model = await _living_model(ref.model, ctx) if task is not None and may_share else None
    if model is None and held is not None and ref.namespace != ref.model.namespace:
        # Without the model nobody can say whether it served this namespace: what its keys tell is not believed.
        held = replace(held, returned=None)
    named, targets = _fallback(ref, task, model, ctx)
    held, parked = await large_results.read(held, ref, task, ctx)
    return TaskSnapshot(
        ref=ref,
        now_ms=now_ms,
        task=task,
        model=model,
        misplaced=ref in ctx.memory.misplaced,
        admitted=may_share and (model is None or await namespaces.admitted_afresh(ref, ctx)),
        may_share=may_share,
        remote_allowed=ctx.grants.of(ref.namespace).remote_models,
        held=held,
        parked=parked,
        senseless=senseless,
        jitter=ctx.jitter(),
        cancel_asked_ms=ctx.memory.cancels_asked_ms.get(ref),
        refused_attempt=ctx.memory.refused_attempts.get(ref),
        named_model=named,
        targets=targets,
        model_replaced=ctx.memory.replaced(ref.model, now_ms),
    )


def named_by_entry(model: ModelRef, uid: str, namespace: str, name: str, ctx: Context) -> TaskRef:
    """The task that an entry of the model is about; whether there is such a task is seen by `observe`."""
    known = ctx.store.task(uid)
    if known is not None and known.ref.model == model:
        return known.ref
    if model.namespace not in ctx.settings.sharing_model_namespaces:
        # It serves no other namespace: what an entry names beyond stands in nobody else's line.
        namespace = model.namespace
    return TaskRef(namespace, name, uid, model)


async def _task(ref: TaskRef, ctx: Context) -> LLMTask | None:
    """The living object, if it is what the ref says: an entry in a model's keys speaks for that model's tasks alone."""
    if not await worth_asking(ref, ctx):
        return None
    body = ctx.memory.fresh.take(ctx.store.task(ref.uid))
    if body is None or not speaks_of(ref, body):
        body = await ctx.kube.get(TASKS, ref.namespace, ref.name)
        if body is None or not speaks_of(ref, body):
            ctx.store.drop_task(ref)
            if body is not None and body["metadata"]["uid"] == ref.uid and ctx.store.put_task(view := task_view(body)):
                # It fell back to another model, whose queue has it or is about to.
                ctx.tasks.add(view.ref)
            return None
        ctx.store.put_task(task_view(body))
    task = parse_task(body)
    return task if task.metadata.deletion_timestamp is None else None


def speaks_of(ref: TaskRef, body: Mapping[str, Any]) -> bool:
    """Whether the object is the ref's: same uid, namespace and name, and assigned to the model whose keys named it."""
    return task_ref(body) == ref


async def worth_asking(ref: TaskRef, ctx: Context) -> bool:
    """What a model's keys name lives in the model's namespace or in one that the model serves, under names that the
    API server takes. What an object told of itself needs no such judgement.
    """
    known = ctx.store.task(ref.uid)
    if known is not None and known.ref == ref:
        return True
    if not untrusted.dns_name(ref.name) or not untrusted.dns_name(ref.namespace):
        return False
    if ref.namespace == ref.model.namespace:
        return True
    return ctx.settings.serves(ref.namespace) and await namespaces.admitted_afresh(ref, ctx)


async def _living_model(ref: ModelRef, ctx: Context) -> LLMModel | None:
    """From the store; that it holds none is believed only after a look, because events may be behind. A namespace that
    is not watched has none.
    """
    if not ctx.settings.serves(ref.namespace):
        return None
    model = ctx.store.model(ref) or await namespaces.refresh(ref, ctx)
    return model if model is not None and model.metadata.deletion_timestamp is None else None


def _fallback(
    ref: TaskRef, task: LLMTask | None, model: LLMModel | None, ctx: Context
) -> tuple[LLMModel | None, list[Target]]:
    """The model that the task names, and those that it may fall back to: as events told, because a move ends nothing.
    Whoever is moved is handed out by what is read afresh.
    """
    if task is None:
        return None, []
    named_ref = task_status.named_model(task)
    named = model if named_ref == ref.model else _known_model(named_ref, ref.namespace, ctx)
    chain = fallback.chain_of(task, named)
    return named, [_target(each, ref.namespace, ctx) for each in chain.models]


def _target(model: ModelRef, namespace: str, ctx: Context) -> Target:
    found = _known_model(model, namespace, ctx)
    may_share = model.namespace in (namespace, *ctx.settings.sharing_model_namespaces)
    admitted = may_share and (found is None or namespaces.admitted(model, namespace, ctx))
    return Target(model, found, admitted)


def _known_model(model: ModelRef, namespace: str, ctx: Context) -> LLMModel | None:
    if model.namespace not in (namespace, *ctx.settings.sharing_model_namespaces):
        return None
    found = ctx.store.model(model)
    return found if found is not None and found.metadata.deletion_timestamp is None else None


def held_of(entry: Entry | None, now_ms: int) -> Held | None:
    """What the bus holds, with a runner's words and numbers made harmless."""
    if entry is None:
        return None
    came_back = entry.returned
    returned = None
    if came_back is not None:
        failure = came_back.failure
        returned = ReturnedDelivery(
            how=came_back.reason.value,
            worker=untrusted.dns_name(came_back.worker),
            claimed_ms=untrusted.milliseconds(came_back.claimed_ms, now_ms),
            returned_ms=untrusted.milliseconds(came_back.returned_ms, now_ms),
            reason=untrusted.reason(failure.reason) if failure is not None else "",
            message=untrusted.message(failure.message) if failure is not None else "",
            retryable=failure.retryable if failure is not None else True,
            spent=failure.spent if failure is not None else None,
        )
    since_ms = untrusted.milliseconds(entry.since_ms, now_ms)
    return Held(entry.attempt, Place(entry.state.value), since_ms, returned)
