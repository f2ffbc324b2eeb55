"""The only reads of a task's reconcile."""

from typing import Any, Final

from headrace_bus import Entry
from headrace_crds.model import LLMModel
from headrace_operator.context import Context, bus_key
from headrace_operator.decide.snapshots import Held, Place, ReturnedDelivery, TaskSnapshot
from headrace_operator.kube import MODELS, TASKS
from headrace_operator.refs import ModelRef, TaskRef
from headrace_operator.views import parse_model, parse_task, task_view

REPLACED_FOR_MS: Final = 60_000
"""So long an empty queue is put down to the model's replacement."""


async def observe(ref: TaskRef, ctx: Context) -> TaskSnapshot | None:
    """None: finished, and nothing of it is left in the bus.

    The bus is asked first: a runner commits before it completes, so an entry that is missing because its task
    finished is followed by an object that says so.
    """
    held = _held(await ctx.bus.inspect(bus_key(ref.model), ref.uid))
    view = ctx.store.task(ref.uid)
    if held is None and view is not None and view.finished:
        return None
    body = await ctx.kube.get(TASKS, ref.namespace, ref.name)
    task = None
    if body is not None and body["metadata"]["uid"] == ref.uid:
        ctx.store.put_task(task_view(body))
        task = parse_task(body)
        if task.metadata.deletion_timestamp is not None:
            task = None
    else:
        ctx.store.drop_task(ref)
    now_ms = await ctx.clock.now_ms()
    return TaskSnapshot(
        ref=ref,
        now_ms=now_ms,
        task=task,
        model=await _living_model(ref.model, ctx) if task is not None else None,
        held=held,
        jitter=ctx.jitter(),
        refused_attempt=ctx.memory.refused_attempts.get(ref.uid),
        model_replaced=now_ms - ctx.memory.replaced_ms.get(ref.model, -REPLACED_FOR_MS) < REPLACED_FOR_MS,
    )


async def _living_model(ref: ModelRef, ctx: Context) -> LLMModel | None:
    """From the store; that it holds none is believed only after a look, because events may be behind."""
    model = ctx.store.model(ref)
    if model is None:
        body: dict[str, Any] | None = await ctx.kube.get(MODELS, ref.namespace, ref.name)
        if body is None:
            return None
        model = parse_model(body)
        if ctx.store.put_model(ref, model):
            ctx.models.add(ref)
    return model if model.metadata.deletion_timestamp is None else None


def _held(entry: Entry | None) -> Held | None:
    if entry is None:
        return None
    came_back = entry.returned
    returned = None
    if came_back is not None:
        failure = came_back.failure
        returned = ReturnedDelivery(
            how=came_back.reason.value,
            worker=came_back.worker,
            claimed_ms=came_back.claimed_ms,
            returned_ms=came_back.returned_ms,
            reason=failure.reason if failure is not None else "",
            message=failure.message if failure is not None else "",
            retryable=failure.retryable if failure is not None else True,
        )
    return Held(entry.attempt, Place(entry.state.value), entry.since_ms, returned)
