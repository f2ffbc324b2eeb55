"""The only writes of a task's reconcile: a large result, the entry back, status once, queue, event."""

from dataclasses import replace
from typing import Any, Final

import structlog
from pydantic import ValidationError

from headrace_bus import (
    BusOutOfMemory,
    EnqueueOutcome,
    EntryState,
    Envelope,
    Interruption,
    PayloadTooLarge,
    WorkClass,
    tracing,
)
from headrace_crds.dialogue import dialogue_texts
from headrace_crds.model import LLMModel
from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTask
from headrace_crds.work import Work, resolve
from headrace_operator import announce, budgets, large_results, traces
from headrace_operator.context import Context, bus_key
from headrace_operator.decide import clocks, fallback
from headrace_operator.decide.plans import Enqueue, TakeBack, TaskPlan
from headrace_operator.decide.snapshots import Place, TaskSnapshot
from headrace_operator.errors import KubeNotFound, WorkUnacceptable
from headrace_operator.kube import TASKS
from headrace_operator.refs import TaskRef
from headrace_operator.views import parse_task, task_view

EXPLAIN_LATER_SECONDS: Final = 30.0
_BYTES_PER_TOKEN: Final = 4

_log = structlog.get_logger()


async def apply(plan: TaskPlan, s: TaskSnapshot, ctx: Context) -> float | None:
    """Seconds after which to look again. Raises KubeConflict when the object changed since it was observed, and
    WorkUnacceptable for what no queue will take: then the status is written already.
    ResultUnwritable: nothing was done.
    """
    task = s.task
    explained = not plan.explains_only or plan.status is None or ctx.explanations.take(s.ref.model)
    if plan.create is not None:
        await large_results.create(plan.create, s, ctx)
    if plan.take_back is not None and not await _taken_back(plan.take_back, s, ctx):
        return 0.0
    if plan.enqueue is not None and plan.enqueue_first and task is not None and s.model is not None:
        await _moved(plan.enqueue, task, s.model, s.ref, ctx, fallback.hand_over(task, s.named_model))
    if plan.status is not None and task is not None and explained:
        try:
            with traces.writing(plan.status, task, ctx.tracing):
                body = await ctx.kube.patch_status(
                    TASKS, s.ref.namespace, s.ref.name, plan.status, resource_version=task.metadata.resource_version
                )
        except KubeNotFound:
            return 0.0
        view = task_view(body)
        ctx.store.put_task(view)
        if plan.move is not None:
            ctx.tasks.add(view.ref)
            ctx.metrics.fell_back(plan.move)
        task = parse_task(body)
        _log.info(
            plan.details,
            task=str(s.ref),
            attempt=plan.status.get("attempt") or (task.status.attempt if task.status else None),
            reason=plan.status.get("reason"),
        )
    await budgets.carried_out(plan, s, ctx)
    if plan.interrupt is not None and not await _interrupted(Interruption(plan.interrupt), s, ctx):
        return 0.0
    if plan.enqueue is not None and not plan.enqueue_first and task is not None and s.model is not None:
        await _enqueue(plan.enqueue, task, s.model, s.ref, ctx, fallback.hand_over(task, s.named_model))
    removed = not plan.remove or await _removed(s, ctx)
    if task is None or (task.status is not None and task.status.outcome is not None):
        ctx.memory.forget_task(s.ref)
    if plan.announcement is not None and task is not None:
        await announce.publish("LLMTask", task.metadata, plan.announcement, ctx)
    if not removed:
        return 0.0
    if plan.move is not None:
        # The other model's from here on.
        ctx.memory.forget_task(s.ref)
        return None
    due = [
        clocks.next_look_seconds(task, s.now_ms) if task is not None else None,
        plan.requeue_after_seconds,
        None if explained else EXPLAIN_LATER_SECONDS,
    ]
    return min((seconds for seconds in due if seconds is not None), default=None)


async def _taken_back(wanted: TakeBack, s: TaskSnapshot, ctx: Context) -> bool:
    """False: somebody began to work on it, or left a result, since it was looked at."""
    key = bus_key(s.ref.model)
    seen = EntryState.LEASED if wanted.from_holder else EntryState.RETURNED if wanted.came_back else None
    return await ctx.bus.withdraw(key, s.ref.uid, wanted.attempt, seen=seen)


async def _removed(s: TaskSnapshot, ctx: Context) -> bool:
    """False: what stands under the uid is not what was looked at. Whoever leads by now may have handed it out again."""
    key, held = bus_key(s.ref.model), s.held
    ctx.memory.refused_attempts.pop(s.ref, None)
    if held is not None:
        seen = EntryState(held.place) if held.place in (Place.LEASED, Place.RETURNED) else None
        if not await ctx.bus.withdraw(key, s.ref.uid, held.attempt, seen=seen):
            return False
    if held is None or s.task is None:
        # Nothing that could be told apart; or the object is gone, and with it goes what a withdrawal leaves.
        await ctx.bus.remove(key, s.ref.uid)
    return True


async def _interrupted(word: Interruption, s: TaskSnapshot, ctx: Context) -> bool:
    """False: nobody works on it any more."""
    if word is Interruption.CANCEL:
        ctx.memory.cancels_asked_ms.setdefault(s.ref, s.now_ms)
    return await ctx.bus.interrupt(bus_key(s.ref.model), s.ref.uid, word) is not None


async def _moved(
    wanted: Enqueue, task: LLMTask, model: LLMModel, about: TaskRef, ctx: Context, hand_over: list[str]
) -> None:
    """What is queued was acceptable when it was handed out: would it not be today, it takes its new place as it is."""
    if not wanted.as_it_is:
        try:
            await _enqueue(wanted, task, model, about, ctx, hand_over)
        except WorkUnacceptable as error:
            _log.warning("task keeps the work that it was queued with", task=str(about), reason=error.reason)
        else:
            return
    priority = ctx.grants.of(about.namespace).clamped(task.spec.priority)
    await ctx.bus.move(bus_key(about.model), _envelope(task, {}, wanted.attempt, priority, cost_tokens=0))
    ctx.memory.misplaced.discard(about)


async def _enqueue(
    wanted: Enqueue, task: LLMTask, model: LLMModel, about: TaskRef, ctx: Context, hand_over: list[str]
) -> None:
    ref, ends_ms = about.model, clocks.active_end_ms(task)
    try:
        work = resolve(task, model, input_text=wanted.input_text, deadline_ms=ends_ms, hand_over=hand_over)
        priority = ctx.grants.of(about.namespace).clamped(task.spec.priority)
        envelope = _envelope(task, work.dump(), wanted.attempt, priority, cost_tokens=_cost_tokens(work))
    except ValueError as error:
        raise WorkUnacceptable(Reason.INVALID_WORK, _places(error)) from None
    told = tracing.queued(str(ref), envelope.uid, envelope.namespace, envelope.attempt)
    try:
        if ref not in ctx.memory.registered:
            await ctx.bus.register(bus_key(ref))
            ctx.memory.registered.add(ref)
        with tracing.child("enqueue", tracing.Kind.PRODUCER, told):
            envelope = replace(envelope, traceparent=tracing.traceparent())
            outcome = await ctx.bus.enqueue(bus_key(ref), envelope, not_before_ms=wanted.not_before_ms)
    except PayloadTooLarge as error:
        raise WorkUnacceptable(Reason.INPUT_TOO_LARGE, f"{error}: shorten it") from None
    except BusOutOfMemory:
        ctx.memory.refused_attempts[about] = wanted.attempt
        raise
    ctx.memory.refused_attempts.pop(about, None)
    ctx.memory.misplaced.discard(about)
    if outcome is EnqueueOutcome.STALE:
        # It was completed, or a later attempt is there: the next look sees which.
        _log.info("enqueue came too late", task=f"{envelope.namespace}/{envelope.name}", attempt=wanted.attempt)


def _places(error: ValueError) -> str:
    """pydantic's text would quote the prompt."""
    if not isinstance(error, ValidationError):
        return str(error)
    places = {".".join(str(part) for part in each["loc"]) for each in error.errors(include_input=False)}
    return f"the task's parameters and the model's defaults do not fit together: {', '.join(sorted(places))}"


def _cost_tokens(work: Work) -> int:
    if work.embed:
        return sum(len(text.encode()) for text in work.embed) // _BYTES_PER_TOKEN
    input_bytes = sum(len(text.encode()) for text in dialogue_texts(work.messages, work.tools))
    if work.output is not None:
        input_bytes += sum(len(text) for text in work.output.texts())
    return input_bytes // _BYTES_PER_TOKEN + (work.parameters.max_tokens or 0)


def _envelope(task: LLMTask, payload: dict[str, Any], attempt: int, priority: int, *, cost_tokens: int) -> Envelope:
    return Envelope(
        uid=task.metadata.uid,
        kind=WorkClass.TASK,
        namespace=task.metadata.namespace,
        name=task.metadata.name,
        attempt=attempt,
        created_ms=clocks.milliseconds(task.metadata.creation_timestamp) or 0,
        priority=priority,
        cost_tokens=cost_tokens,
        payload=payload,
    )
