"""Keeps the tasks of a namespace within its budgets: reserves before a hand-out, settles what ended, wakes who waits.

A namespace without budgets costs nothing here. The ledger is in Redis, what was spent stands in the LLMQuota's status
besides, and what is remembered here only saves work.
"""

import asyncio
import contextlib
from dataclasses import replace
from typing import Final

import structlog

from headrace_bus import PRIORITY_AGE_MS, BusError, Line, Totals
from headrace_crds.cost import Spend, may_take
from headrace_crds.outcome import timestamp
from headrace_crds.quota import Budget, BudgetStatus, LLMQuota
from headrace_crds.task import HANDED_OUT, LLMTask
from headrace_crds.work import resolve
from headrace_operator.budget_book import Room, Wait
from headrace_operator.context import Context
from headrace_operator.decide import budget, clocks, task_status, window
from headrace_operator.decide.plans import Enqueue, TaskPlan
from headrace_operator.decide.snapshots import TaskSnapshot
from headrace_operator.refs import TaskRef

SETTLE_SECONDS: Final = 0.25
"""Between two rounds: what ended within one frees its room at once."""
SWEEP_SECONDS: Final = 10.0
AFTER_DEADLINE_MS: Final = 900_000
"""After a task's deadline its last attempt may still be committing."""
SPREAD_SECONDS: Final = 5.0
"""Not everybody asks at the moment at which a window begins."""

_log = structlog.get_logger()


def lines(quota: LLMQuota, now_ms: int) -> list[Line]:
    """Each budget in its present window, with what the status tells of that window."""
    told = quota.status.budgets or [] if quota.status is not None else []
    found = []
    for each in quota.spec.budgets or []:
        start_ms, end_ms = budget.window_of(each.window, now_ms)
        same = [s for s in told if (s.window, s.currency) == (each.window, each.money)]
        kept = next((s for s in same if clocks.milliseconds(s.reset_time) == end_ms), None)
        line = Line(each.window.value, each.money, start_ms, tokens=each.tokens, micros=each.cost_micros)
        if kept is not None:
            line = replace(line, told_tokens=kept.tokens_spent, told_micros=kept.cost_micros_spent)
        found.append(line)
    return found


async def lines_of(namespace: str, ctx: Context) -> list[Line]:
    quota = ctx.grants.quotas.get(namespace)
    return [] if quota is None or not quota.spec.budgets else lines(quota, await ctx.clock.now_ms())


async def admit(plan: TaskPlan, s: TaskSnapshot, ctx: Context) -> TaskPlan:
    """The plan, when every budget has room for what it hands out, or that the task waits instead. What the attempt
    before it took is settled first. Raises BusError.
    """
    if not ctx.grants.of(s.ref.namespace).budgets:
        return plan
    try:
        return await _admit(plan, s, ctx)
    except BusError:
        ctx.window.let_go(s.ref)
        raise


def _ended(plan: TaskPlan, s: TaskSnapshot, ctx: Context) -> budget.Ended | None:
    """An entry in the keys of a model that the task is not assigned to says nothing of what it took: whoever has that
    model's password may have written it.
    """
    view = ctx.store.task(s.ref.uid)
    return None if s.task is None and view is not None and view.ref != s.ref else budget.ended(s, plan)


async def _admit(plan: TaskPlan, s: TaskSnapshot, ctx: Context) -> TaskPlan:
    over = _ended(plan, s, ctx)
    if over is not None and not over.held:
        await _settle(s.ref.namespace, s.ref.uid, over.attempt, over.spent, ctx)
    task = s.task
    if plan.enqueue is None or task is None or s.model is None:
        return plan
    found = await lines_of(s.ref.namespace, ctx)
    try:
        work = resolve(task, s.model, input_text=plan.enqueue.input_text)
    except ValueError:
        return plan  # `apply` tells what is wrong with it
    most, attempt = may_take(work), plan.enqueue.attempt
    ends_ms = _ends_ms(task, s.now_ms)
    full = await ctx.bus.budgets.reserve(
        s.ref.namespace, s.ref.uid, attempt, most, found, ends_ms=ends_ms, forced=_handed_out(task, plan.enqueue)
    )
    if full is None:
        ctx.budgets.reserved[s.ref.uid] = attempt
        ctx.budgets.enough(s.ref)
        return plan
    ctx.window.let_go(s.ref)
    ctx.budgets.waits[s.ref.namespace][s.ref.uid] = Wait(s.ref, most)
    exhausted = (ctx.grants.quotas[s.ref.namespace].spec.budgets or [])[full.line]
    _, reset_ms = budget.window_of(exhausted.window, s.now_ms)
    at = full.totals
    used = budget.Used(at.tokens_spent, at.micros_spent, at.tokens_reserved, at.micros_reserved)
    why = budget.exhausted(exhausted, used, most, s.ref.namespace, reset_ms)
    after_seconds = (reset_ms - s.now_ms) / 1000 + s.jitter * SPREAD_SECONDS
    return replace(window.held_back(plan, s, task, why), requeue_after_seconds=after_seconds)


async def carried_out(plan: TaskPlan, s: TaskSnapshot, ctx: Context) -> None:
    """The plan is written. An attempt that it took from its holder spent nobody knows what."""
    if not ctx.grants.of(s.ref.namespace).budgets:
        return
    over = _ended(plan, s, ctx)
    if over is not None and over.held:
        await _settle(s.ref.namespace, s.ref.uid, over.attempt, over.spent, ctx)


def _handed_out(task: LLMTask, wanted: Enqueue) -> bool:
    """The object says already that this attempt is handed out."""
    return window.holds_room(task) and task_status.attempt_of(task) == wanted.attempt


def _ends_ms(task: LLMTask, now_ms: int) -> int:
    end_ms = clocks.active_end_ms(task) or now_ms + task.spec.active_deadline_seconds * 1000
    return max(end_ms, now_ms) + AFTER_DEADLINE_MS


async def _settle(namespace: str, uid: str, attempt: int, spent: Spend | None, ctx: Context) -> None:
    found = await lines_of(namespace, ctx)
    await ctx.bus.budgets.settle(namespace, uid, attempt, spent, found)
    ctx.budgets.settled(namespace, uid, attempt)


async def run(ctx: Context) -> None:
    """Until cancelled."""
    swept = -SWEEP_SECONDS
    while True:
        ctx.budgets.changed.clear()
        try:
            await settle_ended(ctx)
            if ctx.monotonic() - swept >= SWEEP_SECONDS:
                swept = ctx.monotonic()
                await sweep(ctx)
            await wake_waiting(ctx)
        except BusError as error:
            _log.info("budgets are not settled", reason=error.reason)
        await asyncio.sleep(SETTLE_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, SWEEP_SECONDS + swept - ctx.monotonic())):
                await ctx.budgets.changed.wait()


async def settle_ended(ctx: Context) -> None:
    """What finished tasks took, as their objects tell. Raises BusError; what was not settled stays."""
    while ctx.budgets.ended:
        uid, (ref, attempt, spent) = next(iter(ctx.budgets.ended.items()))
        if ctx.grants.of(ref.namespace).budgets:
            await _settle(ref.namespace, uid, attempt, spent, ctx)
        ctx.budgets.ended.pop(uid, None)


async def sweep(ctx: Context) -> None:
    """Repairs what events missed: reservations of what ended, or was never handed out. Raises BusError."""
    budgeted = {namespace for namespace, quota in ctx.grants.quotas.items() if quota.spec.budgets}
    for namespace in ctx.budgets.kept - budgeted:
        await ctx.bus.budgets.forget(namespace)
    ctx.budgets.kept = budgeted
    suspects: dict[str, int] = {}
    for namespace in sorted(budgeted):
        for uid, attempt in (await ctx.bus.budgets.held(namespace)).items():
            view = ctx.store.task(uid)
            if view is not None and view.finished:
                await _settle(namespace, uid, attempt, view.spent or budget.NOTHING, ctx)
            elif view is not None and view.phase in HANDED_OUT and view.attempt == attempt:
                ctx.budgets.reserved[uid] = attempt
            elif ctx.budgets.suspects.get(uid) == attempt:
                # Twice in a row: nobody is about to hand it out. What is gone may have run before it went.
                await _settle(namespace, uid, attempt, None if view is None else budget.NOTHING, ctx)
            else:
                suspects[uid] = attempt
    ctx.budgets.suspects = suspects


async def wake_waiting(ctx: Context) -> None:
    """Those for whom there is room since something was settled, in the queue's order. Raises BusError."""
    while ctx.budgets.freed:
        namespace = ctx.budgets.freed.pop()
        waits, found = ctx.budgets.waits.get(namespace), await lines_of(namespace, ctx)
        if not waits or not found:
            continue
        try:
            totals = await ctx.bus.budgets.totals(namespace, found)
        except BusError:
            # Nothing else may ever free it again before the window ends.
            ctx.budgets.freed.add(namespace)
            raise
        room = [Room(line, told) for line, told in zip(found, totals, strict=True)]
        for wait in sorted(waits.values(), key=lambda each: _score(each.ref, ctx)):
            if all(each.fits(wait.most) for each in room):
                for each in room:
                    each.take(wait.most)
                ctx.tasks.add(wait.ref)


async def statuses(namespace: str, ctx: Context) -> list[BudgetStatus] | None:
    """What the LLMQuota's status says of its budgets; None where it has none. Raises BusError."""
    quota = ctx.grants.quotas.get(namespace)
    if quota is None or not quota.spec.budgets:
        return None
    now_ms = await ctx.clock.now_ms()
    told = await ctx.bus.budgets.totals(namespace, lines(quota, now_ms))
    return [_status(each, totals, now_ms) for each, totals in zip(quota.spec.budgets, told, strict=True)]


def _status(of: Budget, totals: Totals, now_ms: int) -> BudgetStatus:
    return BudgetStatus(
        window=of.window,
        currency=of.money,
        tokens_spent=totals.tokens_spent,
        cost_micros_spent=totals.micros_spent,
        tokens_reserved=totals.tokens_reserved,
        cost_micros_reserved=totals.micros_reserved,
        reset_time=timestamp(budget.window_of(of.window, now_ms)[1]),
    )


def changed(namespace: str, ctx: Context) -> None:
    """Other budgets: whoever waits for one asks again."""
    for wait in list(ctx.budgets.waits.get(namespace, {}).values()):
        ctx.tasks.add(wait.ref)


def _score(ref: TaskRef, ctx: Context) -> int:
    """As the queue has it."""
    view = ctx.store.task(ref.uid)
    if view is None:
        return 0
    return view.created_ms - ctx.grants.of(ref.namespace).clamped(view.priority) * PRIORITY_AGE_MS
